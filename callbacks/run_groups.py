"""One run per energy, as in 3-D XANES: the runs of one scan become one run, before anything else sees them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from txm_stream.callbacks.facts import EnergyReader, group_key
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

Entry = tuple[str, Mapping[str, Any]]
_UNENDED = 12.0
"""A run without a stop document keeps its scan open for so many times the patience."""


@dataclass(eq=False)
class _Scan:
    """A scan of several runs, known by the uid of its first one.

    ``key`` names it; ``first``: the first energy, as its plan names it; ``done``: energies whose runs went well;
    ``last_at``: time of its newest start or stop document.
    """

    uid: str
    key: str
    first: str
    planned: int
    touched_at: float
    last_at: float = 0.0
    runs: dict[str, str] = field(default_factory=dict)
    measuring: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    last_stop: Mapping[str, Any] = field(default_factory=dict)
    closing: bool = False

    @property
    def complete(self) -> bool:
        return not self.measuring and (self.closing or 0 < self.planned <= len(self.done))


class RunGroups:
    """Turn the documents of runs that are energies of one scan into the documents of one run.

    Parameters
    ----------
    profile
        ``profile.group`` says which runs belong together; without plans in it every document passes as it is.
    clock
        Seconds that only grow.

    Notes
    -----
    The first run's start document is that of the scan. A later one becomes the document "part" (``run_start``: the
    scan's uid, ``uid``, ``start``), its stop document "part_stop"; its descriptors and resources get the scan's uid as
    their ``run_start``, and descriptors the uid of their own run as ``part``. The scan's own stop document comes when
    ``num_eng`` energies are done, another scan of these plans begins, or :meth:`overdue` finds that no run followed. A
    second run at the first energy, and one that begins later than ``group.patience_s``, begin another scan. A run
    whose stop document was lost is over when the next one begins.
    """

    def __init__(self, profile: Profile, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.group = profile.group
        self._energies = EnergyReader(profile.documents)
        self._clock = clock
        self._open: _Scan | None = None
        self._scans: dict[str, _Scan] = {}

    def __call__(self, name: str, document: Mapping[str, Any]) -> list[Entry]:
        """Take a document of any run; return the documents that stand for it, of the runs that others are to see."""
        if name == "start":
            return self._start(document)
        scan = self._scans.get(str(document.get("run_start")))
        if scan is None:
            return [(name, document)]
        part = str(document["run_start"])
        renamed = {**document, "run_start": scan.uid}
        if name == "descriptor":
            return [(name, renamed | {"part": part})]
        if name != "stop":
            return [(name, renamed)]
        scan.measuring.discard(part)
        scan.touched_at, scan.last_at = self._clock(), _number(document.get("time"), scan.last_at)
        scan.last_stop = document
        if document.get("exit_status") == "success":
            scan.done.add(scan.runs[part])
        return [("part_stop", renamed | {"part": part}), *self._ended(scan)]

    def overdue(self) -> list[Entry]:
        """Return the stop document of a scan that no further run came to for ``group.patience_s``."""
        scan = self._open
        if scan is None:
            return []
        patience_s = self.group.patience_s * (_UNENDED if scan.measuring else 1.0)
        return self._close() if self._clock() - scan.touched_at >= patience_s else []

    def close(self) -> list[Entry]:
        """Return the stop document of the open scan, unless one of its runs is still open."""
        return [] if self._open is None or self._open.measuring else self._close()

    def _close(self) -> list[Entry]:
        scan, self._open = self._open, None
        if scan is None:
            return []
        scan.closing = True
        scan.measuring.clear()
        return self._ended(scan)

    def _start(self, start: Mapping[str, Any]) -> list[Entry]:
        named, uid = group_key(self.group, start), str(start["uid"])
        if named is None:
            return [("start", start)]
        if uid in self._scans:  # it came again
            return [("start", start)] if uid == self._scans[uid].uid else []
        ended: list[Entry] = []
        key, energy = named
        energy = energy or f"{self._energies.energy_eV({}, start) or 0:.1f}"
        scan, at = self._open, _number(start.get("time"), 0.0)
        late = scan is not None and at - scan.last_at > self.group.patience_s
        if scan is None or late or scan.key != key or energy == scan.first:
            planned = self._planned(start)
            ended = self._close()
            scan = self._open = _Scan(uid, key, energy, planned, self._clock())
        self._scans[uid] = scan
        scan.runs[uid] = energy
        scan.measuring = {uid}
        scan.touched_at, scan.last_at = self._clock(), at
        if len(scan.runs) == 1:
            return [*ended, ("start", start)]
        logger.info("run %s is energy %d of the scan that began with run %s", uid[:8], len(scan.runs), scan.uid[:8])
        return [("part", {"run_start": scan.uid, "uid": uid, "start": dict(start)})]

    def _planned(self, start: Mapping[str, Any]) -> int:
        """Return how many energies the scan has, 0 where its plan does not say (a run may count its own one)."""
        count = start.get("num_eng")
        if not isinstance(count, int):
            try:
                count = len(self._energies.energies_eV(start))
            except Exception:  # malformed
                count = 0
        return count if count > 1 else 0

    def _ended(self, scan: _Scan) -> list[Entry]:
        """Return the stop document of a scan that is complete, and forget it: its last run says how it ended."""
        if not scan.complete:
            return []
        if self._open is scan:
            self._open = None
        for uid in scan.runs:
            del self._scans[uid]
        last = {key: scan.last_stop[key] for key in ("exit_status", "reason", "time") if key in scan.last_stop}
        return [("stop", last | {"uid": str(uuid.uuid4()), "run_start": scan.uid})]


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default
