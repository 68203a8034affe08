"""Runs as they land in Tiled: found by subscription or by looking, read to their stop documents."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from txm_stream.callbacks.stored import StoredRun, plain
from txm_stream.errors import BadSourceError
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_LOOK_EVERY_S = 1.0
_LOOK_AGAIN_S = 0.1
_LOOKS_AGAIN = 5
_WORTH_TAKING_UP_S = 86_400.0
"""A run without a stop document that began longer ago was given up by its acquisition."""
_LATE_S = 600.0
"""Runs may reach Tiled in another order than that of their start times, this much late."""


class TiledSource:
    """New and unfinished runs of a Tiled container, as documents.

    Parameters
    ----------
    client
        The container.
    profile
        Which streams hold frames.
    since
        Runs that began later (Unix time) are followed, and earlier ones of the last day that have no stop document.
    resumed
        Uids of runs to be taken up whatever their time.
    wanted, interesting
        Whether a run, by its start document, is to be followed at all, asked once; and whether it, by its uid, is to be
        followed further.

    Notes
    -----
    A server that streams says when there is something new; it is looked at once a second all the same, for
    servers that do not, and for runs that were there before. A run is read again from its beginning after a restart.

    Raises
    ------
    BadSourceError
        The container is a databroker catalog.
    """

    def __init__(
        self,
        client: Any,
        profile: Profile,
        *,
        since: float,
        resumed: Iterable[str] = (),
        wanted: Callable[[Mapping[str, Any]], bool] = lambda start: True,
        interesting: Callable[[str], bool] = lambda uid: True,
    ) -> None:
        from bluesky_tiled_plugins import CatalogOfBlueskyRuns

        if isinstance(client, CatalogOfBlueskyRuns) and not client.is_sql:
            raise BadSourceError("a databroker catalog (MongoDB) can be replayed, not watched; watch its 0MQ or Kafka")
        self.client = client
        self.profile = profile
        self.since = since
        self.wanted = wanted
        self.interesting = interesting
        self._resumed = list(resumed)
        self._runs: dict[str, StoredRun] = {}
        self._seen: set[str] = set()
        self._newest = since
        self._woken = threading.Event()

    def follow(self, take: Callable[[str, dict[str, Any]], None], ended: threading.Event) -> None:
        """Hand every document to ``take`` as it lands, until ``ended`` is set."""
        subscription = _Subscription(self.client, self.profile, self._woken)
        again, absent = 0, False
        try:
            while not ended.is_set():
                try:
                    self._find_new()
                    for key in list(self._runs):
                        self._read(key, take)
                    absent = False
                except Exception as error:
                    if not absent:
                        logger.warning("the Tiled source cannot be read, trying on: %s", error)
                    absent = True
                again = _LOOKS_AGAIN if self._woken.is_set() else again - 1
                self._woken.clear()
                self._woken.wait(_LOOK_AGAIN_S if again > 0 else _LOOK_EVERY_S)
        finally:
            subscription.close()

    def _find_new(self) -> None:
        from tiled.queries import Comparison, Key, SpecsQuery

        runs = self.client.search(SpecsQuery(include=["BlueskyRun"], exclude=[]))
        earliest = (
            self._newest - _LATE_S if self._seen else min(self._newest - _LATE_S, time.time() - _WORTH_TAKING_UP_S)
        )
        for key, run in runs.search(Comparison("ge", "start.time", earliest)).sort(("start.time", 1)).items():
            self._consider(key, run)
        while self._resumed:
            for key, run in runs.search(Key("start.uid") == self._resumed[-1]).items():
                self._consider(key, run, resumed=True)
            self._resumed.pop()

    def _consider(self, key: str, run: Any, *, resumed: bool = False) -> None:
        if key in self._runs or (key in self._seen and not resumed):
            return
        self._seen.add(key)
        start = plain(run.start)
        self._newest = max(self._newest, start["time"])
        ours = resumed or start["time"] >= self.since or not run.metadata.get("stop")
        if ours and self.wanted(start):
            self._runs[key] = StoredRun(self.profile)

    def _read(self, key: str, take: Callable[[str, dict[str, Any]], None]) -> None:
        run, stored = self._runs[key], self.client[key]
        for name, document in run.documents(stored):
            take(name, document)
            if name != "stop" and not self.interesting(stored.start["uid"]):
                run.ended = True
                break
        if run.ended:
            del self._runs[key]


class _Subscription:
    """Sets an event when the server tells of something new; does without where the server does not stream."""

    def __init__(self, client: Any, profile: Profile, woken: threading.Event) -> None:
        self._client = client
        self._woken = woken
        documents = profile.documents
        self._streams = dict.fromkeys((documents.primary, documents.flat, documents.dark), ("seq_num",))
        self._subscription: Any = None
        threading.Thread(target=self._start, daemon=True, name="txm-stream-subscribe").start()  # may hang for ever

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.disconnect()

    def _start(self) -> None:
        from bluesky_tiled_plugins import subscribe_to_streams

        try:
            self._subscription = subscribe_to_streams(
                self._client, self._wake, streams=self._streams, run_filter=self._wake, start=None
            )
        except Exception as error:
            logger.info("the Tiled source does not stream, looking every %g s: %s", _LOOK_EVERY_S, error)

    def _wake(self, _: Any) -> bool:
        self._woken.set()
        return True
