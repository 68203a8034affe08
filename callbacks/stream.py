"""XanesStream: subscribe it to a RunEngine, and every XANES run is processed and published while it runs."""

from __future__ import annotations

import atexit
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from txm_stream.callbacks.feeder import Feeder
from txm_stream.callbacks.guarded_logger import guard_logger
from txm_stream.callbacks.handover import BufferPool, HandedOver, hand_over, lost_event
from txm_stream.callbacks.orders import DOCUMENT as ORDER
from txm_stream.callbacks.orders import Action, make_order
from txm_stream.callbacks.outlet import report_failure
from txm_stream.callbacks.pixels import PathMap
from txm_stream.callbacks.processor import RunProcessor
from txm_stream.callbacks.redelivery import delivered_later
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.run_log import RunLog
from txm_stream.callbacks.scratch import keep_results_only
from txm_stream.callbacks.supervisor import Supervisor
from txm_stream.callbacks.worker import Factory, ProcessWorker, ThreadWorker, Worker
from txm_stream.energies import Advice
from txm_stream.errors import BadOrderError
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

__all__ = ["RunReport", "XanesStream"]


class XanesStream:
    """A callback for ``RE.subscribe``: hand documents over to a worker that processes and publishes them.

    Parameters
    ----------
    profile
        Where the data are; default: the simulated beamline.
    tiled
        A Tiled client, or a ``TiledTarget``, to publish to; ``None``: keep the result (``results``, worker="thread").
    worker
        ``"process"``: on its own, replaced when it dies or hangs; ``"thread"``: in this one, for notebooks and tests.
    name
        Shown in log lines.
    path_map
        Prefixes ``(from, to)`` of external files that are mounted elsewhere here.
    stuck_s
        A worker that neither proceeds nor computes for so long is replaced.
    processor
        What processes a run on the worker (a picklable factory); for tests.
    successor_lock
        File descriptor of a lock held by whoever will begin open runs again if this process is killed. The worker
        process holds it, too, and then leaves open runs as they are, instead of finishing them.

    Notes
    -----
    On the RunEngine's thread a document is copied and queued, nothing else: it costs the memory traffic of
    its arrays, never waits and never raises. What a process that was killed left for the same Tiled container is
    finished while nothing is measured. With more than ``limits.queue_mb`` waiting in memory a frame is
    given up; the run is then ``failed`` and its reason names the frame.

    Examples
    --------
    >>> RE.subscribe(XanesStream(profile, tiled=client))  # doctest: +SKIP
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        tiled: Any = None,
        worker: Literal["process", "thread"] = "process",
        name: str = "txm-stream",
        path_map: PathMap = (),
        stuck_s: float | None = None,
        processor: Factory = RunProcessor,
        successor_lock: int | None = None,
    ) -> None:
        guard_logger()
        self.profile = profile or Profile()
        self.name = name
        self.reports: dict[str, RunReport] = {}
        self.results: dict[str, Any] = {}
        self._target = as_target(tiled, same_process=worker == "thread", access_tags=self.profile.tiled.access_tags)
        self._settings = (self.profile, self._target, processor, tuple(path_map))
        self._successor_lock = successor_lock
        self._kind = worker
        self._stuck_s = stuck_s if stuck_s is not None else 120.0 + 2 * self.profile.limits.server_patience_s
        self._changed = threading.Condition()
        self._put_bytes = 0
        self._room_bytes = self.profile.limits.queue_mb * 1_000_000
        self._started: list[str] = []
        self._advice: dict[str, Advice] = {}
        self._scan_of: dict[str, str] = {}
        self._closed = False
        self._pool = BufferPool()
        self._supervisor = Supervisor(
            self._launch,
            on_report=self._on_report,
            on_failure=self._on_failure,
            on_advice=self._on_advice,
            stuck_s=self._stuck_s,
        )
        place = "" if successor_lock is not None else getattr(self._target, "name", "")
        self._feeder = Feeder(self.profile, self._supervisor, self._pool, target=place, on_part=self._on_part)
        atexit.register(_close_at_exit, weakref.ref(self))

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Hand a document over: never waits, never raises."""
        try:
            if self._closed:
                return
            room = self._room_bytes - (self._put_bytes - self._feeder.taken_bytes)
            handed = hand_over(name, document, self._pool, room_bytes=room)
            if name == "start":
                self._started.append(str(document["uid"]))
            self._put_bytes += handed.nbytes
            self._feeder.queue.put(handed)
        except Exception as error:
            try:
                if name in ("event", "event_page"):
                    reason = f"{name} not handed over: {type(error).__name__}: {error}"
                    self._feeder.queue.put(HandedOver("lost", lost_event(document, reason), [], [], 0))
                logger.exception("%s: %s document not handed over", self.name, name)
            except Exception:  # a broken log handler is no reason to end a scan
                return

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until the worker has started (seconds, most of it imports); a scan need not wait for it.

        What comes before is kept and processed then; only its previews are late.
        """
        return self._supervisor.ready.wait(timeout)

    def wait(
        self, timeout: float | None = None, *, run_uid: str | None = None, delivered: bool = False
    ) -> RunReport | None:
        """Wait until a run (default: the last one begun) is processed and published; ``None`` when that takes longer.

        Parameters
        ----------
        timeout
            In s; ``None``: as long as it takes.
        delivered
            Wait also for results that are on disk because the server does not answer; they are offered to it again
            and again while no run goes on.
        """
        if run_uid is None:
            if not self._started:
                return None
            run_uid = self._started[-1]

        def done() -> bool:
            report = self.reports.get(run_uid)
            return report is not None and not (delivered and report.undelivered)

        with self._changed:
            self._changed.wait_for(done, timeout)
            return self.reports.get(run_uid) if done() else None

    def advice(
        self, after_seq: int, *, run_uid: str | None = None, timeout: float | None = None, judged: bool = False
    ) -> Advice | None:
        """Return advice for the next energy; waits until it knows visit ``after_seq``, no longer than ``timeout`` s.

        With ``judged`` the map with that visit must have been judged, too.

        Returns
        -------
        The newest advice, ``None`` where there is none at all; check its ``seq``: after the timeout it is an older one.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                uid = run_uid or (self._started[-1] if self._started else "")
                advice = self._advice.get(self._scan_of.get(uid, uid))
                if advice is not None and (advice.judged_seq if judged else advice.seq) >= after_seq:
                    return advice
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return advice
                self._changed.wait(left)

    def order(self, action: Action, *, run_uid: str | None = None, **about: Any) -> None:
        """Give an order about a run (default: the last one begun); the worker obeys, and it is kept with the results.

        Parameters
        ----------
        action, about
            ``"reject"`` or ``"accept"`` a ``visit`` (from 1); refit the mean spectrum of a ``region`` (y0, y1, x0, x1)
            in the final pass; ``"freeze"`` the advice, so that the planned list goes on, ``"measure"`` some
            ``energies_eV`` next, ``"release"`` the advice again. A ``reason`` is kept.

        Raises
        ------
        BadOrderError
            The order is not complete, no run has begun, or the run is over: then replay it with the order.
        """
        given = make_order(action=action, **about)
        uid = run_uid or (self._started[-1] if self._started else "")
        if not uid or uid in self.reports:
            raise BadOrderError(f"run {uid[:8]} is over: replay it with this order" if uid else "no run has begun")
        self._feeder.queue.put(HandedOver(ORDER, given.document(uid), [], [], 0))

    def close(self, timeout: float = 600.0) -> None:
        """Finish what was handed over, also runs without a stop document, then end the worker."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + timeout
        self._feeder.close(timeout)
        for uid in self._started:
            if self.wait(max(deadline - time.monotonic(), 0.0), run_uid=uid) is None:
                logger.warning("%s: run %s is left unfinished, its worker had no time", self.name, uid)
        self._supervisor.close()

    def __enter__(self) -> XanesStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- on other threads

    def _launch(self) -> Worker:
        if self._kind == "process":
            return ProcessWorker(self._settings, stuck_s=self._stuck_s, successor_lock=self._successor_lock)
        return ThreadWorker(self._settings, keep=self.results.__setitem__)

    def _on_advice(self, uid: str, advice: Advice) -> None:
        with self._changed:
            known = self._advice.get(uid)
            if known is None or advice.seq >= known.seq:  # a worker that begins again repeats what is known
                self._advice[uid] = advice
                self._changed.notify_all()

    def _on_part(self, run: RunLog, uid: str) -> None:
        """Take note of a further run of a scan; where the scan has its report already, it is this run's, too."""
        with self._changed:
            run.parts.append(uid)
            self._scan_of[uid] = run.uid
            if run.uid in self.reports:
                self.reports[uid] = self.reports[run.uid]
                self._changed.notify_all()

    def _on_report(self, run: RunLog, report: RunReport) -> None:
        if report.undelivered:
            report = replace(report, scratch=str(run.folder))
            keep_results_only(run.folder)
            if run.kind != "results":
                logger.warning("%s: results of run %s wait in %s", self.name, run.uid, run.folder)
        else:
            shutil.rmtree(run.folder, ignore_errors=True)
        self._feeder.redelivery.settle(run, report)
        if run.kind == "results" and run.uid in self.reports:
            report = delivered_later(self.reports[run.uid], report)
        report = replace(report, result=self.results.get(run.uid))
        with self._changed:
            self.reports |= dict.fromkeys((run.uid, *run.parts), report)
            self._advice.pop(run.uid, None)
            for uid in run.parts:
                self._scan_of.pop(uid, None)
            self._changed.notify_all()

    def _on_failure(self, run: RunLog, reason: str) -> RunReport:
        if run.kind == "results":
            return RunReport(run.uid, "failed", reason, undelivered=True)
        return report_failure(
            self._target, self.profile, run.start, run.folder, reason=reason, restarts=run.attempt - 1
        )


def as_target(tiled: Any, *, same_process: bool, access_tags: tuple[str, ...] = ()) -> Any:
    """Return a target for a Tiled client; targets and ``None`` are passed through. All get the access tags."""
    if tiled is None:
        return None
    from txm_stream.callbacks.tiled_target import InProcessClientError, LocalTarget, TiledTarget

    target = tiled
    if not hasattr(tiled, "connect"):
        try:
            target = TiledTarget.from_client(tiled)
        except InProcessClientError:
            if not same_process:
                raise
            target = LocalTarget(tiled)
    return replace(target, access_tags=access_tags) if access_tags else target


def _close_at_exit(reference: weakref.ref[XanesStream]) -> None:
    stream = reference()
    if stream is not None:
        stream.close()
