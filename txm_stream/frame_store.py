"""Frames on disk: one file per kind of image, fixed record size, bounded memory; falls back to memory when full."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import shutil
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import Image
from txm_stream.errors import MissingFramesError

logger = logging.getLogger("txm_stream")


class FrameStore:
    """Keep float32 images (y, x) by kind and index in a folder of their own.

    Parameters
    ----------
    directory
        Created if needed; :meth:`close` removes it.

    Notes
    -----
    A read comes from the page cache when there is memory for it (about 1 ms at 1024²). When the disk is full, further
    images stay in memory, which is reported once.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, FileIO] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._on_disk: set[tuple[str, int]] = set()
        self._in_memory: dict[tuple[str, int], Image] = {}
        self.disk_full = False

    def put(self, kind: str, index: int, image: Image) -> None:
        """Store an image, replacing what was there."""
        data = np.ascontiguousarray(image, dtype=np.float32)
        shape = self._shapes.setdefault(kind, (data.shape[0], data.shape[1]))
        if data.shape != shape:
            raise ValueError(f"image {kind} {index} has shape {data.shape}, expected {shape}")
        key = (kind, index)
        try:
            file = self._open(kind)
            file.seek(index * data.nbytes)
            if file.write(data.data.cast("B")) != data.nbytes:  # a full disk takes what it can
                raise OSError(errno.ENOSPC, "no space left for a frame")
        except OSError as error:
            if not self.disk_full:
                logger.warning(
                    "frame store %s cannot be written (%s): frames stay in memory; free some disk",
                    self.directory,
                    error,
                )
            self.disk_full = True
            self._in_memory[key] = data.copy()
            self._on_disk.discard(key)
        else:
            self._on_disk.add(key)
            self._in_memory.pop(key, None)

    def get(self, kind: str, index: int, *, rows: tuple[int, int] | None = None) -> Image:
        """Return a copy of a stored image, or of its ``rows`` from the first to before the last.

        Raises
        ------
        MissingFramesError
            It was never stored.
        """
        key = (kind, index)
        if key in self._in_memory:
            image = self._in_memory[key]
            return image.copy() if rows is None else image[rows[0] : rows[1]].copy()
        if key not in self._on_disk:
            raise MissingFramesError(f"no {kind} image {index} in the frame store {self.directory}")
        (height, width), item = self._shapes[kind], np.dtype(np.float32).itemsize
        first, last = (0, height) if rows is None else rows
        data = np.empty((last - first, width), dtype=np.float32)
        file = self._open(kind)
        file.seek((index * height + first) * width * item)
        file.readinto(memoryview(data).cast("B"))
        return data

    def new_stack(self, kind: str, shape: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return a zero stack (t, y, x) backed by a file, or by memory when the disk is full."""
        try:
            return np.lib.format.open_memmap(self.directory / f"{kind}.npy", mode="w+", dtype=np.float32, shape=shape)
        except OSError:
            self.disk_full = True
            return np.zeros(shape, dtype=np.float32)

    def close(self) -> None:
        """Remove the folder and everything in it."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._in_memory.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _open(self, kind: str) -> FileIO:
        if kind not in self._files:
            self._files[kind] = FileIO(self.directory / f"{kind}.f32", "w+")
        return self._files[kind]


def release_pages(array: np.ndarray[Any, Any]) -> None:
    """Give back the memory that a memory-mapped array (or a view of one) holds; its content stays in its file."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is not None and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def release_heap() -> None:
    """Give freed memory back to the system; glibc keeps it otherwise, half a gigabyte after a scan of 1024²."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
