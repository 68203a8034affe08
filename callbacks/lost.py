"""Frames that a run was to have and that will never enter its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LostFrame:
    """A frame of the scan that will never enter the result."""

    stream: str
    seq: int
    reason: str

    def __str__(self) -> str:
        return f"{self.stream} {self.seq} ({self.reason})"


def missing_frames(counts: Mapping[str, int], streams: Iterable[str], there: set[tuple[str, int]]) -> list[LostFrame]:
    """Return the events that a stop document counts (``num_events``) and that never came.

    Parameters
    ----------
    counts
        Number of events by stream.
    streams
        Those that are to be complete.
    there
        (stream, seq_num) of all that came.
    """
    asked = [(stream, seq) for stream in streams for seq in range(1, int(counts.get(stream, 0)) + 1)]
    return [LostFrame(stream, seq, "its event never came") for stream, seq in asked if (stream, seq) not in there]
