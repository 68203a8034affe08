"""Which energies to measure for known references: greedy A-optimal design with repeats and background [1, E]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.energies.common_error import LEAST_ERROR, common_information, common_rows
from txm_stream.energies.information import gain, information, information_rows, start_visits, variance
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.references import References

LEAST_VISITS = 5
_CALIBRATED_EVERY = 10


@dataclass(frozen=True, eq=False)
class Plan:
    """A measurement plan.

    ``energies_eV`` (n_e,) ascending in eV; ``repeats`` (n_e,) visits at each; ``predicted_rmse`` the expected
    rms error of an abundance in a pixel of edge jump 1, by least squares, before any denoising; ``sequence_eV`` (n,)
    the visits in the order in which they were chosen: its beginnings are the plans for smaller n.
    """

    energies_eV: Vector
    repeats: AnyArray
    predicted_rmse: float
    sequence_eV: Vector


def select_energies(
    candidates_eV: AnyArray,
    references: References | AnyArray,
    *,
    n: int,
    sigma: AnyArray | float = 0.05,
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
        Noise of one visit in edge jumps, one value or (C,) where flux and absorption make it differ.
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
    Starts with two pre-edge energies, the white line and two post-edge energies; then adds the visit t that takes most
    off the logarithm of the variance per second, −lg(1 − g_t/V) / s_t, with
    g_t = mean_x ‖(I − x1ᵀ)[H⁻¹a_t]₁…L‖² / (σ² + a_tᵀH⁻¹a_t), a_t = [references, 1, E], the mean over the whole
    simplex of abundances x. As long as the same number of visits spread evenly over the candidates would do better,
    time does not count: else energies are repeated that cannot tell the states apart. Every tenth visit is the one
    that says most of the energy shift, which is fitted to the scan, see :mod:`.common_error`. Cost: n small matrix
    products with all candidates.
    """
    candidates = np.asarray(candidates_eV, dtype=np.float64).ravel()
    values = references.at(candidates) if isinstance(references, References) else np.asarray(references, np.float64)
    if values.ndim != 2 or len(values) != len(candidates) or not values.shape[1]:
        raise BadReferenceError(f"references have shape {values.shape}, expected ({len(candidates)}, states)")
    noise = np.broadcast_to(np.asarray(sigma, dtype=np.float64), candidates.shape) if np.ndim(sigma) == 0 else sigma
    noise = np.array(noise, dtype=np.float64)
    if noise.shape != candidates.shape or not (noise > 0).all() or not exposure_s > 0 or move_s < 0:
        raise BadReferenceError(
            f"sigma {sigma} (one value or one per candidate), exposure_s {exposure_s} and move_s {move_s} "
            "must be positive"
        )
    covered = np.isfinite(values).all(axis=1) & np.isfinite(candidates)
    energies, first = np.unique(candidates[covered], return_index=True)
    values, noise = values[covered][first], noise[covered][first]
    states = values.shape[1]
    if n < max(LEAST_VISITS, states + 2):
        raise BadReferenceError(
            f"n is {n}; {states} states with a background need at least {max(LEAST_VISITS, states + 2)} visits"
        )
    start = start_visits(energies, values)
    rows = _rows(energies, values, noise)
    counts = np.zeros(len(energies), dtype=np.intp)
    counts[start] = 1
    h = information(rows, counts)
    sequence = list(start)
    while len(sequence) < n:
        left = variance(h, states)
        seconds = exposure_s + np.where(counts > 0, 0.0, move_s)
        even = rows[np.linspace(0, len(rows) - 1, len(sequence)).round().astype(int)]
        if left > variance(information(even), states):
            seconds = np.full(len(rows), exposure_s)
        best = int(np.argmax(-np.log1p(-np.clip(gain(rows, h, states) / left, 0.0, 1 - 1e-12)) / seconds))
        if len(sequence) % _CALIBRATED_EVERY == _CALIBRATED_EVERY - 1:
            best = _calibrating(energies, values, sequence)
        counts[best] += 1
        sequence.append(best)
        h = h + np.outer(rows[best], rows[best])
    chosen = counts > 0
    error = _predicted((rows * counts[:, None]).T @ rows, states)
    return Plan(energies[chosen], counts[chosen], error, energies[sequence])


def predicted_rmse(
    energies_eV: AnyArray, references: References | AnyArray, *, sigma: AnyArray | float = 0.05
) -> float:
    """Return what :attr:`Plan.predicted_rmse` is for any list of visits (n,) in eV, repeats included.

    ``references`` and ``sigma`` as in :func:`select_energies`; visits outside the references do not count.

    Raises
    ------
    BadReferenceError
        The visits cannot tell the states apart.
    """
    energies = np.asarray(energies_eV, dtype=np.float64).ravel()
    values = references.at(energies) if isinstance(references, References) else np.asarray(references, np.float64)
    covered = np.isfinite(values).all(axis=1)
    noise = np.broadcast_to(np.asarray(sigma, dtype=np.float64), energies.shape)[covered]
    rows = _rows(energies[covered], values[covered], noise)
    return _predicted(rows.T @ rows, values.shape[1])


def _calibrating(energies_eV: Vector, values: Matrix, visits: list[int]) -> int:
    """Return the candidate that lowers the error of a fitted energy shift most."""
    looked_up = References(tuple(f"{k}" for k in range(values.shape[1])), energies_eV, values)
    centre, width = float(energies_eV.mean()), float(np.ptp(energies_eV))
    rows = common_rows(looked_up, energies_eV, centre_eV=centre, width_eV=width)
    h = common_information(rows[visits], LEAST_ERROR)
    to_shift = np.linalg.solve(h, rows.T)
    return int(np.argmax(to_shift[-1] ** 2 / (LEAST_ERROR**2 + (rows.T * to_shift).sum(axis=0))))


def _rows(energies_eV: Vector, values: Matrix, noise: Vector) -> Matrix:
    return information_rows(
        energies_eV, values, noise, centre_eV=float(energies_eV.mean()), width_eV=float(np.ptp(energies_eV))
    )


def _predicted(h: Matrix, states: int) -> float:
    """Return the rms error of an abundance, mean over the simplex, from the information (L + 2, L + 2)."""
    scale = np.sqrt(np.maximum(np.diag(h), 1e-300))
    if not np.linalg.cond(h / np.outer(scale, scale)) <= 1e12:
        raise BadReferenceError(
            f"the candidates cannot tell the {states} states apart from each other and a linear background; "
            f"remove a state or add energies where they differ"
        )
    return float(np.sqrt(variance(h, states) / states))
