"""Stein's unbiased risk estimate of a denoised component, with the basis held fixed."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components

_STEP = 0.1
"""Size of the probe in units of the noise."""


def component_risks(
    noisy: Stack, clean: Stack, sigma: float | Image, denoiser: Denoiser, *, rng: np.random.Generator, factors: Vector
) -> Vector:
    """Return the estimated mean squared error of ``clean`` = denoiser(noisy, sigma) (K, y, x), per pixel, shape (K,).

    ``sigma`` is one number or (y, x). −f⟨σ²⟩ + ⟨(D(y) − y)²⟩ + 2⟨σ² ∂D/∂y⟩, the divergence by one random probe.
    Resampling lowers the variance of a pixel to ``factors`` f of what it was, by taking high frequencies away; at the
    low frequencies that a denoiser passes the noise stays σ, hence f in the first term only.

    References
    ----------
    Ramani, Blu and Unser, IEEE Trans. Image Process. 17, 1540 (2008), DOI 10.1109/TIP.2008.2001404, eq. 14.
    """
    scale = np.float32(sigma) if np.ndim(sigma) == 0 else np.asarray(sigma, dtype=np.float32)
    probe = np.empty(noisy.shape, dtype=np.float32)
    for image in probe:
        image[:] = scale * rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=image.shape)
    moved = np.float32(_STEP) * probe
    moved += noisy
    moved = denoise_components(moved, sigma, denoiser)
    white = np.mean(np.square(sigma, dtype=np.float64))
    risks = np.empty(len(noisy))
    for k, factor in enumerate(factors):
        response = np.mean(probe[k] * (moved[k] - clean[k]), dtype=np.float64) / _STEP
        risks[k] = -factor * white + np.mean((clean[k] - noisy[k]) ** 2, dtype=np.float64) + 2 * response
    return risks


def busiest_tile(images: Stack, size: int) -> tuple[slice, slice]:
    """Return the tile (size × size) of images (K, y, x) with most energy: enough for a running risk estimate."""
    rows, columns = images.shape[1:]
    if rows <= size and columns <= size:
        return slice(0, rows), slice(0, columns)
    step = max(1, size // 32)
    energy = (images[:, ::step, ::step] ** 2).sum(axis=0)
    best, where = -1.0, (0, 0)
    for y in range(0, max(rows - size, 0) + 1, max(size // 2, 1)):
        for x in range(0, max(columns - size, 0) + 1, max(size // 2, 1)):
            total = float(energy[y // step : (y + size) // step, x // step : (x + size) // step].sum())
            if total > best:
                best, where = total, (y, x)
    return slice(where[0], where[0] + size), slice(where[1], where[1] + size)


def stack_risk(component_risks: Vector, basis: Matrix, sigma: Vector, discarded: float) -> float:
    """Return the mean squared error of the denoised stack in OD², from the risks of its whitened components.

    ``basis`` (T, K), ``sigma`` (T,) noise per visit, ``discarded`` mean signal energy per entry beyond the rank.
    """
    used = np.isfinite(sigma)
    per_visit = (sigma[used, None] ** 2 * basis[used] ** 2) @ np.maximum(component_risks, 0.0)
    return float(per_visit.mean() + discarded * np.mean(sigma[used] ** 2))
