"""A stored run as documents: whole, or as far as it is there while it is still being written."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import numpy as np

from txm_stream.callbacks.facts import find_image_key
from txm_stream.callbacks.journal import LostArray
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

Documents = Iterator[tuple[str, dict[str, Any]]]
Wanted = Callable[[str, int], bool]
"""``wanted(stream, seq_num)``: whether an event is asked for."""

_BLOCK_BYTES = 32_000_000
_NO_STOP = {"exit_status": "abort", "reason": "no stop"}


def stored_documents(run: Any, profile: Profile) -> Documents:
    """Yield the documents of a stored run with the images in the events, all streams in the order of time.

    Notes
    -----
    Reads nodes, not ``run.documents()`` (which turns images into lists). Memory: one block of frames per stream.
    A frame that the server cannot read becomes a lost one, not an error; a server that is away is an error.
    """
    return StoredRun(profile).documents(run, last=True)


class StoredRun:
    """Reads a run from its nodes; asked again, it goes on where it stopped.

    Parameters
    ----------
    profile
        Which streams hold frames.
    wanted
        Which events are read; default: all.

    Notes
    -----
    ``ended`` is set once the stop document was yielded. A row of a run that is still being written is yielded when
    its image can be read, too.
    """

    def __init__(self, profile: Profile, *, wanted: Wanted | None = None) -> None:
        documents = profile.documents
        self.profile = profile
        self.ended = False
        self._wanted = wanted
        self._names = {documents.primary, documents.flat, documents.dark}
        self._streams: dict[str, _StoredStream] = {}
        self._begun = False

    def documents(self, run: Any, *, last: bool = False) -> Documents:
        """Yield what is new in a run; ``last``: all of it, with a stop document even where there is none.

        ``run`` must be a fresh client: one that was read before does not see what was added since.
        """
        start = plain(run.start)
        stop = run.metadata.get("stop")
        if not self._begun:
            self._begun = True
            yield "start", start
        events = []
        for name in [name for name in run if name in self._names]:
            node = run[name]
            stream = self._streams.setdefault(name, _StoredStream(name, start, self.profile, self._wanted))
            yield from stream.descriptors_of(node)
            events.append(stream.events(node, last=last or bool(stop)))
        for event in heapq.merge(*events, key=lambda event: (event["time"], event["uid"])):
            yield "event", event
        if stop or last:
            self.ended = True
            yield "stop", plain(stop) if stop else {"run_start": start["uid"], **_NO_STOP}


class _StoredStream:
    """One stream of a stored run: how far it was read."""

    def __init__(self, name: str, start: Mapping[str, Any], profile: Profile, wanted: Wanted | None) -> None:
        self.name = name
        self.start = start
        self.profile = profile
        self.wanted = wanted
        self.descriptors: list[dict[str, Any]] = []
        self.count = 0

    def descriptors_of(self, node: Any) -> Documents:
        known = len(self.descriptors)
        self.descriptors = [plain(descriptor) for descriptor in node.descriptors]
        for descriptor in self.descriptors[known:]:
            yield "descriptor", {"name": self.name, "run_start": self.start["uid"], **descriptor}

    def events(self, node: Any, *, last: bool) -> Iterator[dict[str, Any]]:
        """Yield the events of new rows; before the ``last`` time only up to the first whose image is not there."""
        documents = self.profile.documents
        key = find_image_key(documents, self.start, self.descriptors[0]) if self.descriptors else None
        table, arrays = _columns(node, {"seq_num", "time", documents.energy_key, "XEng", documents.exposure_key})
        if key is None or key not in arrays or "seq_num" not in table:
            if last:
                logger.warning("stream %s of the stored run has no image and is left out", self.name)
            return
        image = arrays[key]
        rows = np.argsort(table["seq_num"], kind="stable")
        total = len(rows) if last else min(len(rows), image.shape[0])
        block = max(1, _BLOCK_BYTES // max(int(np.prod(image.shape[1:])) * image.dtype.itemsize, 1))
        failures: list[str] = []
        while self.count < total:
            first = self.count
            if not self._asked(int(table["seq_num"][rows[first]])):
                self.count += 1
                continue
            most = 1 if self.wanted is not None else block
            frames = _read_block(image, first, min(first + most, total), failures)
            for place, frame in enumerate(frames, first):
                if isinstance(frame, LostArray) and not last:
                    return  # perhaps it can be read next time
                yield self._event({name: column[rows[place]].item() for name, column in table.items()}, key, frame)
                self.count = place + 1  # only now: one that waits in the merge when another stream fails comes again

    def _asked(self, seq: int) -> bool:
        return self.wanted is None or self.wanted(self.name, seq)

    def _event(self, row: dict[str, Any], key: str, frame: Any) -> dict[str, Any]:
        time, seq = float(row.pop("time")), int(row.pop("seq_num"))
        descriptor = ([entry for entry in self.descriptors if entry["time"] <= time][-1:] or self.descriptors[:1])[0]
        event = {"uid": f"{descriptor['uid']}/{seq}", "descriptor": descriptor["uid"], "seq_num": seq, "time": time}
        return event | {"data": row | {key: frame}}


def plain(document: Any) -> dict[str, Any]:
    """Return a document as a dictionary."""
    return dict(document.to_dict() if hasattr(document, "to_dict") else document)


def _columns(node: Any, wanted: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the wanted columns of a stream's tables, read at one moment, and its arrays, unread."""
    table: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    is_mongo = not hasattr(node, "base") or "data" in node  # databroker's layout: arrays only, rows in order
    for name, part in (node["data"] if is_mongo else node.base).items():
        if hasattr(part, "columns"):
            names = [column for column in part.columns if column in wanted]
            if names:
                frame = part.read(names)
                table |= {column: frame[column].to_numpy() for column in names}
        else:
            arrays[name] = part
    for name in wanted & arrays.keys():
        table[name] = np.asarray(arrays[name].read())
    if is_mongo and "time" in table:
        table["seq_num"] = np.arange(1, len(table["time"]) + 1)
    length = min((len(column) for column in table.values()), default=0)
    return {name: column[:length] for name, column in table.items()}, arrays


def _read_block(image: Any, first: int, last: int, failures: list[str]) -> Any:
    """Read rows ``first`` to ``last``; one by one where they cannot be read together.

    Every failure costs the patience of Tiled's client: after three in a row the rest of the stream is given up.
    """
    if len(failures) >= 3:
        return [LostArray(failures[-1])] * (last - first)
    try:
        if last > image.shape[0]:
            raise IndexError(f"the stored array has {image.shape[0]} rows")
        frames = np.asarray(image[first:last])
        failures.clear()
        return frames
    except httpx.TransportError:  # the server is away: no reason to give frames up
        raise
    except Exception as error:
        if last - first == 1:
            failures.append(f"the server cannot read it: {_line(error)}")
            return [LostArray(failures[-1])]
        return [_read_block(image, row, row + 1, failures)[0] for row in range(first, last)]


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
