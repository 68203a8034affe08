"""Results that their server did not take: offered again as long as the stream lives, while nothing is measured."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from txm_stream.callbacks.publisher import PublishReport
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.run_log import RunLog
from txm_stream.callbacks.scratch import Hold, LeftRun

logger = logging.getLogger("txm_stream")

_FIRST_S = 5.0
_LONGEST_S = 300.0


@dataclass
class _Waiting:
    folder: Path
    parts: list[str]
    pause_s: float
    due: float
    offered: bool = False


class Redelivery:
    """The runs whose results wait on disk, and when to offer them to the server again.

    The first time after 5 s, then after twice as long each time, at most after 5 min.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()

    def settle(self, run: RunLog, report: RunReport) -> None:
        """Note what became of a run's results: they are delivered, or wait (again)."""
        with self._lock:
            earlier = self._waiting.pop(run.uid, None)
            if report.undelivered and not _hopeless(report.publish):
                pause_s = _FIRST_S if earlier is None else min(2 * earlier.pause_s, _LONGEST_S)
                self._waiting[run.uid] = _Waiting(run.folder, run.parts, pause_s, time.monotonic() + pause_s)

    def due(self) -> list[RunLog]:
        """Take what is to be offered now; it is due again some time after it is settled."""
        now = time.monotonic()
        offers = []
        with self._lock:
            for uid, waiting in list(self._waiting.items()):
                if waiting.offered or now < waiting.due:
                    continue
                hold = Hold(waiting.folder)
                if not waiting.folder.exists():  # another process had more luck
                    del self._waiting[uid]
                elif hold.take_over():
                    waiting.offered = True
                    run = RunLog.of_left(LeftRun(waiting.folder, hold))
                    offers.append(replace(run, uid=uid, parts=waiting.parts))
                    continue
                hold.release()
        return offers


def delivered_later(first: RunReport, later: RunReport) -> RunReport:
    """Return a run's report with what became of its results since."""
    before, since = first.publish or PublishReport(), later.publish or PublishReport()
    publish = PublishReport(
        before.delivered + since.delivered, since.spooled, before.dropped + since.dropped, since.errors
    )
    return replace(first, publish=publish, undelivered=later.undelivered, scratch=later.scratch)


def _hopeless(publish: PublishReport | None) -> bool:
    """Whether nothing is left but damaged files."""
    return publish is not None and publish.dropped > 0 and not publish.spooled
