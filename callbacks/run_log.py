"""What is kept of a run while it is processed, so that another worker can be given it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from txm_stream.callbacks.document_log import DocumentLog
from txm_stream.callbacks.journal import Journal
from txm_stream.callbacks.scratch import FRAMES, Hold, LeftRun, RunKind
from txm_stream.profile import Profile


@dataclass(eq=False)
class RunLog:
    """Everything a run brought so far, so that another worker can be given it again.

    ``parts``: the further runs of a scan of several; ``kept`` has the documents on disk, for another process;
    ``profile``, where it is not the worker's; ``hold``: see :class:`.Hold`.
    """

    uid: str
    start: dict[str, Any]
    folder: Path
    journal: Journal
    documents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    in_memory: dict[int, list[Any]] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    sent: int = 0
    acked: int = 0
    attempt: int = 0
    kind: RunKind = "measured"
    profile: Profile | None = None
    kept: DocumentLog | None = None
    hold: Hold | None = None
    opened: bool = False
    end_reason: str | None = None
    end_sent: bool = False
    over: bool = False

    @classmethod
    def of_left(cls, left: LeftRun) -> RunLog:
        """Return a run that was left, to be begun again, or whose results are to be delivered."""
        documents = list(left.documents)
        return cls(
            left.uid,
            dict(documents[0][1]) if documents else {},
            left.folder,
            Journal(left.folder / FRAMES, disk_bytes=0, memory_bytes=0),
            documents=documents,
            kind="left" if documents else "results",
            attempt=1,
            profile=left.profile,
            hold=left.hold,
            end_reason=left.end_reason,
        )

    def close(self) -> None:
        """Close its files; they stay."""
        self.journal.close()
        if self.kept is not None:
            self.kept.close()
