"""Rank and temporal vectors of the signal by parallel analysis on the smoothed Gram spectrum."""

from __future__ import annotations

import numpy as np
import scipy.fft

from txm_stream.arrays import Mask, Matrix, Vector
from txm_stream.results import K_MAX
from txm_stream.subspace.gram import Spectrum

SLACK = 1.05
"""Margin on the largest noise eigenvalue: whitening is exact per visit, not per pixel."""

LEAST_VISITS = 24
"""With fewer visits the spectra are not smooth over visits."""
_VISITS_PER_COSINE, _LEAST_COSINES = 8, 8
_CLEARLY = 1.3
"""Where visits are as many as independent pixels the noise edge is only good to some percent."""


def noise_edge(spectrum: Spectrum, sigma: float, n_visits: int, *, deviations: float = 2.0) -> float:
    """Return the largest eigenvalue that smoothed white noise of ``sigma`` would show.

    Upper edge of the Marchenko–Pastur law with the effective number of independent smoothed pixels, plus
    ``deviations`` standard deviations of its Tracy–Widom fluctuation; without them noise is above it once in six times.
    """
    n = max(spectrum.n_effective, 1.0)
    root = np.sqrt(n) + np.sqrt(n_visits)
    fluctuation = root * (1 / np.sqrt(n) + 1 / np.sqrt(n_visits)) ** (1 / 3)
    return float(sigma**2 * spectrum.gain * spectrum.n_samples / n * (root**2 + deviations * fluctuation))


def parallel_analysis(spectrum: Spectrum, sigma: float, *, at_least: int = 2) -> int:
    """Return the number of components above the noise, between ``at_least`` and K_MAX, never above T.

    Never select the rank on frame error: at high noise that prefers one component and loses the chemistry.
    """
    visits = int(np.sum(spectrum.values > 0))
    return int(min(max(components_above_noise(spectrum, sigma), at_least), K_MAX, max(visits, 1)))


def components_above_noise(spectrum: Spectrum, sigma: float, *, margin: float = SLACK) -> int:
    """Return how many eigenvalues exceed ``margin`` times the noise edge."""
    visits = int(np.sum(spectrum.values > 0))
    return int(np.sum(spectrum.values > margin * noise_edge(spectrum, sigma, max(visits, 1))))


def leading_basis(
    spectrum: Spectrum,
    sigma: float,
    keep: Mask,
    *,
    energies_eV: Vector | None = None,
    at_least: int = 2,
    at_most: int = K_MAX,
) -> Matrix:
    """Return temporal vectors (T, K), orthonormal, of the components above the noise, zero in visits not kept.

    Parameters
    ----------
    keep
        (T,), False where a visit has no weight.
    energies_eV
        (T,), any order; ``None``: the visits are in order of energy.
    at_least, at_most
        Bounds of K; what is missing comes from the smoothest of the rest.

    Notes
    -----
    Spectra are smooth in energy. Parallel analysis in the space of the lowest T/8 cosines over energy has T/8 times
    less noise to tell them from: at σ = 150/255 it finds components that are hidden in the full spectrum. One after the
    other is compared with what noise would show in the cosines that are left, without a margin: a false component, in
    one stack of six or fewer, costs 4 % in error, as the denoiser leaves little of it; a missing one costs a state.
    What is left after regression on their images counts where it is clearly above the noise (rough in energy: other
    orders of the frames, single deviating frames). One power iteration gives the vectors their full resolution.
    """
    used = np.flatnonzero(keep)
    limit = min(at_most, len(used))
    floor = min(at_least, limit)
    if len(used) < LEAST_VISITS:
        return spectrum.vectors[:, : min(parallel_analysis(spectrum, sigma, at_least=at_least), limit)] * keep[:, None]
    order = used if energies_eV is None else used[np.argsort(np.asarray(energies_eV)[used], kind="stable")]
    count = max(_LEAST_COSINES, len(used) // _VISITS_PER_COSINE)
    cosines = np.zeros((len(keep), count))
    cosines[order] = scipy.fft.idct(np.eye(len(used))[:, :count], axis=0, norm="ortho")
    root = spectrum.vectors * np.sqrt(np.maximum(spectrum.values, 0))
    turned, values, _ = np.linalg.svd(cosines.T @ root, full_matrices=False)
    smooth = 0
    while smooth < min(limit, count) and values[smooth] ** 2 > noise_edge(
        spectrum, sigma, count - smooth, deviations=0
    ):
        smooth += 1
    images = np.linalg.qr(root.T @ cosines @ turned[:, :smooth])[0]
    left, rest, _ = np.linalg.svd(root - (root @ images) @ images.T, full_matrices=False)
    rough = min(int(np.sum(rest**2 > _CLEARLY * noise_edge(spectrum, sigma, len(used)))), limit - smooth)
    smooth = min(max(smooth, floor - rough), count)
    basis = np.concatenate([cosines @ turned[:, :smooth], left[:, :rough]], axis=1)
    return np.linalg.svd(root @ (root.T @ basis), full_matrices=False)[0] * keep[:, None]
