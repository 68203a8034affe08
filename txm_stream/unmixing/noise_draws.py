"""Noise as the channels have it: white, and for a part the same in pixels that are close together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from txm_stream.arrays import Image, Stack


@dataclass(frozen=True, eq=False)
class SharedNoise:
    """The part of the noise that neighbours have in common: ``sigma`` (y, x).

    In pixels r px apart it is alike by exp(−r²/4s²), s = ``alike_px``.
    """

    sigma: Image
    alike_px: float


def draw_noise(
    shape: tuple[int, ...], pixel_noise: Image, shared: SharedNoise | None, rng: np.random.Generator
) -> Stack:
    """Draw noise of a shape (L, y, x) whose σ is ``pixel_noise`` (y, x), ``shared`` being a part of it."""
    own = rng.standard_normal(shape, dtype=np.float32)
    if shared is None or not shared.sigma.any():
        return np.asarray(own * pixel_noise)
    own *= np.sqrt(np.maximum(pixel_noise**2 - shared.sigma**2, 0))
    gain = np.float32(2 * np.sqrt(np.pi) * shared.alike_px)  # the squares of a Gaussian add up to 1/(4 π s²)
    for image in own:
        white = rng.standard_normal(shape[1:], dtype=np.float32)
        image += gaussian_filter(white, shared.alike_px, mode="wrap") * gain * shared.sigma
    return own
