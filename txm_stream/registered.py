"""A visit on the common grid: optical density moved once, from raw, with its field, noise and filled pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Image, Mask, Vector
from txm_stream.optical_density import OpticalDensity
from txm_stream.resampling import bin_image, field_after_shift, fill_invalid, shift_image, shift_mask, variance_factor

WORK_PIXELS = 512


@dataclass(frozen=True, eq=False)
class RegisteredFrame:
    """``image`` (y, x) finite everywhere; ``field`` True where it was measured; ``known`` the same less bad pixels.

    ``sigma`` is the rms noise of the visit before resampling, ``factor`` what resampling does to its variance,
    ``relative_variance`` (y, x) the noise variance of each pixel divided by sigma².
    """

    image: Image
    field: Mask
    known: Mask
    sigma: float
    factor: float
    relative_variance: Image


def registered_frame(density: OpticalDensity, shift_px: Vector, magnification: float = 1.0) -> RegisteredFrame:
    """Magnify a visit's optical density about its centre and move it by ``shift_px`` (y, x); bad pixels are bridged."""
    shape = (density.image.shape[0], density.image.shape[1])
    image = shift_image(fill_invalid(density.image, density.mask), shift_px, magnification)
    field = field_after_shift(shape, shift_px, magnification)
    known = shift_mask(density.mask, shift_px, magnification)
    filled = np.where(density.mask, density.variance, np.float32(0))
    level = float(density.variance[density.mask].mean(dtype=np.float64))
    filled[~density.mask] = level
    moved = np.roll(filled, tuple(round(float(s)) for s in shift_px), axis=(0, 1))
    factor = variance_factor(shift_px, magnification, shape)
    relative = (moved / np.float32(max(level, 1e-30))).astype(np.float32)
    return RegisteredFrame(image, field, known, float(np.sqrt(max(level, 1e-30))), factor, relative)


def as_published(frame: RegisteredFrame, offset: float = 0.0) -> Image:
    """Return the image with NaN where nothing was measured, less a constant offset."""
    return np.where(frame.known, frame.image - np.float32(offset), np.float32(np.nan)).astype(np.float32)


def work_binning(shape: tuple[int, int]) -> int:
    """Return the binning at which registration runs: at most about 512 px a side."""
    return max(1, -(-max(shape) // WORK_PIXELS))


def work_image(density: OpticalDensity) -> tuple[Image, float]:
    """Return the binned, filled optical density for registration, and its noise."""
    factor = work_binning((density.image.shape[0], density.image.shape[1]))
    noise = float(np.sqrt(density.variance[density.mask].mean(dtype=np.float64)))
    return bin_image(fill_invalid(density.image, density.mask), factor), noise / factor
