"""The hand-over on disk: arrays of a run's documents, appended to one file and passed on as references.

The page cache makes writing and reading back cheap, and a worker that died can be given the same run again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("txm_stream")


@dataclass(frozen=True)
class ArrayRef:
    """An array in a journal: raw bytes in C order at ``offset`` of the file ``path``."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class LostArray:
    """Stands where an array was that could not be kept; says why."""

    reason: str


def load(reference: ArrayRef) -> NDArray[Any]:
    """Read an array back, exactly as it was stored."""
    count = int(np.prod(reference.shape, dtype=np.int64))
    flat = np.fromfile(reference.path, dtype=np.dtype(reference.dtype), count=count, offset=reference.offset)
    if flat.size != count:
        raise OSError(f"{reference.path} is shorter than expected: {flat.size} of {count} elements")
    return flat.reshape(reference.shape)


class Journal:
    """Append-only store of one run's arrays.

    Parameters
    ----------
    path
        The file; made on first use, with its folder.
    disk_bytes
        The file grows no further than this.
    memory_bytes
        With no room on disk, so many bytes of arrays are passed on in memory; beyond that they are lost.

    Notes
    -----
    Memory: at most ``memory_bytes``, and none while the disk has room.
    """

    def __init__(self, path: Path, *, disk_bytes: int, memory_bytes: int) -> None:
        self.path = path
        self.disk_bytes = disk_bytes
        self.memory_bytes = memory_bytes
        self.in_memory = 0
        self._file: int | None = None
        self._end = 0
        self._disk_full = False

    def store(self, array: NDArray[Any]) -> ArrayRef | NDArray[Any] | LostArray:
        """Store an array: return its reference, the array itself (copied) with the disk full, or why it is lost."""
        try:
            return self._append(array)
        except OSError as error:
            if not self._disk_full:
                self._disk_full = True
                logger.warning(
                    "no room for frames in %s (%s); passing them in memory", self.path.parent, error.strerror
                )
            reason = f"{error.strerror} in the scratch folder"
        if self.in_memory + array.nbytes > self.memory_bytes:
            return LostArray(f"{reason}, and limits.queue_mb reached in memory")
        try:
            copy = array.copy()
        except MemoryError:
            return LostArray(f"{reason}, and no memory")
        self.in_memory += copy.nbytes
        return copy

    def release(self, array: NDArray[Any]) -> None:
        """Take note that an array passed in memory is no longer kept."""
        self.in_memory -= array.nbytes

    def close(self) -> None:
        """Close the file; it stays for readers."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, array: NDArray[Any]) -> ArrayRef:
        if self._end + array.nbytes > self.disk_bytes:
            raise OSError(28, "limits.scratch_gb reached")
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        rest = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        offset = self._end
        while rest.nbytes:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written
        reference = ArrayRef(str(self.path), self._end, array.shape, array.dtype.str)
        self._end = offset
        return reference


def replace_arrays(value: Any, change: Callable[[NDArray[Any]], Any], *, least_bytes: int) -> Any:
    """Return ``value`` with every array of at least ``least_bytes`` changed; containers are rebuilt."""
    if isinstance(value, np.ndarray):
        return change(value) if value.nbytes >= least_bytes else value
    if isinstance(value, dict):
        return {key: replace_arrays(entry, change, least_bytes=least_bytes) for key, entry in value.items()}
    if isinstance(value, list):
        return [replace_arrays(entry, change, least_bytes=least_bytes) for entry in value]
    return value
