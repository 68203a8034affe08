"""How the signal scatters, without the noise: products of neighbours instead of squares."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask, Matrix, Stack

_WITHIN, _BEYOND = 9, 5
"""Sides of the two squares about a pixel: neighbours lie in the larger one and outside the smaller one."""
_ROWS = 256
"""Rows at a time: large frames are not copied."""


def signal_scatter(images: Stack, inside: Mask) -> Matrix:
    """Return Σ_n x_n x̄_nᵀ (q, q) of images (q, y, x) over the pixels ``inside`` (y, x), symmetric.

    x̄_n is the sum over the pixels inside that lie three or four pixels away: near enough to show the same sample, too
    far to share the noise, which moving frames spreads over two. Noise therefore adds nothing on the mean, however
    different it is between visits and whatever they share (flats); it may come out with negative eigenvalues.
    """
    products, reach = np.zeros((len(images), len(images))), _WITHIN // 2
    for start in range(0, len(inside), _ROWS):
        first, stop = max(start - reach, 0), start + _ROWS
        seen = np.where(inside[first : stop + reach], images[:, first : stop + reach], np.float32(0))
        rows = slice(start - first, start - first + _ROWS)
        here = inside[start:stop]
        around = np.stack([_neighbours(image)[rows][here] for image in seen])
        products += seen[:, rows][:, here].astype(np.float64) @ around.T
    return 0.5 * (products + products.T)


def _neighbours(image: Image) -> Image:
    """Return the sum over the neighbours of every pixel (y, x); nothing beyond the border."""
    larger, smaller = (side**2 * ndimage.uniform_filter(image, side, mode="constant") for side in (_WITHIN, _BEYOND))
    return np.asarray(larger - smaller)
