"""Choose from a library the few reference spectra that the data ask for and the energies can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.design import background_basis
from txm_stream.unmixing.least_squares import nonnegative
from txm_stream.unmixing.references import AMBIGUOUS_DEG, References

MAX_STATES = 4
_SUBSETS = 200
LEAST_GAIN = 0.1
"""A further state must take this share off what the states so far leave unexplained."""
_RANGE_EV, _WIDE_EV, _STEP_EV = 1.0, 3.0, 0.25


@dataclass(frozen=True, eq=False)
class Choice:
    """``names`` of the chosen states, in the library's order; ``misfit`` the share of the signal that is left
    unexplained by the best single state, pair, …; ``shift_eV`` the energy calibration at which they fit best."""

    names: tuple[str, ...]
    misfit: tuple[float, ...]
    shift_eV: float


def choose_references(
    references: References,
    energies_eV: AnyArray,
    spectra: AnyArray,
    *,
    sigma: AnyArray | None = None,
    max_states: int = MAX_STATES,
    range_eV: float = _RANGE_EV,
) -> Choice:
    """Choose the states of a library by non-negative least squares.

    Parameters
    ----------
    references
        The library.
    energies_eV
        (T,) in eV; those that the library does not cover at every shift tried do not count.
    spectra
        (T, M) denoised spectra of pixels inside the particles, in any unit.
    sigma
        Noise of each energy (T,), in the unit of ``spectra``; default: the same for all.
    max_states
        Largest number of states.
    range_eV
        Largest energy shift tried at first, in eV.

    Returns
    -------
    Choice

    Raises
    ------
    BadReferenceError
        The energies cover too little of the library.

    Notes
    -----
    Non-negative least squares of all spectra at once, background [1, E] projected out. For one state, two, … the
    subset with the smallest residual at the best common energy shift (±1 eV in steps of 0.25 eV: libraries and
    monochromators seldom agree better; ±3 eV where the best one lies at the end of that) among those whose states are
    all 5° away from mixtures of the others. It ends when the residual falls by less than a tenth, or at ``max_states``.
    Above 200 subsets of a size, one state is added to the best smaller subset instead. Cost: about 1 ms per subset
    and shift for 300 spectra; give no more.
    """
    energies, values = np.asarray(energies_eV, np.float64), np.asarray(spectra, np.float64)
    trials = [
        (float(s), references.at(energies, shift_eV=float(s))) for s in np.arange(-range_eV, range_eV + 0.01, _STEP_EV)
    ]
    covered = np.logical_and.reduce([np.isfinite(a).all(axis=1) for _, a in trials]) & np.isfinite(values).all(axis=1)
    if covered.sum() < 5:
        low, high = references.range_eV
        raise BadReferenceError(
            f"the references ({low:.1f} to {high:.1f} eV) cover {int(covered.sum())} energies of the scan with "
            f"{range_eV:g} eV to spare, at least 5 are needed to choose among {len(references.names)} states"
        )
    weights = np.where(covered, 1.0 if sigma is None else 1.0 / np.asarray(sigma, np.float64), 0.0)[covered]
    nuisance = background_basis(energies[covered], weights, "linear")
    data = _without(nuisance, values[covered] * weights[:, None])
    total = max(float((data**2).sum()), 1e-300)
    library = [(shift, _without(nuisance, a[covered] * weights[:, None])) for shift, a in trials]
    central = library[len(library) // 2][1]

    chosen: tuple[int, ...] = ()
    misfit: list[float] = []
    best_shift = 0.0
    for size in range(1, min(max_states, len(references.names), int(covered.sum()) - 2) + 1):
        found = [
            (_residual(matrix[:, subset], data) / total, subset, shift)
            for subset in _subsets(len(references.names), size, chosen)
            if _stands_out(central[:, subset])
            for shift, matrix in library
        ]
        if not found:
            break
        left, subset, shift = min(found)
        if misfit and left > (1 - LEAST_GAIN) * misfit[-1]:
            break
        chosen, best_shift = subset, shift
        misfit.append(left)
    if not chosen:
        raise BadReferenceError("no reference has anything but background at these energies; measure across the edge")
    if abs(best_shift) >= range_eV and range_eV < _WIDE_EV:
        try:
            return choose_references(
                references, energies, values, sigma=sigma, max_states=max_states, range_eV=_WIDE_EV
            )
        except BadReferenceError:
            pass  # the library is too short to be moved that far: the choice within the usual range stands
    return Choice(tuple(references.names[j] for j in chosen), tuple(misfit), best_shift)


def can_be_told_apart(references: References, energies_eV: Vector) -> bool:
    """Tell whether these energies separate all states: no pair and no mixture closer than 5°, at most 4 states."""
    if len(references.names) > MAX_STATES:
        return False
    try:
        conditioning = references.conditioning(energies_eV)
    except BadReferenceError:
        return False
    return bool(conditioning.separation_deg.min() >= AMBIGUOUS_DEG) and not conditioning.ambiguous


def _without(nuisance: Matrix, matrix: Matrix) -> Matrix:
    return np.asarray(matrix - nuisance @ (nuisance.T @ matrix))


def _subsets(n: int, size: int, chosen: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all subsets of a size, or those that add one state to the chosen ones where they are too many."""
    if comb(n, size) <= _SUBSETS:
        return list(combinations(range(n), size))
    return [tuple(sorted((*chosen, j))) for j in range(n) if j not in chosen]


def _stands_out(columns: Matrix) -> bool:
    """Tell whether each column is at least 5° away from the span of the others."""
    norms = np.linalg.norm(columns, axis=0)
    if (norms < 1e-9).any():
        return False
    inverse = np.linalg.pinv((columns / norms).T @ (columns / norms), rcond=1e-12)
    # 1/inverse[k, k] is the squared sine of the angle between column k and the span of the others
    return bool(1.0 / np.diag(inverse).max() > np.sin(np.radians(AMBIGUOUS_DEG)) ** 2)


def _residual(columns: Matrix, data: Matrix) -> float:
    orthonormal, triangle = np.linalg.qr(columns)
    white = orthonormal.T @ data
    fitted = triangle @ nonnegative(white, triangle)
    return float((data**2).sum() - (white**2).sum() + ((white - fitted) ** 2).sum())
