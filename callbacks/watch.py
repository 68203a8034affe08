"""A watch: the documents of a source, run by run, through the same XanesStream that a RunEngine would feed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from txm_stream.callbacks.facts import group_key
from txm_stream.callbacks.gaps import GapFiller
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.stream import XanesStream
from txm_stream.callbacks.watch_folder import WatchFolder
from txm_stream.callbacks.xanes_runs import XanesRuns
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_LOOK_EVERY_S = 0.2
_FINISHED = ("final", "failed")


class Source(Protocol):
    """Where documents come from."""

    def follow(self, take: Callable[[str, dict[str, Any]], None], ended: threading.Event) -> None:
        """Hand every document to ``take`` as it comes, until ``ended`` is set; may raise."""


class Watch:
    """Process every XANES run of a source; a context manager.

    Parameters
    ----------
    target
        Tiled client of the container that results go to.
    profile
        Where the data are.
    folder
        What is kept for a restart.
    find
        ``find(run uid)`` → a run in Tiled, from which what the source lost is fetched; see :class:`GapFiller`.

    Attributes
    ----------
    on_settled
        Called with the uid of a run that need not come again.
    reports, cut
        Of the runs that are done, in their order; of those that were open at the end.

    Notes
    -----
    A run whose results are finished in the target is not done again, unless they were finished without its stop
    document. Nothing that documents contain ends a watch: what goes wrong is logged.
    """

    def __init__(
        self,
        target: Any,
        profile: Profile,
        folder: WatchFolder,
        *,
        find: Callable[[str], Any] | None = None,
    ) -> None:
        self.target = target
        self.profile = profile
        self.folder = folder
        self.on_settled: Callable[[str], None] = lambda uid: None
        self.reports: list[RunReport] = []
        self.cut: list[RunReport] = []
        self.stream = XanesStream(
            profile.model_copy(update={"scratch_dir": folder.scratch}),
            tiled=target,
            name="watch",
            successor_lock=folder.lock,
        )
        self._starts: dict[str, Mapping[str, Any]] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}  # done, but not delivered
        self._stopped: set[str] = set()
        self._repeating = False
        self._runs = XanesRuns(
            profile, wanted=self.wanted, pass_on=self._pass_on, leave_out=lambda uid: self.on_settled(uid)
        )
        self._filler = GapFiller(profile, self._runs, find=find, ignored=self.is_done)
        self._lock = threading.RLock()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wanted(self, start: Mapping[str, Any]) -> bool:
        """Whether a run is to be processed: not where it is done, or being done."""
        uid = str(start["uid"])
        with self._lock:
            if uid in self._starts:
                return False
            if not self.is_done(uid):
                return True
            logger.info("run %s is done already", uid[:8])
            self._settle(uid, start)
            return False

    def is_interesting(self, uid: str) -> bool:
        """Whether more documents of a run that was begun are of use."""
        return self._runs.is_interesting(uid)

    def is_done(self, uid: str) -> bool:
        """Whether the target has the finished results of a run."""
        if uid in self.folder.parts or any(report.run_uid == uid for report in self.reports):
            return True
        if uid in self.folder.cut:
            return False
        try:
            node = self.target[(*self.profile.results_path, uid)]
            states = [node.metadata.get("status")]
            if states == [None]:
                states = [child.metadata.get("status") for key, child in node.items() if key.startswith("position_")]
        except KeyError:
            return False
        except Exception as error:
            logger.warning("run %s: whether it is done cannot be seen: %s", uid[:8], error)
            return False
        return bool(states) and all(state in _FINISHED for state in states)

    def take(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document from the source; never raises."""
        try:
            with self._lock:
                self._filler(name, document)
        except Exception:
            logger.exception("%s document not taken", name)

    def resume(self) -> None:
        """Take up the runs whose documents were kept."""
        for uid in self.folder.resumed if self.folder.keep_documents else ():
            if self.is_done(uid):
                self.folder.settle(uid, self.folder.since)
                continue
            logger.info("run %s is taken up again", uid[:8])
            self._repeating = True
            for name, document in self.folder.kept(uid):
                self.take(name, document)
            self._repeating = False
            if uid not in self._starts:
                self.folder.settle(uid, self.folder.since)

    def follow(self, source: Source, ended: threading.Event, *, most_runs: int | None = None) -> None:
        """Follow a source until ``ended`` is set, or until ``most_runs`` runs are done.

        Raises
        ------
        Exception
            Whatever ended the source, after the runs were closed.
        """
        problems: list[BaseException] = []

        def read() -> None:
            try:
                source.follow(self.take, ended)
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=read, daemon=True, name="txm-stream-source")
        thread.start()
        while thread.is_alive() and not ended.wait(_LOOK_EVERY_S):
            self._collect()
            if most_runs is not None and len(self.reports) >= most_runs:
                ended.set()
        thread.join(10.0)
        if problems:
            raise problems[0]

    def close(self) -> None:
        """Finish open runs as far as their documents go, and collect all reports; once is enough."""
        with self._lock:
            unfinished = [uid for uid, start in self._starts.items() if self._is_open(uid, start)]
            self.folder.cut_short(unfinished)
        self.stream.close()
        self._collect(closing=True)

    # -- documents

    def _pass_on(self, uids: list[str], name: str, document: Mapping[str, Any]) -> None:
        for uid in uids:
            if name == "start":
                self._starts[uid] = document
                self.folder.begin(document)
            if not self._repeating:
                self.folder.keep(uid, name, document)
            if name == "stop":
                self._stopped.add(uid)
        self.stream(name, document)

    # -- reports

    def _collect(self, *, closing: bool = False) -> None:
        """Settle the runs whose reports came; a run that was closed before its stop document stays open."""
        with self._lock:
            done = [uid for uid in self._starts if uid in self.stream.reports]
            if not closing:
                parts = {uid: _time(self._starts[uid]) for uid in done if uid != self.stream.reports[uid].run_uid}
                if parts:
                    self.folder.settle_parts(parts)
            for uid in done:
                start, report = self._starts.pop(uid), self.stream.reports[uid]
                is_part = uid != report.run_uid  # the scan is told once
                if not is_part:
                    _tell(report)
                if closing and self._is_open(uid, start):
                    self.cut += [] if is_part else [report]
                    continue
                self.reports += [] if is_part else [report]
                self._waiting[uid] = start
            for uid in list(self._waiting):
                if not self.stream.reports[uid].undelivered:
                    self._settle(uid, self._waiting.pop(uid))

    def _is_open(self, uid: str, start: Mapping[str, Any]) -> bool:
        """Whether more may come of a run without a report, or of the scan that it is an energy of."""
        return uid not in self._stopped or group_key(self.profile.group, start) is not None

    def _settle(self, uid: str, start: Mapping[str, Any]) -> None:
        self.folder.settle(uid, _time(start))
        self.on_settled(uid)


def _time(start: Mapping[str, Any]) -> float:
    return float(start.get("time", time.time()))


def _tell(report: RunReport) -> None:
    scan = "" if report.scan_id is None else f" (scan {report.scan_id})"
    lost = f", {len(report.frames_lost)} frames lost" if report.frames_lost else ""
    reason = f": {report.reason}" if report.reason else ""
    where = f"; results in {report.results_path}" if report.results_path else ""
    text = f"run {report.run_uid[:8]}{scan} {report.status}, {report.visits} energies{lost}{reason}{where}"
    logger.log(logging.INFO if report.status == "final" else logging.WARNING, "%s", text)
