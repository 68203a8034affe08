"""Which energies to measure for known references: greedy A-optimal design with repeats and background [1, E]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.references import References

_PRE_EDGE = 0.05
"""Pre-edge: where no state absorbs more than this share of an edge jump."""
_MANDATORY = 5


@dataclass(frozen=True, eq=False)
class Plan:
    """A measurement plan.

    ``energies_eV`` (n_e,) ascending in eV; ``repeats`` (n_e,) visits at each; ``predicted_rmse`` the expected
    rms error of an abundance in a pixel of edge jump 1, by least squares, before any denoising.
    """

    energies_eV: Vector
    repeats: AnyArray
    predicted_rmse: float


def select_energies(
    candidates_eV: AnyArray,
    references: References | AnyArray,
    *,
    n: int,
    sigma: float = 0.05,
    move_s: float = 0.0,
    exposure_s: float = 1.0,
) -> Plan:
    """Select ``n`` visits among candidate energies so that the chemical map is best.

    Parameters
    ----------
    candidates_eV
        (C,) in eV; those outside the references are not used.
    references
        :class:`References`, or their values (C, L) in edge jumps at the candidates.
    n
        Visits, repeats counted; at least 5, and two more than there are states.
    sigma
        Noise of one visit, in edge jumps.
    move_s, exposure_s
        Time in s to go to another energy, and of one exposure: the design maximises information per second, and a
        repeat where the scan already stops costs the exposure only.

    Returns
    -------
    Plan

    Raises
    ------
    BadReferenceError
        Shapes do not fit, ``n`` too small, or candidates that do not span the edge or cannot tell the states apart.

    Notes
    -----
    Starts with two pre-edge energies, the white line and two post-edge energies; then adds the visit t that maximises
    mean_x ‖(I − x1ᵀ)[H⁻¹a_t]₁…L‖² / (σ² + a_tᵀH⁻¹a_t) per second, a_t = [references, 1, E], the mean over the
    whole simplex of abundances x. Cost: n small matrix products with all candidates.
    """
    candidates = np.asarray(candidates_eV, dtype=np.float64).ravel()
    values = references.at(candidates) if isinstance(references, References) else np.asarray(references, np.float64)
    if values.ndim != 2 or len(values) != len(candidates) or not values.shape[1]:
        raise BadReferenceError(f"references have shape {values.shape}, expected ({len(candidates)}, states)")
    if not sigma > 0 or not exposure_s > 0 or move_s < 0:
        raise BadReferenceError(f"sigma {sigma}, exposure_s {exposure_s} and move_s {move_s} must be positive")
    covered = np.isfinite(values).all(axis=1) & np.isfinite(candidates)
    energies, first = np.unique(candidates[covered], return_index=True)
    values = values[covered][first]
    states = values.shape[1]
    if n < max(_MANDATORY, states + 2):
        raise BadReferenceError(
            f"n is {n}; {states} states with a background need at least {max(_MANDATORY, states + 2)} visits"
        )
    start = mandatory_visits(energies, values)
    axis = (energies - energies.mean()) / max(float(np.ptp(energies)), 1e-9)
    rows = np.column_stack([values, np.ones_like(axis), axis]) / sigma
    counts = np.zeros(len(energies), dtype=np.intp)
    counts[start] = 1
    # a faint prior (abundances known to ±1000) keeps the first steps finite with more unknowns than visits
    information = rows[start].T @ rows[start] + 1e-6 * np.eye(states + 2)
    for _ in range(n - len(start)):
        best = int(np.argmax(_gain(rows, information, states) / (exposure_s + np.where(counts > 0, 0.0, move_s))))
        counts[best] += 1
        information = information + np.outer(rows[best], rows[best])
    chosen = counts > 0
    total = (rows * counts[:, None]).T @ rows
    scale = np.sqrt(np.maximum(np.diag(total), 1e-300))
    if np.linalg.cond(total / np.outer(scale, scale)) > 1e12:
        raise BadReferenceError(
            f"the candidates cannot tell the {states} states apart from each other and a linear background; "
            f"remove a state or add energies where they differ"
        )
    covariance = np.asarray(np.linalg.inv(total), dtype=np.float64)[:states, :states]
    return Plan(energies[chosen], counts[chosen], float(np.sqrt(_simplex_mean(covariance) / states)))


def mandatory_visits(energies_eV: Vector, values: Matrix) -> list[int]:
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
    rising = np.flatnonzero(np.abs(values).max(axis=1) > _PRE_EDGE) if len(values) else np.zeros(0, dtype=np.intp)
    before = int(rising[0]) if len(rising) else len(energies_eV)
    line = int(np.argmax(mean)) if len(mean) else 0
    after = len(energies_eV) - line - 1
    if before < 2 or after < 2 or line < before:
        raise BadReferenceError(
            f"{before} candidates lie before the edge and {max(after, 0)} after the white line, at least 2 each are "
            "needed; widen the candidate energies or the references"
        )
    return sorted({0, before - 1, line, line + (after + 1) // 2, len(energies_eV) - 1})


def _gain(rows: Matrix, information: Matrix, states: int) -> Vector:
    """Return what one more visit at each candidate takes off the summed variance of the abundances (C,)."""
    solved = np.linalg.solve(information, rows.T)
    g = solved[:states]
    total = g.sum(axis=0)
    spread = (g**2).sum(axis=0) - 2 * total**2 / states + total**2 * 2 / (states + 1)
    return np.asarray(spread / (1 + (rows * solved.T).sum(axis=1)))


def _simplex_mean(covariance: Matrix) -> float:
    """Return the mean over the simplex of tr((I − x1ᵀ) C (I − x1ᵀ)ᵀ): E x = 1/L, E ‖x‖² = 2/(L + 1)."""
    states, total = len(covariance), float(covariance.sum())
    return float(np.trace(covariance)) - 2 * total / states + total * 2 / (states + 1)
