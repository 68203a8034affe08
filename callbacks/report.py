"""What became of a run, in one picklable object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from txm_stream.results import Result


@dataclass(frozen=True, eq=False)
class RunReport:
    """Outcome of one run.

    Attributes
    ----------
    status, reason
        ``"final"`` or ``"failed"``; why it failed, or why a final result is of an incomplete scan.
    frames_seen, frames_lost, frames_rejected
        Events with an image; frames that never reached the pipeline; frames that do not fit the scan (each with
        its reason).
    latency_s_median
        From an event's time to its row's commit in Tiled, in s; without Tiled to the moment the row was ready.
    restarts
        How often a worker died or hung over this run.
    results_path
        Where the results are below the Tiled root; ``None`` without a target.
    publish
        The publisher's own report.
    undelivered, scratch
        Whether results wait on disk, and then the folder that holds them.
    result
        The final result itself, where the worker is a thread (first position).
    """

    run_uid: str
    status: Literal["final", "failed"]
    reason: str = ""
    scan_id: int | None = None
    visits: int = 0
    frames_seen: int = 0
    frames_lost: tuple[str, ...] = ()
    frames_rejected: tuple[str, ...] = ()
    previews_skipped: int = 0
    latency_s_median: float = float("nan")
    restarts: int = 0
    results_path: str | None = None
    publish: Any = None
    undelivered: bool = False
    scratch: str | None = None
    result: Result | None = None
