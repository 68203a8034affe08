"""Illumination flicker: one gain per visit, read off the pixels where nothing is in the beam."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask

SHARE = 0.10
_OPEN_AT_MOST = 0.25
_SPREADS = 2.0


def open_pixels(mean: Image, field: Mask) -> Mask | None:
    """Return the open pixels of a ``mean`` optical density (y, x), or ``None`` if there is no open beam in the field.

    A tenth of the field at least. It is open when its level lies below a quarter of the way from the smallest to the
    90th percentile of the smoothed mean, and these pixels form a floor: their spread is small against the contrast of
    the image. The level of the floor is where the values lie densest; pixels up to two of its standard deviations,
    known from the values below, belong to it.
    """
    if field.sum() < 400:
        return None
    smooth = ndimage.gaussian_filter(mean, 3.0)
    values = np.sort(smooth[field])
    low, cut, high = np.percentile(values, [1, 100 * SHARE, 90])
    if not high - low > 0 or cut - low > _OPEN_AT_MOST * (high - low):
        return None
    upto = int(np.searchsorted(values, low + _OPEN_AT_MOST * (high - low)))
    tenth = min(int(SHARE * len(values)), upto - 1)
    densest = int(np.argmin(values[tenth:upto] - values[: upto - tenth]))
    level = 0.5 * (values[densest] + values[densest + tenth])
    spread = float(np.sqrt(np.mean((values[values < level] - level) ** 2)))
    return np.asarray(field & (smooth <= max(level + _SPREADS * spread, cut)))


def flicker(image: Image, pixels: Mask) -> float:
    """Return the mean optical density of open pixels: ln of the illumination ratio of flat and sample frame."""
    return float(image[pixels].mean(dtype=np.float64))
