"""The running bootstrap of the live map: one draw per preview, made when nobody waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Stack
from txm_stream.denoising import Denoiser
from txm_stream.unmixing.one_pass import (
    denoise_channels,
    inside_of,
    invert,
    rotate_to_signal,
    smooth_errors,
    thick_of,
)

_BANDS, _HALO = 4, 16
"""A draw of a large image covers one of so many bands, with so many rows beyond it."""
_LARGE = 512
_MEMORY = 0.6
"""Share of the earlier squared errors kept when a new draw comes in."""


@dataclass(frozen=True, eq=False)
class LiveMap:
    """A map that was shown, with what is needed to draw it again: denoised white channels (L, y, x) and their noise."""

    white: Stack
    abundances: Stack
    scale: Image
    triangle: Matrix
    pixel_noise: Image
    level: float
    field: Mask


class LiveSpread:
    """Squared errors of abundances and scale, smoothed, shape (L + 1, y, x), as a running mean over draws.

    Parameters
    ----------
    denoiser
        The one of the live view.
    rng
        Source of the noise.
    """

    def __init__(self, denoiser: Denoiser, rng: np.random.Generator) -> None:
        self.denoiser = denoiser
        self.rng = rng
        self._squares: Stack | None = None
        self._pending: LiveMap | None = None
        self._draws = 0

    def of(self, shown: LiveMap) -> Stack:
        """Return the squared errors for a map; its own draw comes with :meth:`settle`, only the first one at once."""
        if self._squares is None or self._squares.shape[1:] != shown.scale.shape:
            self._squares = self._draw(shown, slice(None))
        else:
            self._pending = shown
        return self._squares

    def settle(self) -> None:
        """Make the draw of the last map shown; of a large image a band at a time."""
        shown, self._pending = self._pending, None
        if shown is None or self._squares is None:
            return
        rows = shown.scale.shape[0]
        bands = _BANDS if max(shown.scale.shape) > _LARGE else 1
        self._draws += 1
        start, stop = (rows * (self._draws % bands + step) // bands for step in (0, 1))
        drawn = self._draw(shown, slice(max(start - _HALO, 0), min(stop + _HALO, rows)))
        inner = drawn[:, start - max(start - _HALO, 0) :][:, : stop - start]
        kept, fresh = np.float32(_MEMORY), np.float32(1 - _MEMORY)
        self._squares[:, start:stop] = kept * self._squares[:, start:stop] + fresh * inner

    def _draw(self, shown: LiveMap, rows: slice) -> Stack:
        """Return the squared differences of one bootstrap draw in some rows."""
        white = shown.white[:, rows]
        noise = self.rng.standard_normal(white.shape, dtype=np.float32) * shown.pixel_noise[rows]
        rotation = rotate_to_signal(shown.white)
        again = denoise_channels(white + noise, rotation, shown.level, self.denoiser)
        abundances, scale = invert(again, shown.triangle)
        squared = np.concatenate([abundances - shown.abundances[:, rows], (scale - shown.scale[rows])[None]]) ** 2
        thick, inside = (of(shown.scale, shown.field)[rows] for of in (thick_of, inside_of))
        return smooth_errors(squared, thick, inside)
