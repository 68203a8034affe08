"""Averages over a box of pixels, so that a spectrum or a region costs the browser some numbers, not whole stacks."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.view.results_reader import ResultsReader, TiledProblemError

_BOX = re.compile(r"\d{1,6},\d{1,6},\d{1,6},\d{1,6}", re.ASCII)
_SINCE = re.compile(r"\d{1,6}", re.ASCII)
_MOST_PIXELS = 256 * 256
_BLOCK_BYTES = 32_000_000
_STACKS = ("noisy", "denoised")
_KNOWN_S = 10.0
"""Arrays keep type and size, and stacks only grow: asking again costs as much as reading a pixel."""


@dataclass(frozen=True)
class Box:
    """Pixels ``y0 ≤ y < y1``, ``x0 ≤ x < x1``; every ``stride``-th of them on both axes is read."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def total(self) -> int:
        """Number of pixels in it."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    @property
    def stride(self) -> int:
        """Step that keeps the number of pixels read below 65 536."""
        return int(np.ceil(np.sqrt(self.total / _MOST_PIXELS)))

    @property
    def pixels(self) -> int:
        """Number of pixels read."""
        return -(-(self.y1 - self.y0) // self.stride) * -(-(self.x1 - self.x0) // self.stride)

    @property
    def slices(self) -> str:
        """The two last axes of a slice, as Tiled takes it."""
        step = "" if self.stride == 1 else f":{self.stride}"
        return f"{self.y0}:{self.y1}{step},{self.x0}:{self.x1}{step}"


def parse_box(text: str, since: str = "0") -> tuple[Box, int]:
    """Return the box ``y0,y1,x0,x1`` and the first visit that is wanted.

    Raises
    ------
    TiledProblemError
        They are no whole numbers, or the box is empty.
    """
    if not _BOX.fullmatch(text) or not _SINCE.fullmatch(since):
        raise TiledProblemError(400, "give box=y0,y1,x0,x1 in pixels and from=visit, whole numbers")
    box = Box(*map(int, text.split(",")))
    if box.y1 <= box.y0 or box.x1 <= box.x0:
        raise TiledProblemError(400, f"the box {text} is empty; give y0,y1,x0,x1 with y1 > y0 and x1 > x0")
    return box, int(since)


async def means_over(
    reader: ResultsReader, run: str, part: str, names: tuple[str, ...], box: Box, since: int
) -> dict[str, Any]:
    """Return mean, spread and count of valid pixels for every image of every array named.

    ``arrays`` maps a name to ``{"mean": […], "spread": […], "count": […]}``, one entry per leading index (visit,
    component, state); null where no pixel is valid. Stacks begin at visit ``since``. With both ``phase_map`` and
    ``scale`` there is also ``amounts``, the mean of their product: that of the edge jump of every state.

    Raises
    ------
    TiledProblemError
        There is no such array, or the box does not lie inside its images.
    """
    there = await reader.arrays(run, part, max_age_s=_KNOWN_S)
    if any(name not in there or (name in _STACKS and there[name]["shape"][0] <= since) for name in names):
        there = await reader.arrays(run, part)
    for name in names:
        shape = there[name]["shape"] if name in there else []
        if len(shape) < 2 or box.y1 > shape[-2] or box.x1 > shape[-1]:
            raise TiledProblemError(404, "there is no such array of images that hold the box")
    images = [_Images(run, part, name, tuple(there[name]["shape"]), there[name]["dtype"]) for name in names]
    found = await asyncio.gather(*(_read(reader, each, box, since if each.name in _STACKS else 0) for each in images))
    arrays = dict(zip(names, found, strict=True))
    if "phase_map" in arrays and "scale" in arrays:
        arrays["amounts"] = arrays["phase_map"] * arrays["scale"]
    return {
        "pixels": box.pixels,
        "total": box.total,
        "arrays": {name: summary(values) for name, values in arrays.items()},
    }


@dataclass(frozen=True)
class _Images:
    run: str
    part: str
    name: str
    shape: tuple[int, ...]
    dtype: str


async def _read(reader: ResultsReader, images: _Images, box: Box, first: int) -> AnyArray:
    """Return the box of all images from ``first`` on ``(n, pixels)``, read in blocks of bounded size."""
    count = images.shape[0] if len(images.shape) == 3 else 1
    step = max(1, _BLOCK_BYTES // (4 * box.pixels))
    found = [np.empty((0, box.pixels), np.float32)]
    for start in range(first, count, step):
        stop = start + step if start + step < count else ""  # the last block has what came since the shape was known
        leading = f"{start}:{stop}," if len(images.shape) == 3 else ""
        answer = await reader.image(images.run, images.part, images.name, leading + box.slices, None)
        found.append(np.frombuffer(answer.content or b"", images.dtype).reshape(-1, box.pixels))
    return np.concatenate(found)


def summary(values: AnyArray) -> dict[str, list[Any]]:
    """Return mean, standard deviation and count of the valid values of every row of ``(n, pixels)``."""
    valid = np.isfinite(values)
    count = valid.sum(axis=1)
    some = np.where(valid, values, 0).astype(np.float64)
    mean = some.sum(axis=1) / np.maximum(count, 1)
    spread = np.sqrt((np.where(valid, some - mean[:, None], 0) ** 2).sum(axis=1) / np.maximum(count, 1))
    known = [(float(m), float(s)) if n else (None, None) for m, s, n in zip(mean, spread, count, strict=True)]
    return {"mean": [m for m, _ in known], "spread": [s for _, s in known], "count": count.tolist()}
