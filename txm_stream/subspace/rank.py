"""Rank of the signal by parallel analysis on the smoothed Gram spectrum."""

from __future__ import annotations

import numpy as np

from txm_stream.results import K_MAX
from txm_stream.subspace.gram import Spectrum

SLACK = 1.05
"""Margin on the largest noise eigenvalue: whitening is exact per visit, not per pixel."""


def noise_edge(spectrum: Spectrum, sigma: float, n_visits: int) -> float:
    """Return the largest eigenvalue that smoothed white noise of ``sigma`` would show.

    Upper edge of the Marchenko–Pastur law with the effective number of independent smoothed pixels, plus
    two standard deviations of its Tracy–Widom fluctuation.
    """
    n = max(spectrum.n_effective, 1.0)
    root = np.sqrt(n) + np.sqrt(n_visits)
    fluctuation = root * (1 / np.sqrt(n) + 1 / np.sqrt(n_visits)) ** (1 / 3)
    return float(sigma**2 * spectrum.gain * spectrum.n_samples / n * (root**2 + 2 * fluctuation))


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
