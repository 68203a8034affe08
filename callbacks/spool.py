"""What is to be published, as batches, and the folder where batches wait while the server is away."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.errors import StorageFullError

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("txm_stream")

_MAGIC = b"txm-stream batch 1"
_HEADER_BYTES = 64
_ALIGN = 64
_SUFFIX = ".batch"
_REQUEST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Variable:
    """How an array is described in Tiled: names of its axes, its spec, its attributes (units and the like)."""

    dims: tuple[str, ...] = ()
    spec: str | None = None
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Batch:
    """One consistent step of a container: frames, then images, then tables (the commit marker), then metadata.

    Attributes
    ----------
    path
        Container below the target's root; it and its ancestors are made where they are missing.
    appends
        Frames by (name, index): the stack ``name`` gets ``frame[None]`` at offset ``index``.
    overwrites
        Arrays or tables that replace what is there; latest wins.
    tables
        Tables written after all images.
    metadata
        Merged into the container's metadata after everything else; a new container is made with it.
    close
        End the streams of the container and of its arrays and tables.
    variables, specs
        Descriptions of the arrays by name; names of the container's specs.
    replace_finished
        Delete the container first where its ``status`` is "final" or "failed" (the run is done again).
    live
        A later live batch of the same container may be merged into this one; its overwrites are previews.

    Notes
    -----
    Arrays are held by reference: whoever publishes a batch must not change them afterwards.
    """

    path: tuple[str, ...]
    appends: dict[tuple[str, int], AnyArray] = field(default_factory=dict)
    overwrites: dict[str, AnyArray | pd.DataFrame] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    close: bool = False
    variables: dict[str, Variable] = field(default_factory=dict)
    specs: tuple[str, ...] = ()
    replace_finished: bool = False
    live: bool = False
    count: int = 1
    order: tuple[int, int] = (0, 0)
    file: Path | None = None

    @property
    def nbytes(self) -> int:
        """Memory held by the arrays; memory-mapped ones count nothing."""
        return sum(_memory(array) for array in (*self.appends.values(), *self.overwrites.values()))

    def merge(self, newer: Batch) -> None:
        """Take over what a newer batch of the same container says; all frames are kept, the rest: latest wins."""
        self.appends |= newer.appends
        self.overwrites |= newer.overwrites
        self.tables |= newer.tables
        self.variables |= newer.variables
        self.specs = tuple(dict.fromkeys((*self.specs, *newer.specs)))
        if newer.metadata is not None:
            self.metadata = (self.metadata or {}) | newer.metadata
        self.close = self.close or newer.close
        self.count += newer.count

    def split_frames(self) -> Batch:
        """Move the frames into a batch of their own, to be delivered before this one."""
        frames = replace(
            self, overwrites={}, tables={}, metadata=None, close=False, replace_finished=False, live=False, count=0
        )
        self.appends = {}
        return frames

    def parts(self) -> Iterator[tuple[str, Batch]]:
        """Yield this batch one item at a time, as (kind, batch of that item), in the order of delivery.

        Consecutive frames of a stack are one item, up to 16 MB. An item leaves this batch when the next one is asked
        for. The first part, "open", carries the metadata with which a new container is made.
        """
        empty = Batch(self.path, variables=self.variables, specs=self.specs, count=0)
        yield "open", replace(empty, metadata=self.metadata, replace_finished=self.replace_finished)
        self.replace_finished = False
        for keys in _runs(self.appends):
            yield "append", replace(empty, appends={key: self.appends[key] for key in keys})
            for key in keys:
                del self.appends[key]
        for group in ("overwrites", "tables"):
            items: dict[str, Any] = getattr(self, group)
            for name in list(items):
                part = replace(empty)
                setattr(part, group, {name: items[name]})
                yield "overwrite", part
                del items[name]
        if self.metadata:
            yield "metadata", replace(empty, metadata=self.metadata)
            self.metadata = None
        if self.close:
            yield "close", replace(empty, close=True)
            self.close = False


def _runs(frames: dict[tuple[str, int], AnyArray]) -> list[list[tuple[str, int]]]:
    """Group the keys of frames: consecutive indices of one name, shape and type, up to a request's size."""
    runs: list[list[tuple[str, int]]] = []
    nbytes = 0
    for name, index in sorted(frames):
        frame = frames[name, index]
        last = runs[-1][-1] if runs else ("", -1)
        follows = last == (name, index - 1) and (frames[last].shape, frames[last].dtype) == (frame.shape, frame.dtype)
        if follows and nbytes + frame.nbytes <= _REQUEST_BYTES:
            runs[-1].append((name, index))
            nbytes += frame.nbytes
        else:
            runs.append([(name, index)])
            nbytes = frame.nbytes
    return runs


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


def _checksum(content: AnyArray, step: int = 1 << 24) -> int:
    checksum = 0
    for begin in range(0, len(content), step):
        checksum = zlib.crc32(content[begin : begin + step].data, checksum)
    return checksum


def plain(value: Any) -> Any:
    """Return a NumPy value, a path or the like as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _memory(array: Any) -> int:
    if getattr(array, "_mmap", None) is not None or not isinstance(array, np.ndarray):
        return 0
    return int(array.nbytes)
