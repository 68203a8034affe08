"""Temporal subspace of a growing stack from the Gram matrix of smoothed, decimated frames.

White noise averages out under smoothing, images do not: the second component's angle error falls from 17° to
8° at a noise of 50/255 against the SVD of the raw stack. Every row is exact at any time, so the subspace of
a stream equals the batch answer, and replacing a visit is exact as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from txm_stream.arrays import Image, Mask, Matrix, Vector
from txm_stream.subspace.common_gram import CommonGram
from txm_stream.subspace.noise import noise_of_gram

SMOOTHING_PX = 2.0
_TRUNCATE = 3.0
_NOISE_SAMPLES = 20000
_LEAST_VISITS = 8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigen-decomposition of the whitened smoothed Gram matrix.

    ``values`` (T,) descending and ``vectors`` (T, T) by column, sign fixed so that each column's sum is ≥ 0;
    ``n_samples`` smoothed pixels, of which ``n_effective`` are independent; ``gain`` is the variance of
    smoothed unit white noise.
    """

    values: Vector
    vectors: Matrix
    n_samples: int
    n_effective: float
    gain: float


class SmoothedGram:
    """Streaming Gram matrix of visits; memory grows by (y·x)/step² float32 per visit, plus the noise samples.

    Parameters
    ----------
    shape
        Image size (y, x).
    smoothing_px
        Standard deviation of the Gaussian in px.
    """

    def __init__(self, shape: tuple[int, int], *, smoothing_px: float = SMOOTHING_PX) -> None:
        self.shape = shape
        self.smoothing_px = smoothing_px
        self.step = 4 if min(shape) >= 160 else 2
        self._smooth = CommonGram()
        self._raw = CommonGram()
        self._sigma: list[float] = []
        self._factor: list[float] = []
        offset, stride = self.step // 2, max(3, int(np.ceil(np.sqrt(shape[0] * shape[1] / _NOISE_SAMPLES))))
        self._lattice = slice(offset, None, self.step)
        self._noise_lattice = slice(stride // 2, None, stride)
        self._smoothing = [_smoothing(n, smoothing_px, self._lattice) for n in shape]
        probe = np.zeros((33, 33))
        probe[16, 16] = 1.0
        response = ndimage.gaussian_filter(probe, smoothing_px, truncate=_TRUNCATE)
        self.gain = float((response**2).sum())
        correlation = np.exp(-((np.arange(-8, 9) * self.step) ** 2) / (4 * smoothing_px**2))
        self._crowding = float((correlation**2).sum() ** 2)

    def __len__(self) -> int:
        return len(self._sigma)

    def partial_fit(self, index: int, image: Image, field: Mask, sigma: float, factor: float = 1.0) -> None:
        """Add visit ``index`` (= number of visits so far) or replace it.

        ``image`` (y, x) must be finite everywhere (fill invalid pixels); ``field`` is True where the registered
        frame shows measured pixels; ``sigma`` is the visit's noise before resampling, in units of the image, and
        ``factor`` what resampling did to its variance: it lowers the noise of a pixel, not of a smoothed one.
        """
        rows, columns = self._smoothing
        small = np.ascontiguousarray((columns @ (rows @ image).T).T, dtype=np.float32)
        raw = np.ascontiguousarray(image[self._noise_lattice, self._noise_lattice], dtype=np.float32)
        reach = 2 * int(np.ceil(2 * self.smoothing_px)) + 1
        clear = _all_within(field, reach)
        inside, raw_inside = (
            _all_within(clear[lattice].T, reach).T[:, lattice] for lattice in (self._lattice, self._noise_lattice)
        )
        self._smooth.put(index, small.ravel(), inside.ravel())
        self._raw.put(index, raw.ravel(), raw_inside.ravel())
        if index == len(self._sigma):
            self._sigma.append(float(sigma))
            self._factor.append(float(factor))
        else:
            self._sigma[index], self._factor[index] = float(sigma), float(factor)

    @property
    def sigma(self) -> Vector:
        """Noise of every visit as given, shape (T,)."""
        return np.asarray(self._sigma)

    @property
    def factor(self) -> Vector:
        """Variance factor of resampling of every visit, shape (T,)."""
        return np.asarray(self._factor)

    def spectrum(self, keep: Vector | None = None) -> Spectrum:
        """Return the eigen-decomposition of the Gram matrix of whitened visits.

        ``keep`` (T,) weights visits; 0 takes a rejected visit out (its row of ``vectors`` is then 0).
        """
        kept = np.ones(len(self)) if keep is None else np.asarray(keep, dtype=np.float64)
        gram, count = self._smooth.matrix(kept)
        weight = kept / self.sigma
        values, vectors = np.linalg.eigh(gram * weight[:, None] * weight)
        values, vectors = values[::-1], vectors[:, ::-1]
        vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
        return Spectrum(
            np.clip(values, 0, None), np.ascontiguousarray(vectors), count, count / self._crowding, self.gain
        )

    def noise_level(self, keep: Vector | None = None) -> float:
        """Return the noise over what the visits' σ say, from unsmoothed pixels on a coarse lattice.

        1 where it cannot be measured: fewer than 8 visits, or too few pixels for them.
        """
        kept = np.ones(len(self)) if keep is None else np.asarray(keep, dtype=np.float64)
        used = np.flatnonzero(kept > 0)
        gram, count = self._raw.matrix(kept)
        if len(used) < _LEAST_VISITS or count <= 2 * len(used):
            return 1.0
        level = (self.sigma * np.sqrt(self.factor))[used]
        return noise_of_gram(gram[np.ix_(used, used)] / np.outer(level, level), count)


def _all_within(mask: Mask, reach: int) -> Mask:
    """Return where the mask is True on all ``reach`` (odd) rows about a row; beyond its end it is False.

    By doubling the rows taken together, ten times faster than a running minimum.
    """
    half = reach // 2
    together = np.pad(mask, ((half, half), (0, 0)))
    width = 1
    while 2 * width <= reach:
        together = together[:-width] & together[width:]
        width *= 2
    if width < reach:
        together = together[: len(mask)] & together[reach - width :]
    return np.asarray(together, dtype=bool)


def _smoothing(n: int, sigma_px: float, lattice: slice) -> sparse.csr_array:
    """Return the matrix that smooths n pixels by a Gaussian, borders replicated, and takes those on a lattice."""
    full = ndimage.gaussian_filter1d(np.eye(n), sigma_px, axis=0, truncate=_TRUNCATE, mode="nearest")
    return sparse.csr_array(full[lattice].astype(np.float32))
