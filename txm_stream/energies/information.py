"""What visits tell about abundances: rows of the least-squares problem, its variance, the gain of one more visit.

A pixel is y_t = s a_tᵀx + q₀ + q₁ E_t + noise of standard deviation σ_t. With rows r_t = [a_t, 1, E_t]/σ_t and
H = Σ r_t r_tᵀ the scaled abundances have covariance H⁻¹; abundances x on the simplex, at edge jump 1, the covariance
(I − x1ᵀ) H⁻¹ (I − 1xᵀ), whose trace is averaged over the whole simplex: E x = 1/L, E‖x‖² = 2/(L + 1).
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.errors import BadReferenceError

PRE_EDGE = 0.05
"""Pre-edge: where no state absorbs more than this share of an edge jump."""
PRIOR = 1e-6
"""Abundances known to ± 1000: keeps the first steps finite with more unknowns than visits."""


def information_rows(
    energies_eV: Vector, values: Matrix, noise: AnyArray, *, centre_eV: float, width_eV: float
) -> Matrix:
    """Return [references, 1, (E − centre)/width] over the noise, (C, L + 2), of references ``values`` (C, L)."""
    axis = (np.asarray(energies_eV, dtype=np.float64) - centre_eV) / max(width_eV, 1e-9)
    return np.asarray(np.column_stack([values, np.ones_like(axis), axis]) / np.asarray(noise)[:, None])


def information(rows: Matrix, counts: AnyArray | None = None) -> Matrix:
    """Return H (L + 2, L + 2) of visits (n, L + 2), each made ``counts`` times, made positive definite."""
    weighted = rows if counts is None else rows * np.asarray(counts)[:, None]
    return np.asarray(weighted.T @ rows + PRIOR * np.eye(rows.shape[1]))


def variance(h: Matrix, states: int) -> float:
    """Return the summed variance of the abundances, mean over the simplex."""
    covariance = np.linalg.inv(h)[:states, :states]
    total = float(covariance.sum())
    return float(np.trace(covariance)) - 2 * total / states + total * 2 / (states + 1)


def spread_and_leverage(rows: Matrix, h: Matrix, states: int) -> tuple[Vector, Vector]:
    """Return mean_x ‖(I − x1ᵀ)[H⁻¹r]₁…L‖² and rᵀH⁻¹r of candidates with rows r (C, ≥ L): (C,) each."""
    solved = np.linalg.inv(h) @ rows.T
    g = solved[:states]
    total = g.sum(axis=0)
    spread = (g**2).sum(axis=0) - 2 * total**2 / states + total**2 * 2 / (states + 1)
    return spread, (rows.T * solved).sum(axis=0)


def gain(rows: Matrix, h: Matrix, states: int, *, visits: int = 1) -> Vector:
    """Return what so many more visits at each candidate (C, ≥ L) take off the summed variance (C,).

    Rank-one update, Fedorov, Theory of Optimal Experiments (1972), eq. 2.5.2:
    mean_x ‖(I − x1ᵀ)[H⁻¹r]₁…L‖² / (1/visits + rᵀH⁻¹r).
    """
    spread, leverage = spread_and_leverage(rows, h, states)
    return np.asarray(spread / (1 / visits + leverage))


def start_visits(energies_eV: Vector, values: Matrix) -> list[int]:
    """Return five candidates: two pre-edge, the white line, two post-edge.

    Parameters
    ----------
    energies_eV, values
        (C,) ascending, and the references (C, L) there.

    Raises
    ------
    BadReferenceError
        Fewer than two candidates before the edge or after the white line.
    """
    mean = values.mean(axis=1) if len(values) else np.zeros(0)
    rising = np.flatnonzero(np.abs(values).max(axis=1) > PRE_EDGE) if len(values) else np.zeros(0, dtype=np.intp)
    before = int(rising[0]) if len(rising) else len(energies_eV)
    line = int(np.argmax(mean)) if len(mean) else 0
    after = len(energies_eV) - line - 1
    if before < 2 or after < 2 or line < before:
        raise BadReferenceError(
            f"{before} candidates lie before the edge and {max(after, 0)} after the white line, at least 2 each are "
            "needed; widen the candidate energies or the references"
        )
    return sorted({0, before - 1, line, line + (after + 1) // 2, len(energies_eV) - 1})
