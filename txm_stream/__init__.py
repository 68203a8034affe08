"""txm-stream: live chemical maps with calibrated uncertainty for TXM-XANES scans.

The names below are the public Python interface; they are loaded on first use, so that
``import txm_stream`` stays fast and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txm_stream.pipeline import Pipeline as Pipeline
    from txm_stream.profile import Profile as Profile

__version__ = "0.1.0"

_WHERE = {
    "Pipeline": "txm_stream.pipeline",
    "Profile": "txm_stream.profile",
    "Frame": "txm_stream.frames",
    "Snapshot": "txm_stream.results",
    "Result": "txm_stream.results",
    "optical_density": "txm_stream.optical_density",
    "align_stack": "txm_stream.alignment",
    "denoise_stack": "txm_stream.subspace",
    "unmix_stack": "txm_stream.unmixing",
    "edge50_map": "txm_stream.unmixing",
    "select_energies": "txm_stream.energies",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'txm_stream' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
