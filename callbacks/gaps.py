"""Documents that were lost on the way: noticed by the numbers of the events, fetched from Tiled where it has them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from txm_stream.callbacks.stored import StoredRun, Wanted
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

Document = Mapping[str, Any]
PassOn = Callable[[str, Document], None]

_GAP_PATIENCE_S = 5.0
_STOP_PATIENCE_S = 30.0


@dataclass(eq=False)
class _Run:
    uid: str
    begun: bool = True
    descriptors: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)
    announced: dict[str, set[int]] = field(default_factory=dict)
    sought: dict[str, set[int]] = field(default_factory=dict)


class GapFiller:
    """Stands between a source that may lose documents and whoever takes them.

    Parameters
    ----------
    profile
        Which streams hold frames.
    pass_on
        Takes the documents, what was fetched in its place.
    find
        ``find(run uid)`` → the run in Tiled, a fresh client, or ``None``; without it gaps are only noticed.
    ignored
        Whether a run whose start was missed is of no interest.

    Notes
    -----
    A gap is waited for up to 5 s, and again up to 30 s at the end of the run: Tiled's writer may be behind. What
    cannot be fetched becomes a lost frame of its run.
    """

    def __init__(
        self,
        profile: Profile,
        pass_on: PassOn,
        *,
        find: Callable[[str], Any] | None = None,
        ignored: Callable[[str], bool] = lambda uid: False,
    ) -> None:
        documents = profile.documents
        self.profile = profile
        self.pass_on = pass_on
        self.find = find
        self.ignored = ignored
        self._names = (documents.primary, documents.flat, documents.dark)
        self._runs: dict[str, _Run] = {}
        self._missed: set[str] = set()

    def __call__(self, name: str, document: Document) -> None:
        """Take a document; what is missing before it goes first."""
        if name == "start":
            self._runs[str(document["uid"])] = _Run(str(document["uid"]))
        elif name == "descriptor":
            run = self._run(str(document["run_start"]))
            if run is not None:
                run.descriptors[str(document["uid"])] = str(document["name"])
        elif name in ("event", "event_page"):
            self._before_event(document)
        elif name == "stream_datum":
            self._note_announced(document)
        elif name == "stop":
            self._before_stop(document)
        self.pass_on(name, document)

    # -- what is missing

    def _run(self, uid: str) -> _Run | None:
        """Return a run; one whose start was missed is fetched, or left out with a warning."""
        if uid in self._runs:
            return self._runs[uid]
        if uid in self._missed or self.ignored(uid):
            return None
        run = _Run(uid, begun=False)
        if self.find is not None:
            self._fetch(run, lambda *_: True, enough=lambda: run.begun, patience_s=_GAP_PATIENCE_S)
        if run.begun:
            self._runs[uid] = run
            return run
        self._missed.add(uid)
        logger.warning("run %s is left out: its start was missed, and no Tiled server given that has it", uid[:8])
        return None

    def _owner(self, descriptor: str) -> _Run | None:
        return next((run for run in self._runs.values() if descriptor in run.descriptors), None)

    def _before_event(self, document: Document) -> None:
        descriptor = str(document["descriptor"])
        run = self._owner(descriptor)
        if run is None:
            if self.find is None or descriptor in self._missed:
                return
            for candidate in list(self._runs.values()):
                self._fetch_descriptor(candidate, descriptor)
            run = self._owner(descriptor)
            if run is None:
                self._missed.add(descriptor)
                return
        stream, numbers = run.descriptors[descriptor], document["seq_num"]
        seqs = list(numbers) if isinstance(numbers, (list, tuple)) else [int(numbers)]
        seen = run.seen.setdefault(stream, set())
        sought = run.sought.setdefault(stream, set())
        missing = set(range(1, min(seqs))) - seen - sought
        self._fill(run, {stream: missing}, _GAP_PATIENCE_S)
        sought |= missing
        seen.update(seqs)

    def _note_announced(self, document: Document) -> None:
        run = self._owner(str(document["descriptor"]))
        if run is not None:
            seqs = range(document["seq_nums"]["start"], document["seq_nums"]["stop"])
            run.announced.setdefault(run.descriptors[str(document["descriptor"])], set()).update(seqs)

    def _before_stop(self, document: Document) -> None:
        run = self._run(str(document["run_start"]))
        if run is None:
            return
        missing = {}
        for stream, count in (document.get("num_events") or {}).items():
            there = run.seen.get(stream) or run.announced.get(stream) or set()
            missing[stream] = set(range(1, int(count) + 1)) - there
        self._fill(run, missing, _STOP_PATIENCE_S)
        del self._runs[run.uid]

    # -- fetching

    def _fill(self, run: _Run, missing: dict[str, set[int]], patience_s: float) -> None:
        missing = {stream: seqs for stream, seqs in missing.items() if seqs and stream in self._names}
        if not missing:
            return
        text = ", ".join(f"{stream} {_ranges(seqs)}" for stream, seqs in missing.items())
        fetching = "fetching them from Tiled" if self.find is not None else "no Tiled server given to fetch them from"
        logger.warning("run %s: events did not arrive: %s; %s", run.uid[:8], text, fetching)
        if self.find is None:
            return

        def wanted(stream: str, seq: int) -> bool:
            return seq in missing.get(stream, ())

        def enough() -> bool:
            return all(seqs <= run.seen.get(stream, set()) for stream, seqs in missing.items())

        self._fetch(run, wanted, enough=enough, patience_s=patience_s)

    def _fetch_descriptor(self, run: _Run, descriptor: str) -> None:
        self._fetch(run, lambda *_: False, enough=lambda: descriptor in run.descriptors, patience_s=_GAP_PATIENCE_S)

    def _fetch(self, run: _Run, wanted: Wanted, *, enough: Callable[[], bool], patience_s: float) -> None:
        """Pass on what Tiled has of the wanted events, until it is enough or the patience is over."""
        deadline = time.monotonic() + patience_s
        while self.find is not None:
            try:
                self._fetch_once(run, self.find(run.uid), wanted)
            except Exception as error:
                logger.warning("run %s: cannot be fetched from Tiled: %s", run.uid[:8], error)
            if enough() or time.monotonic() > deadline:
                return
            time.sleep(0.25)

    def _fetch_once(self, run: _Run, stored: Any, wanted: Wanted) -> None:
        if stored is None:
            return

        def unseen(stream: str, seq: int) -> bool:
            return wanted(stream, seq) and seq not in run.seen.get(stream, ())

        for name, document in StoredRun(self.profile, wanted=unseen).documents(stored):
            if name == "start":
                if run.begun:
                    continue
                run.begun = True
            elif name == "descriptor":
                if document["uid"] in run.descriptors:
                    continue
                run.descriptors[str(document["uid"])] = str(document["name"])
            elif name == "event":
                run.seen.setdefault(run.descriptors[document["descriptor"]], set()).add(document["seq_num"])
            else:
                continue
            self.pass_on(name, document)


def _ranges(numbers: set[int]) -> str:
    """Write a set of numbers as "2, 5-7"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
