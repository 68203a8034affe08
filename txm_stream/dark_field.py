"""The dark of a run: the mean of its dark frames, without most of their noise.

A scan takes few darks, and their noise is in every visit and every flat of it: no repeat averages it away. Where few
quanta arrive it is as large as what is left of theirs after ten visits.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import AnyArray, Image
from txm_stream.frames import mean_of_repeats

_AROUND_PX = 33
_OUTLYING = 6.0
"""Standard deviations beyond which a pixel is hot: it keeps its own value."""
_TAIL = 25.0
"""Pixels whose variance over repeats exceeds the median one so many times are left out of the noise."""


class DarkField:
    """Dark frames of a run as they come, and the dark to subtract.

    Attributes
    ----------
    repeats
        Dark frames so far.
    """

    def __init__(self) -> None:
        self.repeats = 0
        self._sum: Image | None = None
        self._variances: list[float] = []
        self._image: Image | None = None

    def add(self, image: AnyArray) -> None:
        """Take dark frames (y, x) or (repeats, y, x) in ADU."""
        mean, repeats = mean_of_repeats(image)
        if repeats > 1:
            self._variances.append(_typical(image.var(axis=0, ddof=1, dtype=np.float32)))
        elif self._sum is not None:
            apart = (mean - self._sum / np.float32(self.repeats)) ** 2
            self._variances.append(_typical(apart) / (1 + 1 / self.repeats))
        total = mean * np.float32(repeats)
        self._sum = total if self._sum is None else self._sum + total
        self.repeats += repeats
        self._image = None

    @property
    def image(self) -> Image | None:
        """The dark (y, x) in ADU, ``None`` before the first; the plain mean of a single frame."""
        if self._image is None and self._sum is not None:
            self._image = self._sum / np.float32(self.repeats)
            if self._variances:
                self._image = without_noise(self._image, float(np.median(self._variances)) / self.repeats)
        return self._image


def without_noise(dark: Image, noise_variance: float) -> Image:
    """Return a dark (y, x) with its pixels drawn to what is around them, as far as noise explains their scatter.

    Rows, columns and what varies slowly stay; a pixel's deviation r from them is shrunk to r·P/(P + N), N the
    ``noise_variance`` of the dark and P + N the variance of all r, hot pixels aside: the linear estimate of least
    squared error.

    References
    ----------
    Efron and Morris, J. Am. Stat. Assoc. 68, 117 (1973), DOI 10.1080/01621459.1973.10481350 (empirical Bayes).
    """
    finite = np.isfinite(dark)
    if not finite.any():
        return dark
    rest = np.where(finite, dark, np.float32(np.median(dark[finite])))
    rest -= np.median(rest, axis=0, keepdims=True)
    rest -= np.median(rest, axis=1, keepdims=True)
    usual = finite & (np.abs(rest) <= _OUTLYING * max(1.4826 * float(np.median(np.abs(rest))), 1e-6))
    weight = ndimage.uniform_filter(usual.astype(np.float32), _AROUND_PX)
    around = ndimage.uniform_filter(np.where(usual, rest, np.float32(0)), _AROUND_PX)
    rest -= around / np.maximum(weight, np.float32(1e-3))
    variance = float(np.mean(rest[usual] ** 2, dtype=np.float64))
    if not variance > 0:
        return dark
    noise = min(noise_variance / variance, 1.0)
    usual &= np.abs(rest) <= _OUTLYING * np.sqrt(variance)
    return np.asarray(np.where(usual, dark - np.float32(noise) * rest, dark), dtype=np.float32)


def _typical(variances: Image) -> float:
    """Return the mean of variances (y, x), those of noisy pixels aside."""
    finite = variances[np.isfinite(variances)]
    if not finite.size:
        return 0.0
    within = finite[finite <= _TAIL * max(float(np.median(finite)), 1e-6)]
    return float(within.mean(dtype=np.float64)) if within.size else float(finite.mean(dtype=np.float64))
