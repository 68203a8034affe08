"""Flats of a whole run: their common pattern and its few real changes, without most of their noise.

One flat per visit has as much noise as the visit itself, and half of the noise of the optical density is the
flat's. The pattern of illumination and optics hardly changes between flats, so all of them together give it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix
from txm_stream.subspace.gram import SmoothedGram
from txm_stream.subspace.rank import components_above_noise

LEAST_FLATS = 8
_MOST_PATTERNS = 4


class DynamicFlatField:
    """Flats as gain × (mean pattern + a few eigen-flats), each pixel averaged over all flats of the run.

    Parameters
    ----------
    read
        Returns flat ``i`` above dark (y, x), finite and positive inside ``mask``.
    n_flats
        Number of flats, at least ``LEAST_FLATS``.
    mask
        Pixels valid in every flat (y, x).
    relative_sigma
        Mean noise of one flat relative to its counts.

    Notes
    -----
    The eigen-flats are those above the noise in the smoothed Gram matrix of the flats divided by gain and mean; a
    change below the noise cannot be seen and is left in. ``variance_share`` is the noise variance of a returned flat
    relative to a single one.

    References
    ----------
    Van Nieuwenhove et al., Opt. Express 23, 27975 (2015), DOI 10.1364/OE.23.027975 (dynamic flat-field correction).
    """

    def __init__(self, read: Callable[[int], Image], n_flats: int, mask: Mask, relative_sigma: float) -> None:
        shape = (mask.shape[0], mask.shape[1])
        total = np.zeros(shape, dtype=np.float64)
        self.gains = np.zeros(n_flats)
        for i in range(n_flats):
            flat = read(i)
            self.gains[i] = float(np.median(flat[mask]))
            total += flat / self.gains[i]
        self.mean: Image = np.maximum(total / n_flats, 1e-6).astype(np.float32)
        gram = SmoothedGram(shape)
        everywhere = np.ones(shape, dtype=bool)

        def relative(i: int) -> Image:
            ratio = read(i) / np.float32(self.gains[i]) / self.mean - np.float32(1)
            return np.where(mask, ratio, np.float32(0)).astype(np.float32)

        for i in range(n_flats):
            # the median was a rough gain; what is left of it would look like a pattern
            self.gains[i] *= 1 + float(relative(i)[mask].mean(dtype=np.float64))
            gram.partial_fit(i, relative(i), everywhere, relative_sigma)
        spectrum = gram.spectrum()
        self.n_patterns = min(components_above_noise(spectrum, 1.0, margin=1.3), _MOST_PATTERNS)
        self._basis: Matrix = spectrum.vectors[:, : self.n_patterns]
        self._patterns = np.zeros((self.n_patterns, *shape), dtype=np.float32)
        for i in range(n_flats if self.n_patterns else 0):
            ratio = relative(i)
            for k in range(self.n_patterns):
                self._patterns[k] += np.float32(self._basis[i, k]) * ratio
        self.variance_share = (1.0 + self.n_patterns) / n_flats

    def like(self, flat: Image, mask: Mask) -> Image:
        """Return what the pattern says of a flat (y, x) above dark that came later, valid where ``mask``."""
        gain = np.float32(np.median(flat[mask] / self.mean[mask]))
        out = self.mean.copy()
        if self.n_patterns:
            ratio = (flat[mask] / gain / self.mean[mask] - 1).astype(np.float64)
            patterns = self._patterns[:, mask].astype(np.float64)
            loads = np.linalg.solve(patterns @ patterns.T, patterns @ ratio)
            out += self.mean * np.tensordot(loads.astype(np.float32), self._patterns, axes=1)
        return np.asarray(out * gain, dtype=np.float32)

    def flat(self, index: int) -> Image:
        """Return flat ``index`` (y, x) above dark, with ``variance_share`` of its own noise variance."""
        out = self.mean.copy()
        if self.n_patterns:
            out += self.mean * np.tensordot(self._basis[index].astype(np.float32), self._patterns, axes=1)
        return np.asarray(out * np.float32(self.gains[index]), dtype=np.float32)
