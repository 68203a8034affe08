"""What errors that all pixels of a visit share do to a map, once there is one: its pixels say what the shift is.

With whitened references A(E + δ) and background N, P the projector on what [A, N] leaves and A' the slope of A per eV,
a pixel with amounts a_p = s_p x_p changes by g_p = A' a_p per eV. Least squares over all pixels finds
δ = Σ_p g_pᵀP y_p / Σ_p g_pᵀP g_p. What the pixels share, f with an rms of τ, enters through their mean ḡ only;
what they do not, noise ν, through all: var δ = (τ² ‖Pḡ‖² + ν²/n (G − ‖Pḡ‖²))/G² with G the mean of ‖Pg_p‖².
The more the pixels differ in thickness and composition, the less a shared error moves the shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Mask, Matrix, Vector
from txm_stream.energies.common_error import SHIFT_PRIOR_EV, common_rows, slopes_of
from txm_stream.unmixing.references import References

MOST_RMSE = 0.5
"""Abundances lie between 0 and 1: larger errors are not known, either."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What the pixels inside the particles contain, or some of them.

    ``abundances`` (L, n); ``scale`` (n,) their edge jump in OD; ``n_pixels`` that they stand for.
    """

    abundances: Matrix
    scale: Vector
    n_pixels: int

    @property
    def edge_jump(self) -> float:
        """Mean edge jump in OD."""
        return max(float(self.scale.mean()), 1e-6)

    @property
    def amounts(self) -> Matrix:
        """Scaled abundances (L, n) in units of the mean edge jump."""
        return np.asarray(self.scale / self.edge_jump * self.abundances)

    @classmethod
    def of(cls, abundances: AnyArray, scale: AnyArray, inside: AnyArray, *, at_most: int = 2000) -> Contents | None:
        """Return the contents of a map (L, y, x) with scale (y, x), of evenly chosen pixels; ``None`` of no pixel."""
        told = np.flatnonzero(inside & np.isfinite(abundances).all(axis=0))
        if not told.size:
            return None
        some = told[:: max(len(told) // at_most, 1)]
        chosen = abundances.reshape(len(abundances), -1)[:, some].astype(np.float64)
        return cls(chosen, scale.ravel()[some].astype(np.float64), len(told))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of covered visits: ``fixed`` (n, L + 2), ``slopes`` (n, L) and what is ``left`` beyond ``fixed``."""

    covered: Mask
    weights: Vector
    fixed: Matrix
    slopes: Matrix
    left: Matrix


def _rows(references: References, energies_eV: Vector, sigma: Vector, shift_eV: float) -> _Rows:
    centre, width = float(np.mean(energies_eV)), float(np.ptp(energies_eV))
    rows = common_rows(references, energies_eV, shift_eV=shift_eV, centre_eV=centre, width_eV=width)[:, :-1]
    slopes = slopes_of(references, energies_eV, shift_eV=shift_eV)
    covered = np.isfinite(rows).all(axis=1) & np.isfinite(slopes).all(axis=1) & np.isfinite(sigma)
    weights = 1 / sigma[covered]
    fixed, changing = weights[:, None] * rows[covered], weights[:, None] * slopes[covered]
    left = changing - fixed @ np.linalg.lstsq(fixed, changing, rcond=None)[0] if len(fixed) else changing
    return _Rows(covered, weights, fixed, changing, left)


def contrast_information(
    references: References, energies_eV: Vector, sigma: Vector, contents: Contents, *, shift_eV: float = 0.0
) -> float:
    """Return what differences between pixels tell of the energy shift, in 1/eV²: no shared error touches them.

    Parameters
    ----------
    energies_eV, sigma
        Visits (T,) and the noise of a pixel in each in OD, ``inf`` where rejected.
    """
    rows = _rows(references, energies_eV, sigma, shift_eV)
    if len(rows.fixed) <= rows.fixed.shape[1]:
        return 0.0
    amounts = contents.amounts * contents.edge_jump
    spread = np.cov(amounts, bias=True).reshape(len(amounts), len(amounts))
    return float(contents.n_pixels * np.sum((rows.left.T @ rows.left) * spread))


def common_rmse(
    references: References,
    energies_eV: Vector,
    sigma: Vector,
    mean_od: Vector,
    contents: Contents,
    *,
    shift_eV: float,
) -> tuple[float, float]:
    """Return the rms error that shared errors put into the abundances of a map, and the error of its shift in eV.

    Parameters
    ----------
    energies_eV, sigma
        Visits (T,) and the noise of a pixel in each in OD, ``inf`` where rejected.
    mean_od
        (T,) mean optical density of the pixels inside the particles.
    shift_eV
        Fitted shift.

    Notes
    -----
    τ² is what the mean pixel scatters about its own fit, over T − L − 3 degrees of freedom. The abundances of pixel p
    err by (1 − x_p 1ᵀ)(C f/s_p − C A' x_p δ), C the least-squares rows of A. Both NaN without a degree of freedom.
    """
    rows = _rows(references, energies_eV, sigma, shift_eV)
    states, mean = len(references.names), contents.amounts.mean(axis=1)
    y = rows.weights * mean_od[rows.covered] / contents.edge_jump
    full = np.column_stack([rows.fixed, rows.slopes @ mean])
    freedom = len(full) - full.shape[1]
    if freedom < 1:
        return float("nan"), float("nan")
    rest = (y - full @ np.linalg.lstsq(full, y, rcond=None)[0]) / rows.weights
    tau = float(np.sqrt(max(rest @ rest, 1e-12) / freedom))
    amounts, scale = contents.amounts, contents.scale / contents.edge_jump
    heard = rows.left.T @ rows.left
    by_all = max(float(np.sum(heard * (amounts @ amounts.T))) / scale.size, 1e-12)
    by_mean = float(mean @ heard @ mean)
    of_shift = rows.weights * (rows.left @ mean) / by_all  # (n,) δ for shared errors f
    alone = max(by_all - by_mean, 0.0) / by_all**2 / contents.edge_jump**2 / contents.n_pixels
    free = tau**2 * float(of_shift @ of_shift) + alone
    known = 1 / (1 + free / SHIFT_PRIOR_EV**2)
    inverse = np.linalg.pinv(rows.fixed)[:states]
    centred = np.eye(states)[:, :, None] - contents.abundances[:, None, :]
    per_eV = np.einsum("ijn,jn->in", centred, inverse @ rows.slopes @ contents.abundances)
    shared = np.einsum("ijn,jk->ikn", centred, inverse * rows.weights) / scale
    shared -= per_eV[:, None, :] * np.sqrt(known) * of_shift[None, :, None]
    squared = tau**2 * np.mean(shared**2, axis=(0, 2)).sum() + known * alone * np.mean(per_eV**2)
    return min(float(np.sqrt(squared)), MOST_RMSE), float(np.sqrt(known * free))
