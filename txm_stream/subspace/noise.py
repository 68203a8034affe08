"""Noise level from the data: median of the Marchenko–Pastur law, what a subspace leaves, second differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack, Vector

_LEAST_REST = 8
_WHITE_WITHIN = 0.03


@lru_cache(maxsize=256)
def marchenko_pastur_median(beta: float) -> float:
    """Return the median of the Marchenko–Pastur law with aspect ratio ``beta`` ≤ 1 and unit variance.

    References
    ----------
    Gavish and Donoho, IEEE Trans. Inf. Theory 60, 5040 (2014), DOI 10.1109/TIT.2014.2323359, section III-D.
    """
    low, high = (1 - np.sqrt(beta)) ** 2, (1 + np.sqrt(beta)) ** 2
    # x = mid − half·cos θ removes the square-root singularities at both ends
    step = np.pi / 2000
    theta = np.arange(0.5, 2000) * step
    mid, half = 0.5 * (low + high), 0.5 * (high - low)
    density = np.sin(theta) ** 2 / (mid - half * np.cos(theta))
    cumulative = np.cumsum(density) / density.sum()
    return float(np.interp(0.5, cumulative, mid - half * np.cos(theta + step / 2)))


def noise_from_spectrum(eigenvalues: Vector, n_samples: int) -> float:
    """Return σ of white noise from the eigenvalues (T,) of the T × T Gram matrix of ``n_samples`` pixels.

    Good to about 0.1 % while the signal occupies few of the T directions.
    """
    count = len(eigenvalues)
    if n_samples < count:
        raise ValueError(
            f"noise estimate needs at least as many pixels as visits: got {n_samples} pixels, {count} visits"
        )
    return float(np.sqrt(np.median(eigenvalues) / (n_samples * marchenko_pastur_median(count / n_samples))))


def noise_beyond(
    median: float,
    read: Callable[[int], Image],
    basis: Matrix,
    components: Stack,
    field: Mask,
    factor: Vector | float = 1.0,
) -> float:
    """Return the noise over what the visits' σ say, from all that a subspace leaves of the visits.

    Parameters
    ----------
    median
        The same from the median eigenvalue; returned where the two differ by more than 3 %, since what is left is then
        not white noise alone.
    read
        Returns the whitened visit t (y, x).
    basis, components
        (T, K) orthonormal, rows of visits not used 0, and the projections (K, y, x) of the visits on it.
    field
        (y, x), pixels that count.
    factor
        What resampling did to the variance of each visit, (T,).

    Notes
    -----
    The mean square of the (T − K)·N numbers left: √(1/(2TN)) is its relative error, some thousandths of a percent in
    large stacks, where the median over T eigenvalues is good to .2 %. What is left of a signal too weak to be found
    adds less than √(1/TN).
    """
    used = np.flatnonzero(np.abs(basis).max(axis=1) > 0)
    white = np.broadcast_to(np.asarray(factor, dtype=np.float64), len(basis))[used]
    energy = sum(float(np.square(read(int(t))[field], dtype=np.float64).sum()) for t in used)
    energy -= float(np.square(components[:, field], dtype=np.float64).sum())
    freedom = float(white.sum() - (basis[used] ** 2).sum(axis=1) @ white)
    found = float(np.sqrt(max(energy, 0.0) / max(freedom * field.sum(), 1.0)))
    return found if abs(found - median) <= _WHITE_WITHIN * median else median


def coarse_excess(spectrum_values: Vector, n_effective: float, white: float) -> float:
    """Return by how much noise at the scale of the smoothed Gram exceeds what white noise has there; at least 1.

    Parameters
    ----------
    spectrum_values
        Eigenvalues (n,) beyond the rank.
    n_effective
        Independent smoothed pixels.
    white
        Energy of a frame of white noise in the smoothed pixels.

    Notes
    -----
    Noise that is correlated over a few pixels (scanning, interpolation) survives a denoiser that is told the noise of
    single pixels; so does weak signal beyond the rank.
    """
    count = len(spectrum_values)
    if count < _LEAST_REST or n_effective < 2 * count or white <= 0:
        return 1.0
    found = float(np.median(spectrum_values)) / (white * marchenko_pastur_median(count / n_effective))
    return float(np.sqrt(max(found, 1.0)))


def noise_of_samples(samples: AnyArray) -> float:
    """Return σ of whitened samples (T, pixels); see :func:`noise_of_gram`."""
    exact = samples.astype(np.float64)
    return noise_of_gram(exact @ exact.T, samples.shape[1])


def noise_of_gram(gram: Matrix, n_samples: int) -> float:
    """Return σ from the Gram matrix (T, T) of whitened visits in ``n_samples`` pixels.

    The median over eigenvalues removes the signal directions. With few visits it would sit on signal: below 8 the
    smallest eigenvalue is used instead, which errs low by at most the edge of the Marchenko–Pastur law.
    """
    count = len(gram)
    values = np.asarray(np.linalg.eigvalsh(gram), dtype=np.float64)
    if count >= 8:
        # the signal occupies the top few: take the median of the rest, corrected for what was left out
        n_signal = int(np.sum(values > 4 * np.median(values)))
        return noise_from_spectrum(values[: count - n_signal], n_samples)
    return float(np.sqrt(max(values[0], 0.0) / n_samples) / (1 - np.sqrt(count / n_samples)))


def noise_of_image(image: AnyArray) -> float:
    """Return σ of white noise in one image (y, x) from the median absolute second difference; NaN-safe."""
    second = image[:, 2:] - 2 * image[:, 1:-1] + image[:, :-2]
    second = second[2:] - 2 * second[1:-1] + second[:-2]
    finite = second[np.isfinite(second)]
    return float(1.4826 * np.median(np.abs(finite)) / 6.0) if finite.size else float("nan")
