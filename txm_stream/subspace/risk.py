"""Stein's unbiased risk estimate of a denoised component, with the basis held fixed, made certain band by band."""

from __future__ import annotations

import numpy as np
import scipy.fft

from txm_stream.arrays import AnyArray, Image, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components

_STEP = 0.1
"""Size of the probe in units of the noise."""
_BLOCK = 256
_BANDS = 12
_LEAST_SHARE = 1e-3
"""Share of all frequencies in the lowest band."""
_HALF_GAIN = 0.03
"""Gain of a band at which the expected risk is half of what passes there."""
_CERTAIN = 2.0
"""Standard errors by which Stein's estimate has to leave the expected risk of a band to be believed against it."""


def component_risks(
    noisy: Stack, clean: Stack, sigma: float | Image, denoiser: Denoiser, *, rng: np.random.Generator, factors: Vector
) -> Vector:
    """Return the estimated mean squared error of ``clean`` = denoiser(noisy, sigma) (K, y, x), per pixel, shape (K,).

    ``sigma`` is one number or (y, x). Resampling lowers the variance of a pixel to ``factors`` f of what it was, by
    taking high frequencies away.

    Notes
    -----
    Stein's estimate, −f⟨σ²⟩ + ⟨(D(y) − y)²⟩ + 2⟨σ² ∂D/∂y⟩ with the divergence by one random probe, is unbiased, but
    the energy of the noise is uncertain by ⟨σ²⟩√(2/N) and most of it lies at high frequencies that the denoiser
    removes: at 150 × 200 pixels a tenth to a sixth of the risk of a stack. Hence it is taken in bands of frequency
    and, by its certainty in each, drawn towards what is expected there: σ² ∂D/∂y if D is the posterior mean (the
    second-order form of Tweedie's formula), less where little passes; ± as much. Estimates further off than two of
    their standard errors, where the denoiser takes signal away for instance, are believed (positive part of James and
    Stein's weight).

    References
    ----------
    Ramani, Blu and Unser, IEEE Trans. Image Process. 17, 1540 (2008), DOI 10.1109/TIP.2008.2001404, eq. 14; Efron,
    J. Am. Stat. Assoc. 106, 1602 (2011), DOI 10.1198/jasa.2011.tm11181, section 2 (posterior variance).
    """
    scale = np.float32(sigma) if np.ndim(sigma) == 0 else np.asarray(sigma, dtype=np.float32)
    probe = np.empty(noisy.shape, dtype=np.float32)
    for image in probe:
        image[:] = scale * rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=image.shape)
    moved = np.float32(_STEP) * probe
    moved += noisy
    moved = denoise_components(moved, sigma, denoiser)
    variance, fourth = (float(np.mean(scale**n, dtype=np.float64)) for n in (2, 4))
    risks = np.empty(len(noisy))
    for k, factor in enumerate(factors):
        counts, loss, misfit, response = _bands(clean[k] - noisy[k], probe[k], moved[k] - clean[k])
        white = variance * np.maximum(counts - (1 - factor) * counts.sum() / max(loss.sum(), 1e-12) * loss, 0.0)
        stein = misfit - white + 2 * response
        gain = np.clip(response / (variance * np.maximum(counts, 1)), 1e-6, 1.0)
        expected = response * gain / (gain + _HALF_GAIN)
        chance = 2 * fourth * counts * (1 - gain) ** 2 + 1e-12 * variance**2
        off = (stein - expected) ** 2
        weight = np.maximum(response**2 / (response**2 + chance), 1 - _CERTAIN**2 * chance / np.maximum(off, chance))
        risks[k] = (expected + weight * (stein - expected)).sum() / counts.sum()
    return risks


def _bands(error: Image, probe: Image, moved: Image) -> tuple[Vector, Vector, Vector, Vector]:
    """Return per band of frequency, lowest first: how many there are, their loss in resampling (relative), the energy
    of ``error`` and that of ``moved`` / step along ``probe``; images (y, x) are cut into blocks."""
    sums = np.zeros((4, _BANDS))
    rows, columns = error.shape
    bands: dict[tuple[int, int], tuple[AnyArray, AnyArray]] = {}
    for part in np.array_split(np.arange(rows), -(-rows // _BLOCK)):
        for across in np.array_split(np.arange(columns), -(-columns // _BLOCK)):
            block = (slice(part[0], part[-1] + 1), slice(across[0], across[-1] + 1))
            shape = (len(part), len(across))
            if shape not in bands:
                bands[shape] = _bands_of(shape)
            band, loss = bands[shape]
            e, p, m = (scipy.fft.dctn(image[block], norm="ortho").ravel() for image in (error, probe, moved))
            for out, values in zip(sums, (None, loss, e * e, p * m), strict=True):
                out += np.bincount(band, values, minlength=_BANDS)
    counts, loss, misfit, response = sums
    return counts, loss, misfit, response / _STEP


def _bands_of(shape: tuple[int, int]) -> tuple[AnyArray, AnyArray]:
    """Return the band of each cosine of a block, flat, and what resampling at random shifts takes of it (relative)."""
    down, across = ((np.arange(n) + 0.5) / n for n in shape)
    share = np.maximum(down[:, None], across) ** 2
    edges = np.geomspace(_LEAST_SHARE, 1.0, _BANDS)
    loss = np.sin(np.pi / 2 * down)[:, None] ** 4 + np.sin(np.pi / 2 * across) ** 4
    return np.minimum(np.searchsorted(edges, share.ravel()), _BANDS - 1), loss.ravel()


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
