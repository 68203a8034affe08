"""Documents of a run in one file, appended as they come, read back after a kill."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class DocumentLog:
    """Append-only file of named documents; made on first use, with its folder.

    Parameters
    ----------
    path
        The file.
    disk_bytes
        It grows no further than this.
    """

    def __init__(self, path: Path, *, disk_bytes: float = float("inf")) -> None:
        self.path = path
        self.disk_bytes = disk_bytes
        self._file: int | None = None

    def append(self, name: str, document: Mapping[str, Any]) -> None:
        """Append a document; it is the operating system's when this returns, and outlives this process.

        Raises
        ------
        OSError
            The file cannot be written; it is as it was before.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        if size >= self.disk_bytes:
            return
        entry = pickle.dumps((name, dict(document)), protocol=5)
        try:
            if os.write(self._file, entry) < len(entry):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def logged_documents(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents in a file; one that was cut short by a kill is cut off.

    Only for files that this user wrote: pickles are trusted.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        while True:
            try:
                name, document = pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                break
            whole = file.tell()
            yield name, document
    os.truncate(path, whole)
