"""One fault, injected into one scan at one moment, and what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bluesky import RunEngine

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.report import RunReport
from txm_stream.simulated_devices import SimulatedTXM

if TYPE_CHECKING:
    from fault_bench import Bench

Documents = list[tuple[str, dict[str, Any]]]
Moment = Literal["early", "middle", "late", "final"]
EVENTS: dict[str, int] = {"early": 4, "middle": 8, "late": 16, "final": 0}
"""Number of the event at which a fault comes (dark, then sample and flat in turn); 0: with the stop document."""


def nothing(case: Case) -> None:
    """Do nothing."""


def unchanged(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """Pass a document on as it is."""
    return [(name, document)]


def one_scan(case: Case) -> None:
    """Run the plan to its end."""
    case.engine(case.plan())


@dataclass(frozen=True)
class Fault:
    """A fault: how it is injected, and what must come of it.

    Attributes
    ----------
    prepare, act, undo
        Before the scan; at the moment, on the RunEngine's thread; after the plan.
    change
        ``(case, name, document, hit)`` → what the stream gets instead of a document of the RunEngine.
    scan
        Runs the plan, where it does not simply end.
    frames
        The frames that can be in the result, as documents; default: those of the reference run. The result must equal
        the one that these give in quiet.
    status, reason, warning
        What the report and the result's warnings must say (regular expressions).
    lost
        Number of frames that the report must name as lost; ``None``: some.
    restarts
        Workers that may be used up.
    waits
        Whether the result waits on disk first, for the stream to deliver it once it can; ``None``: perhaps.
    alike
        A frame itself is damaged: the map only resembles the reference (rms difference of abundances).
    target, options
        "direct" or "proxy"; options of the stream (shared by faults with the same ones).
    moments, size
        When it may come, the first in the runs that are not a soak; "slow" faults are left to `.ci/run`.
    """

    name: str
    prepare: Callable[[Case], None] = nothing
    act: Callable[[Case], None] = nothing
    undo: Callable[[Case], None] = nothing
    change: Callable[[Case, str, dict[str, Any], bool], Documents] = unchanged
    scan: Callable[[Case], None] = one_scan
    frames: Callable[[Case], Documents] | None = None
    status: str = "final"
    reason: str = ""
    warning: str = ""
    lost: int | None = 0
    restarts: int = 0
    waits: bool | None = False
    alike: float = 0.0
    target: Literal["direct", "proxy"] = "direct"
    options: tuple[tuple[str, Any], ...] = ()
    own_stream: bool = False
    moments: tuple[Moment, ...] = ("middle", "early", "late", "final")
    size: Literal["normal", "slow"] = "normal"
    txm: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)


class Case:
    """A fault at a moment; also the callback that the RunEngine calls in place of the stream."""

    def __init__(self, fault: Fault, moment: Moment, bench: Bench, engine: RunEngine, tmp: Path, *, soak: bool) -> None:
        self.fault, self.moment, self.bench, self.engine, self.tmp, self.soak = fault, moment, bench, engine, tmp, soak
        self.at = EVENTS[moment]
        self.md: dict[str, Any] = {}
        self.documents: Documents = []
        self.handed: Documents = []
        self.worked_s = self.longest_s = 0.0
        self.events = 0
        self.kept: dict[str, Any] = {}
        self.timers: list[threading.Timer] = []
        self.duration_s = 0.0
        self.report: RunReport | None = None
        self.delivered_later = False
        self.txm: SimulatedTXM = bench.txm(**{"directory": tmp / "camera", **fault.txm})
        self.stream: XanesStream = bench.stream(fault.target, fault.options, own=fault.own_stream)

    @property
    def uid(self) -> str:
        """The run."""
        return str(self.documents[0][1]["uid"])

    @property
    def visit(self) -> int:
        """Number, from 1, of the visit that a fault concerns."""
        return (self.at or EVENTS["late"]) // 2

    def plan(self) -> Any:
        """Return the scan."""
        return xanes_scan(self.txm, self.bench.energies, md=self.md, **self.fault.plan)

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Do something after a while, at the latest when the case ends."""
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        self.timers.append(timer)
        timer.start()

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self.documents.append((name, document))
        self.events += name == "event"
        hit = name == ("event" if self.at else "stop") and (not self.at or self.events == self.at)
        for entry in self.fault.change(self, name, document, hit):
            self.handed.append(entry)
            began, worked = time.perf_counter(), time.thread_time()
            self.stream(*entry)
            self.worked_s += time.thread_time() - worked
            self.longest_s = max(self.longest_s, time.perf_counter() - began)
        if hit:
            self.fault.act(self)

    def run(self) -> RunReport | None:
        """Scan with the fault, and wait for what becomes of it."""
        self.fault.prepare(self)
        token = self.engine.subscribe(self)
        began = time.perf_counter()
        try:
            self.fault.scan(self)
        finally:
            self.duration_s = time.perf_counter() - began
            self.engine.unsubscribe(token)
            self.fault.undo(self)
        if self.fault.own_stream:
            self.stream.close(240)
        self.report = self.stream.wait(240, run_uid=self.uid)
        self.delivered_later = self.report is not None and self.report.undelivered
        if self.delivered_later:
            self.report = self.stream.wait(240, run_uid=self.uid, delivered=True)
        for timer in self.timers:
            timer.join(240)
        return self.report

    @property
    def delay(self) -> float:
        """Share of the plan's time that the stream computes on its thread; a busy machine does not change that."""
        return self.worked_s / self.duration_s
