"""The folder where batches wait while the server is away."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.callbacks.batch import Batch, Variable
from txm_stream.errors import StorageFullError

if TYPE_CHECKING:
    pass

logger = logging.getLogger("txm_stream")

_MAGIC = b"txm-stream batch 1"
_HEADER_BYTES = 64
_ALIGN = 64
_SUFFIX = ".batch"


class Spool:
    """Folder of batches, one file each, delivered in the order of their names.

    A file holds a header with a checksum, a JSON manifest and the bytes of the arrays; it appears under its name
    only when it is complete. One process at a time may use the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StorageFullError(
                f"the spool {folder} is in use by another process; give every run its own"
            ) from error

    def files(self) -> list[Path]:
        """Return the files of the undelivered batches in order."""
        return sorted(self.folder.glob("*" + _SUFFIX))

    def next_order(self) -> int:
        """Return the first number after every batch that waits here."""
        return max((int(file.name.split("-")[0]) for file in self.files()), default=0) + 1

    def store(self, batch: Batch) -> Batch:
        """Write a batch; return it with its arrays memory-mapped from the file.

        Raises
        ------
        OSError
            The folder is full or cannot be written; nothing is left behind.
        """
        number = f"{batch.order[0]:08d}-{batch.order[1]:04d}"
        path = self.folder / (number + _SUFFIX)
        part = path.with_suffix(".part")
        try:
            write_batch(part, batch)
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return replace(read_batch(path, check=False), order=batch.order, file=path)

    def discard(self, batch: Batch) -> None:
        """Delete the file of a delivered batch."""
        if batch.file is not None:
            batch.file.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others use the folder."""
        self._lock.close()


def write_batch(path: Path, batch: Batch) -> None:
    """Write one batch to one file, frame by frame; memory-mapped arrays are never copied whole."""
    arrays: list[AnyArray | bytes] = []
    entries: list[dict[str, Any]] = []
    offset = 0

    def add(group: str, name: str, index: int, item: Any) -> None:
        nonlocal offset
        entry: dict[str, Any] = {"group": group, "name": name, "index": index, "offset": offset}
        if hasattr(item, "to_parquet"):
            buffer = io.BytesIO()
            item.to_parquet(buffer)
            item = buffer.getvalue()
            entry["nbytes"] = len(item)
        else:
            item = np.asanyarray(item)
            entry |= {"dtype": item.dtype.str, "shape": list(item.shape), "nbytes": int(item.nbytes)}
        offset += -(-entry["nbytes"] // _ALIGN) * _ALIGN
        entries.append(entry)
        arrays.append(item)

    for (name, index), frame in sorted(batch.appends.items(), key=lambda item: item[0]):
        add("appends", name, index, frame)
    for group in ("overwrites", "tables"):
        for name, item in getattr(batch, group).items():
            add(group, name, 0, item)
    fields = {name: getattr(batch, name) for name in ("path", "metadata", "close", "specs", "replace_finished")}
    fields["variables"] = {name: asdict(variable) for name, variable in batch.variables.items()}
    manifest = json.dumps({"fields": fields, "entries": entries}, default=plain).encode()
    manifest += b" " * (-len(manifest) % _ALIGN)
    with path.open("wb") as file:
        file.write(b"\0" * _HEADER_BYTES)
        file.write(manifest)
        checksum = zlib.crc32(manifest)
        for item in arrays:
            content = item if isinstance(item, bytes) else np.ascontiguousarray(item).reshape(-1).view(np.uint8).data
            padding = b"\0" * (-len(content) % _ALIGN)
            for piece in (content, padding):
                checksum = zlib.crc32(piece, checksum)
                file.write(piece)
        size = file.tell()
        file.seek(0)
        file.write(b"%s %08x %016x %016x\n" % (_MAGIC, checksum, len(manifest), size))
        file.flush()
        os.fsync(file.fileno())


def read_batch(path: Path, *, check: bool = True) -> Batch:
    """Read a batch; its arrays are memory-mapped from the file.

    Raises
    ------
    ValueError
        The file is truncated, or damaged (its checksum is wrong), or not a batch.
    """
    import pandas as pd

    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    header = content[:_HEADER_BYTES].tobytes()
    if not header.startswith(_MAGIC):
        raise ValueError(f"{path.name} is not a batch of results")
    checksum, manifest_bytes, size = (int(figure, 16) for figure in header[len(_MAGIC) :].split()[:3])
    if len(content) != size:
        raise ValueError(f"{path.name} is truncated: {len(content)} of {size} bytes")
    if check and _checksum(content[_HEADER_BYTES:]) != checksum:
        raise ValueError(f"{path.name} is damaged: wrong checksum")
    start = _HEADER_BYTES + manifest_bytes
    manifest = json.loads(content[_HEADER_BYTES:start].tobytes())
    fields = manifest["fields"]
    variables = {
        name: Variable(tuple(entry["dims"]), entry["spec"], entry["attrs"])
        for name, entry in fields.pop("variables").items()
    }
    fields |= {"path": tuple(fields["path"]), "specs": tuple(fields["specs"]), "variables": variables}
    batch = Batch(**fields, file=path)
    for entry in manifest["entries"]:
        piece = content[start + entry["offset"] : start + entry["offset"] + entry["nbytes"]]
        if "dtype" in entry:
            item: Any = piece.view(np.dtype(entry["dtype"])).reshape(entry["shape"])
        else:
            item = pd.read_parquet(io.BytesIO(piece.tobytes()))
        if entry["group"] == "appends":
            batch.appends[entry["name"], entry["index"]] = item
        else:
            getattr(batch, entry["group"])[entry["name"]] = item
    return batch


def read_or_leave(path: Path) -> Batch | None:
    """Read a batch; ``None`` and a warning where it cannot be read."""
    try:
        return read_batch(path)
    except (ValueError, OSError) as error:
        logger.warning("spool: %s; it is left where it is", error)
        return None


def _checksum(content: AnyArray, step: int = 1 << 24) -> int:
    checksum = 0
    for begin in range(0, len(content), step):
        checksum = zlib.crc32(content[begin : begin + step].data, checksum)
    return checksum


def plain(value: Any) -> Any:
    """Return a NumPy value, a path or the like as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
