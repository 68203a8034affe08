"""Stein's unbiased risk estimate of a denoised component, with the basis held fixed."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_images


def component_risks(
    noisy: Stack, clean: Stack, sigma: float, denoiser: Denoiser, *, rng: np.random.Generator, factors: Vector
) -> Vector:
    """Return the estimated mean squared error of ``clean`` = denoiser(noisy, sigma) (K, y, x), per pixel, shape (K,).

    −fσ² + ‖D(y) − y‖²/N + 2σ²·div/N, the divergence by one random probe. Resampling lowers the variance of a pixel to
    ``factors`` f of what it was, by taking high frequencies away; at the low frequencies that a denoiser passes the
    noise stays σ, hence f in the first term only.

    References
    ----------
    Ramani, Blu and Unser, IEEE Trans. Image Process. 17, 1540 (2008), DOI 10.1109/TIP.2008.2001404, eq. 14.
    """
    probe = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=noisy.shape)
    step = np.float32(0.1 * sigma)
    moved = denoise_images((noisy + step * probe).astype(np.float32), sigma, denoiser)
    divergence = (probe * (moved - clean)).mean(axis=(1, 2), dtype=np.float64) / step
    misfit = np.mean((clean - noisy) ** 2, axis=(1, 2), dtype=np.float64)
    return np.asarray(-factors * sigma**2 + misfit + 2 * sigma**2 * divergence)


def busiest_tile(images: Stack, size: int) -> tuple[slice, slice]:
    """Return the tile (size × size) of images (K, y, x) with most energy: enough for a running risk estimate."""
    energy = (images**2).sum(axis=0)
    rows, columns = energy.shape
    if rows <= size and columns <= size:
        return slice(0, rows), slice(0, columns)
    best, where = -1.0, (0, 0)
    for y in range(0, max(rows - size, 0) + 1, max(size // 2, 1)):
        for x in range(0, max(columns - size, 0) + 1, max(size // 2, 1)):
            total = float(energy[y : y + size, x : x + size].sum())
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
