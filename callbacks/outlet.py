"""Where a position's results go: publisher and results tree behind one object that never raises."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from txm_stream.callbacks.batch import Batch
from txm_stream.callbacks.facts import EnergyReader, read_scan
from txm_stream.callbacks.publisher import Publisher, PublishReport
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.results_tree import ResultsTree
from txm_stream.frames import Scan
from txm_stream.profile import Profile
from txm_stream.results import Result, Snapshot, VisitMetrics, VisitUpdate

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("txm_stream")


class CountingPublisher(Publisher):
    """A publisher that counts what it was given, to be compared with ``delivered``."""

    published = 0

    def publish(self, batch: Batch) -> None:
        """Take a batch over; see :class:`Publisher`."""
        self.published += batch.count
        super().publish(batch)


class Outlet:
    """Publisher and results tree of one position of one run.

    ``latencies_s`` grows by one per visit when its row is in Tiled; ``undelivered`` is set by :meth:`close`.
    """

    def __init__(self, publisher: CountingPublisher, tree: ResultsTree) -> None:
        self.publisher = publisher
        self.tree = tree
        self.path = "/".join(tree.path)
        self.latencies_s: list[float] = []
        self.undelivered = False
        self._begun = False
        self._marks: queue.SimpleQueue[tuple[int, list[float]] | None] = queue.SimpleQueue()
        self._watch = threading.Thread(target=self._time_commits, daemon=True, name="txm-stream-latency")
        self._watch.start()

    @property
    def idle(self) -> bool:
        """Whether everything published so far is delivered."""
        return self.publisher.delivered >= self.publisher.published

    def frames(self, updates: Sequence[VisitUpdate]) -> None:
        """Publish new and better frames; they count with the next :meth:`visit`."""
        self._begin(())
        self._try("frames", lambda: self.tree.frames(updates))

    def visit(
        self,
        snapshot: Snapshot | None,
        rows: Sequence[VisitMetrics],
        *,
        since: Sequence[float] = (),
        advice: pd.DataFrame | None = None,
    ) -> None:
        """Publish a snapshot and the whole tables; latencies of new visits count from ``since``."""
        import pandas as pd

        table = pd.DataFrame([asdict(row) for row in rows], columns=list(VisitMetrics.columns()))
        self._begin(snapshot.states if snapshot is not None else ())
        self._try("visit", lambda: self.tree.visit(snapshot, table, advice=advice))
        self._marks.put((self.publisher.published, list(since)))

    def orders(self, orders: Sequence[dict[str, Any]]) -> None:
        """Publish what the operator ordered so far."""
        self._begin(())
        self._try("orders", lambda: self.tree.orders(orders))

    def runs(self, uids: Sequence[str]) -> None:
        """Publish which runs the scan consists of."""
        self._begin(())
        self._try("runs", lambda: self.tree.runs(uids))

    def note(self, words: str) -> None:
        """Publish what a live run is at."""
        self._begin(())
        self._try("note", lambda: self.tree.note(words))

    def finish(self, result: Result, *, status: str = "final", reason: str = "") -> None:
        """Publish the final result, and how complete it is."""
        self._begin(result.states)
        self._try("finish", lambda: self.tree.finish(result, status=status, reason=reason))

    def fail(self, reason: str) -> None:
        """Mark the run as failed, with the reason."""
        self._begin(())
        self._try("fail", lambda: self.tree.fail(reason))

    def close(self, timeout_s: float) -> PublishReport | None:
        """Deliver what is left; return the publisher's report."""
        report: PublishReport | None = self._try("close", lambda: self.publisher.close(timeout_s))
        self.undelivered = report is None or not report.complete
        self._marks.put(None)
        self._watch.join(1.0)
        return report

    def _time_commits(self) -> None:
        while (mark := self._marks.get()) is not None:
            while self.publisher.delivered < mark[0]:
                time.sleep(0.01)
                if self.undelivered:
                    return
            self.latencies_s.extend(max(time.time() - since, 0.0) for since in mark[1])

    def _begin(self, states: Sequence[str]) -> None:
        if not self._begun:
            self._begun = True
            self._try("begin", lambda: self.tree.begin(tuple(states)))

    def _try(self, what: str, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception:
            logger.exception("results of %s: %s did not work", self.path, what)
            return None


def open_outlet(
    target: Any, profile: Profile, scan: Scan, spool: Path, *, position: int | None = None, replay: bool = False
) -> Outlet | None:
    """Return the outlet of a run, ``None`` where there is no target."""
    if target is None:
        return None
    limits = profile.limits
    publisher = CountingPublisher(
        target, spool_dir=spool, memory_mb=limits.queue_mb, patience_s=limits.server_patience_s
    )
    return Outlet(publisher, ResultsTree(publisher, profile, scan, position=position, replay=replay))


def report_failure(
    target: Any, profile: Profile, start: dict[str, Any], folder: Path, *, reason: str, restarts: int
) -> RunReport:
    """Say in Tiled, where it can be reached, that a run could not be processed; return the run's report."""
    scan = read_scan(start, EnergyReader(profile.documents))
    outlet: Outlet | None = None
    try:
        outlet = open_outlet(target, profile, scan, folder / "failure")
    except Exception:
        logger.exception("run %s: its failure is not published", scan.uid)
    publish = None
    if outlet is not None:
        outlet.fail(reason)
        publish = outlet.close(profile.limits.server_patience_s)
    return RunReport(
        run_uid=scan.uid,
        scan_id=scan.scan_id,
        status="failed",
        reason=reason,
        restarts=restarts,
        results_path=outlet.path if outlet is not None else None,
        publish=publish,
        undelivered=outlet is not None and outlet.undelivered,
    )
