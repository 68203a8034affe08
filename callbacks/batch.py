"""What is to be published in one consistent step: frames, images, tables, metadata of one container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from txm_stream.arrays import AnyArray

if TYPE_CHECKING:
    import pandas as pd

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

    def singles(self) -> list[Batch]:
        """Return one batch for each image of this one."""
        return [replace(self, overwrites={name: item}) for name, item in self.overwrites.items()]

    def parts(self) -> Iterator[tuple[str, Batch]]:
        """Yield this batch one item at a time, as (kind, batch of that item), in the order of delivery.

        Consecutive frames of a stack are one item, up to 16 MB; so are all images together, for their order does not
        matter. An item leaves this batch when the next one is asked for. The first part, "open", carries the metadata
        with which a new container is made.
        """
        empty = Batch(self.path, variables=self.variables, specs=self.specs, count=0)
        yield "open", replace(empty, metadata=self.metadata, replace_finished=self.replace_finished)
        self.replace_finished = False
        for keys in _runs(self.appends):
            yield "append", replace(empty, appends={key: self.appends[key] for key in keys})
            for key in keys:
                del self.appends[key]
        if self.overwrites:
            yield "overwrite", replace(empty, overwrites=self.overwrites)
            self.overwrites = {}
        for name in list(self.tables):
            yield "overwrite", replace(empty, tables={name: self.tables[name]})
            del self.tables[name]
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


def _memory(array: Any) -> int:
    if getattr(array, "_mmap", None) is not None or not isinstance(array, np.ndarray):
        return 0
    return int(array.nbytes)
