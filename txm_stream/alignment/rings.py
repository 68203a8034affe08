"""Least squares in rings of spatial frequency, weighted by what each ring leaves unexplained.

Images are signals of unknown but isotropic spectrum in white noise. Fitting one by others, the right weight of a
frequency is one over what remains there: noise, and content that no column explains. All sums that such a fit needs are
Gram matrices per ring, computed once; weighting again costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from txm_stream.alignment.matching import RINGS, WORKERS, rings_of
from txm_stream.arrays import AnyArray, Image, Matrix, Vector


@dataclass(frozen=True, eq=False)
class RingFit:
    """Coefficients ``values`` (n,) and their ``covariance`` (n, n)."""

    values: Vector
    covariance: Matrix


class Rings:
    """Transforms of windowed images (y, x), sorted by rings of spatial frequency.

    Parameters
    ----------
    window
        (y, x), weights of the pixels in the fit.
    """

    def __init__(self, window: Image) -> None:
        ring, count = rings_of(window.shape[0], window.shape[1])
        twice = np.full(ring.shape, 2.0)  # rfft2 keeps one of two conjugate halves
        twice[:, 0] = 1
        if window.shape[1] % 2 == 0:
            twice[:, -1] = 1
        self.samples = np.maximum(np.bincount(ring.ravel(), weights=twice.ravel(), minlength=RINGS), 1)
        self.noise = float(window.sum(dtype=np.float64))
        """Power of unit white noise in every coefficient."""
        self._root = np.sqrt(window)
        self._order = np.argsort(ring.ravel(), kind="stable")
        self._multiplicity = np.sqrt(twice.ravel()[self._order]).astype(np.float32)
        self._ends = np.concatenate([[0], np.cumsum(count)])

    def transform(self, images: AnyArray) -> AnyArray:
        """Return transforms (n, F), complex64, of images (n, y, x); a conjugate pair counts as one of √2 the size."""
        out = scipy.fft.rfft2(images * self._root, workers=WORKERS)
        ordered = np.take(out.reshape(len(images), -1), self._order, axis=1)
        return np.asarray(ordered * self._multiplicity)

    def gram(self, a: AnyArray, b: AnyArray) -> AnyArray:
        """Return the real inner products (ring, n, m) of transforms (n, F) and (m, F)."""
        left, right = a.view(np.float32), b.view(np.float32)
        out = np.zeros((RINGS, len(a), len(b)))
        for ring in range(RINGS):
            part = slice(2 * self._ends[ring], 2 * self._ends[ring + 1])
            out[ring] = left[:, part] @ right[:, part].T
        return out

    def fit(self, inner: AnyArray, pull: AnyArray, power: AnyArray, *, reweighted: int = 2) -> RingFit:
        """Fit one transform by columns.

        Parameters
        ----------
        inner, pull, power
            Gram matrices per ring of the columns (ring, n, n), of columns and target (ring, n), of the target (ring,).
        reweighted
            How often the weights are found again from the residual; 0: all frequencies count the same.
        """
        weight = np.full(RINGS, 1 / self.noise)
        for again in range(reweighted + 1):
            normal = np.tensordot(weight, inner, axes=1)
            scale = np.sqrt(np.maximum(np.diag(normal), 1e-30))
            inverse = np.linalg.pinv(normal / np.outer(scale, scale), rcond=1e-9, hermitian=True)
            inverse /= np.outer(scale, scale)
            values = inverse @ (weight @ pull)
            if again == reweighted:
                break
            left = power - 2 * pull @ values + np.einsum("i,rij,j->r", values, inner, values)
            weight = 1 / np.maximum(left / self.samples, self.noise)
        return RingFit(values, np.asarray(inverse, dtype=np.float64))
