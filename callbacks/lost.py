"""Frames that a run was to have and that will never enter its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

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
