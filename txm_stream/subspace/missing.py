"""Pixels that some visits did not see: predicted from the visits that did, and from their neighbours.

A registered frame misses a strip along its border, another one in every visit. With y = V c + noise of unit variance,
the rows V_o of the visits that saw a pixel and G = V_oᵀ V_o, c = G⁻¹ V_oᵀ y_o is unbiased; but where few visits are
left, some directions of c drown in noise. There neighbours know more: c deviates from their mean m with a covariance S,
which, given the other directions, says Λ about those (Λ S Λ = Λ; Λ = S⁻¹ were all of them lost). Both give
ĉ = P (V_oᵀ y_o + Λ m), P = (G + Λ)⁻¹ (simple kriging). Filling the other visits with V ĉ makes every later sum over
visits exact, at a price: with M = 1 − G, Vᵀ y_filled has the covariance (1 + M P) G (1 + P M) + M P Λ P M, the unit
matrix where nothing is missing and G⁻¹ without neighbours. Its last term is an error that neighbours share; no denoiser
removes it, so that they are asked only where they must be, and a pixel is given up where it would be too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Vector

INFLATION_AT_MOST = 16.0
"""A pixel whose worst component has more than this many times the noise variance of a complete one is given up."""
SHARED_AT_MOST = 4.0
"""The same for the part that comes from neighbours: no denoiser takes it away."""
_ENOUGH = 0.2
"""Directions of the loads of which more than this is seen do without neighbours: white noise is denoised later."""
_HASH = np.uint64(0x9E3779B97F4A7C15)
_NOTHING = 1e-9


@dataclass(frozen=True, eq=False)
class Expected:
    """What neighbours say of P pixels: ``loads`` (K, P) ± ``covariance`` (D, K, K), of which ``which`` (P,) holds.

    Deviations r px apart are alike by exp(−r²/4s²) with s = ``alike_px``.
    """

    loads: Matrix
    covariance: Matrix
    which: AnyArray
    alike_px: float = 1.0


@dataclass(frozen=True, eq=False)
class LoadNoise:
    """Noise of the loads of completed pixels, in units of that of a complete one.

    ``basis`` (T, K); ``covariance`` (U, K, K) and the part of it that comes from neighbours, and is shared with them,
    ``shared`` (U, K, K), of U kinds of pixels; inf where nothing can be said; ``kind`` (P,) of the pixels; what is
    shared is alike over ``alike_px``, see :class:`Expected`.
    """

    basis: Matrix
    covariance: Matrix
    shared: Matrix
    kind: AnyArray
    alike_px: float = 1.0

    @property
    def known(self) -> Mask:
        """Which pixels (P,) could be completed."""
        return np.asarray(np.isfinite(self.covariance[:, 0, 0])[self.kind])

    def variance(self, directions: Matrix) -> tuple[Vector, Vector]:
        """Return the noise variance (P,) of sums over visits with weights (T, n), all of it and the shared part.

        Over that of a complete pixel, mean over the n sums; inf where unknown.
        """
        along = self.basis.T @ directions
        usual = max(float((along**2).sum()), _NOTHING)
        known = np.isfinite(self.covariance[:, 0, 0])
        parts = []
        for part in (self.covariance, self.shared):
            value = np.full(len(part), np.inf)
            value[known] = np.einsum("kn,ukl,ln->u", along, part[known], along, optimize=True) / usual
            parts.append(value[self.kind])
        return parts[0], parts[1]


def complete(values: AnyArray, seen: Mask, basis: Matrix, expected: Expected | None = None) -> tuple[Image, LoadNoise]:
    """Fill whitened values (T, P) where ``seen`` (T, P) is False, from ``basis`` (T, K) with orthonormal columns.

    Returns
    -------
    filled
        (T, P) float32; pixels of which too little is known are left as they are.
    noise
        What it costs.

    References
    ----------
    Brand, "Incremental singular value decomposition of uncertain data with missing values", ECCV 2002,
    DOI 10.1007/3-540-47969-4_47, section 3; Cressie, *Statistics for Spatial Data*, Wiley 1993,
    DOI 10.1002/9781119115151, chapter 3 (simple kriging).
    """
    filled = np.array(values, dtype=np.float32)
    first, kind = _kinds(seen, expected)
    one = np.eye(basis.shape[1])
    covariance, shared = np.full((2, len(first), *one.shape), np.inf)
    order, ends = np.argsort(kind, kind="stable"), np.cumsum(np.bincount(kind, minlength=len(first)))
    for k, pixel in enumerate(first):
        pixels = order[ends[k - 1] if k else 0 : ends[k]]
        rows = seen[:, pixel]
        known = basis[rows].T @ basis[rows]
        prior = _where_needed(known, None if expected is None else expected.covariance[expected.which[pixel]])
        if rows.sum() < len(one) or np.linalg.eigvalsh(known + prior)[0] < _NOTHING:
            continue
        posterior = np.linalg.inv(known + prior)
        lost = (one - known) @ posterior
        of_neighbours = lost @ prior @ lost.T
        whole = (one + lost) @ known @ (one + lost).T + of_neighbours
        if np.linalg.eigvalsh(whole)[-1] > INFLATION_AT_MOST or np.linalg.eigvalsh(of_neighbours)[-1] > SHARED_AT_MOST:
            continue
        covariance[k], shared[k] = whole, of_neighbours
        sums = basis[rows].T @ values[np.ix_(rows, pixels)]
        if expected is not None:
            sums = sums + prior @ expected.loads[:, pixels]
        filled[np.ix_(~rows, pixels)] = basis[~rows] @ (posterior @ sums)
    return filled, LoadNoise(basis, covariance, shared, kind, 1.0 if expected is None else expected.alike_px)


def _where_needed(known: Matrix, covariance: Matrix | None) -> Matrix:
    """Return the information of neighbours (K, K) about directions that drown in noise, given the others."""
    values, axes = np.linalg.eigh(known)
    lost = values < _ENOUGH
    if covariance is None or not lost.any():
        return np.zeros_like(known)
    turned = axes.T @ covariance @ axes
    slope = np.linalg.solve(turned[np.ix_(~lost, ~lost)], turned[np.ix_(~lost, lost)]).T
    rest = turned[np.ix_(lost, lost)] - slope @ turned[np.ix_(~lost, lost)]
    along = axes[:, lost].T - slope @ axes[:, ~lost].T
    return np.asarray(along.T @ np.linalg.solve(rest, along))


def _kinds(seen: Mask, expected: Expected | None) -> tuple[AnyArray, AnyArray]:
    """Return the first pixel of each kind and the kind of each pixel (P,): same visits, same distance."""
    key = np.zeros(seen.shape[1], dtype=np.uint64) if expected is None else expected.which.astype(np.uint64)
    for row in seen:
        key = (key ^ (key >> np.uint64(29))) * _HASH + row
    _, first, kind = np.unique(key, return_index=True, return_inverse=True)
    return first, kind
