"""Frames that a run was to have and that will never enter its result."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from txm_stream.callbacks.frame_streams import FrameStreams

logger = logging.getLogger("txm_stream")

_NOT_NAMED = "a stream not named"
_LONG_GAP = 8
"""Longer ones are told as one: a stop document may say any number."""


@dataclass(frozen=True)
class LostFrame:
    """A frame of the scan that will never enter the result."""

    stream: str
    seq: int
    reason: str
    run: str = ""
    """Its run, where the scan has several."""

    def __str__(self) -> str:
        run = f" of run {self.run[:8]}" if self.run else ""
        return f"{self.stream} {self.seq}{run} ({self.reason})"


def missing_frames(
    counts: Mapping[str, int], streams: Iterable[str], came: Iterable[tuple[str, int]]
) -> list[LostFrame]:
    """Return the events that a stop document counts (``num_events``) and that never came; long gaps as one.

    Parameters
    ----------
    counts
        Number of events by stream.
    streams
        Those that are to be complete.
    came
        (stream, seq_num) of all that came.
    """
    there = set(came)
    missing = []
    for stream in streams:
        count = int(counts.get(stream, 0))
        known = sorted(seq for name, seq in there if name == stream and 0 < seq <= count)
        for before, after in pairwise([0, *known, count + 1]):
            if after - before - 1 > _LONG_GAP:
                missing.append(LostFrame(stream, before + 1, f"the events up to {after - 1} never came"))
            else:
                missing += [LostFrame(stream, seq, "its event never came") for seq in range(before + 1, after)]
    return missing


class LossLog:
    """The lost frames of a scan, each told once.

    Attributes
    ----------
    frames
        Those lost so far.
    """

    def __init__(self, streams: FrameStreams) -> None:
        self.frames: list[LostFrame] = []
        self._streams = streams

    def add(self, frame: LostFrame) -> None:
        """Take note of a frame."""
        if frame not in self.frames:
            self.frames.append(frame)
            logger.warning("frame lost: %s", frame)

    def add_event(self, document: Mapping[str, Any]) -> None:
        """Take note of an event that could not be handed over: its descriptor, numbers and ``reason``."""
        descriptor = self._streams.get(str(document.get("descriptor")))
        if descriptor is None and document.get("descriptor") is not None:
            return  # another stream's
        numbers = document.get("seq_num")
        for number in numbers if isinstance(numbers, (list, tuple)) else [numbers]:
            seq = number if isinstance(number, int) else 0
            stream = _NOT_NAMED if descriptor is None else str(descriptor["name"])
            run = "" if descriptor is None else str(descriptor.get("part", ""))
            self.add(LostFrame(stream, seq, str(document["reason"]), run))

    def add_missing(self, part: str, num_events: Mapping[str, int], came: Iterable[tuple[str, int]]) -> None:
        """Take note of the events of a run that never came; ``came``: (descriptor uid, seq_num) of those that did."""
        own = self._streams.of_run(part)
        there = {(own[uid]["name"], seq) for uid, seq in came if uid in own}
        for lost in self.frames:  # one of a stream that was not named may be of any
            names = [lost.stream] if lost.stream in self._streams.roles else self._streams.roles
            there |= {(name, lost.seq) for name in names if lost.run in ("", part)}
        for frame in missing_frames(num_events, filter(self._streams.may_have_images, self._streams.roles), there):
            self.add(replace(frame, run=part))

    def add_short(self, part: str, projections: Iterable[int], came: Iterable[tuple[str, int]]) -> None:
        """Take note of projections that a run was too short for."""
        own = {
            uid: facts
            for uid, facts in self._streams.of_run(part).items()
            if self._streams.roles[facts["name"]] == "sample"
        }
        events = sum(uid in own for uid, _ in came)
        count = max((self._streams.frames_per_event(facts) for facts in own.values()), default=1)
        for number in projections:
            if number >= events * count:
                self.add(LostFrame("projection", number, f"the run has {events * count} frames", part))
