"""The one path: frames in, Snapshot out. Live, replay, watch and file processing all drive this class."""

from __future__ import annotations

from pathlib import Path

from txm_stream.frames import Frame, Scan
from txm_stream.profile import Profile
from txm_stream.results import Result, Snapshot, VisitUpdate


class Pipeline:
    """Process the frames of one run at one sample position (API; being written)."""

    def __init__(self, profile: Profile, *, scan: Scan | None = None, scratch: Path | None = None) -> None:
        raise NotImplementedError

    def ingest(self, frame: Frame) -> list[VisitUpdate]:
        """Take a frame into the statistics; return the visits that became visible or changed (often none or one)."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """Compute previews and map of what is there now (skippable: it changes no answer)."""
        raise NotImplementedError

    def add(self, frame: Frame) -> Snapshot:
        """Ingest a frame and return a snapshot."""
        self.ingest(frame)
        return self.snapshot()

    def finish(self) -> Result:
        """Return the final result: a pure function of the frames, whatever was shown live."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove working files."""
        raise NotImplementedError
