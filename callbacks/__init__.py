"""Bluesky and Tiled around the pipeline; no numerics in here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "txm_stream.callbacks":
    raise ImportError(
        "import this package as txm_stream.callbacks, not by its bare name: a second copy of every class would exist"
    )

if TYPE_CHECKING:
    from txm_stream.callbacks.adaptive_plan import adaptive_xanes as adaptive_xanes
    from txm_stream.callbacks.advisor import EnergyAdvisor as EnergyAdvisor
    from txm_stream.callbacks.sources import replay as replay
    from txm_stream.callbacks.stream import XanesStream as XanesStream

_WHERE = {
    "EnergyAdvisor": "txm_stream.callbacks.advisor",
    "XanesStream": "txm_stream.callbacks.stream",
    "adaptive_xanes": "txm_stream.callbacks.adaptive_plan",
    "replay": "txm_stream.callbacks.sources",
}
__all__ = ["EnergyAdvisor", "XanesStream", "adaptive_xanes", "replay"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'txm_stream.callbacks' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
