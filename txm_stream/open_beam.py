"""Illumination flicker: one gain per visit, read off the pixels where nothing is in the beam."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask

SHARE = 0.10
_OPEN_AT_MOST = 0.25


def open_pixels(mean: Image, field: Mask) -> Mask | None:
    """Return the tenth of the field with the least optical density in ``mean`` (y, x), or ``None`` if that is not open.

    It is open when its level lies below a quarter of the way from the smallest to the 90th percentile of the smoothed
    mean, and these pixels form a floor: their spread is small against the contrast of the image.
    """
    if field.sum() < 400:
        return None
    smooth = ndimage.gaussian_filter(mean, 3.0)
    values = smooth[field]
    low, cut, high = np.percentile(values, [1, 100 * SHARE, 90])
    if not high - low > 0 or cut - low > _OPEN_AT_MOST * (high - low):
        return None
    return np.asarray(field & (smooth <= cut))


def flicker(image: Image, pixels: Mask) -> float:
    """Return the mean optical density of open pixels: ln of the illumination ratio of flat and sample frame."""
    return float(image[pixels].mean(dtype=np.float64))
