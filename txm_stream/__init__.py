"""txm-stream: live chemical maps with calibrated uncertainty for TXM-XANES scans.

The names below are the public Python interface; they are loaded on first use, so that ``import txm_stream`` stays fast
and needs no torch. Only :func:`optical_density` is loaded at once: a submodule has the same name, and would replace the
function as an attribute of the package whenever it was imported first.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from txm_stream.optical_density import optical_density

if TYPE_CHECKING:
    from txm_stream.alignment import align_stack as align_stack
    from txm_stream.energies import select_energies as select_energies
    from txm_stream.frames import Frame as Frame
    from txm_stream.pipeline import Pipeline as Pipeline
    from txm_stream.process import process_file as process_file
    from txm_stream.profile import Profile as Profile
    from txm_stream.results import Result as Result
    from txm_stream.results import Snapshot as Snapshot
    from txm_stream.subspace import denoise_counts as denoise_counts
    from txm_stream.subspace import denoise_stack as denoise_stack
    from txm_stream.unmixing import edge50_map as edge50_map
    from txm_stream.unmixing import unmix_stack as unmix_stack

# Acquisition comes first: idle numerical threads must sleep, not spin; on a busy machine that is also 4 times faster.
# It takes effect where torch is loaded after this package.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_WHERE = {
    "Pipeline": "txm_stream.pipeline",
    "Profile": "txm_stream.profile",
    "Frame": "txm_stream.frames",
    "Snapshot": "txm_stream.results",
    "Result": "txm_stream.results",
    "align_stack": "txm_stream.alignment",
    "denoise_counts": "txm_stream.subspace",
    "denoise_stack": "txm_stream.subspace",
    "unmix_stack": "txm_stream.unmixing",
    "edge50_map": "txm_stream.unmixing",
    "select_energies": "txm_stream.energies",
    "process_file": "txm_stream.process",
}
__all__ = ["__version__", "optical_density", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'txm_stream' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
