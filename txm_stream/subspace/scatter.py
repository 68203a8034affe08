"""How the signal scatters, without the noise: products of neighbours instead of squares."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask, Matrix, Stack

_WITHIN, _BEYOND = 9, 5
"""Sides of the two squares about a pixel: neighbours lie in the larger one and outside the smaller one."""


def signal_scatter(images: Stack, inside: Mask) -> Matrix:
    """Return Σ_n x_n x̄_nᵀ (q, q) of images (q, y, x) over the pixels ``inside`` (y, x), symmetric.

    x̄_n is the sum over the pixels inside that lie three or four pixels away: near enough to show the same sample, too
    far to share the noise, which moving frames spreads over two. Noise therefore adds nothing on the mean, however
    different it is between visits and whatever they share (flats); it may come out with negative eigenvalues.
    """
    seen = np.where(inside, images, np.float32(0))
    products = np.zeros((len(images), len(images)))
    own = seen[:, inside].astype(np.float64)
    for k, image in enumerate(seen):
        products[k] = own @ _neighbours(image)[inside]
    return 0.5 * (products + products.T)


def _neighbours(image: Image) -> Image:
    """Return the sum over the neighbours of every pixel (y, x); nothing beyond the border."""
    larger, smaller = (side**2 * ndimage.uniform_filter(image, side, mode="constant") for side in (_WITHIN, _BEYOND))
    return np.asarray(larger - smaller)
