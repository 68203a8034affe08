"""One energy shift per scan: references and monochromator seldom agree to 0.1 eV."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.references import References

RANGE_EV = 1.0
WIDE_EV = 3.0
"""Looked up only when the best shift lies at the end of the usual range: wider, one state may pass for another."""
_SAME_SPAN = 1e-3
"""Directions that matter less than this to every trial shift are left out."""

Scatter = Callable[[Matrix], Matrix]
"""``scatter(directions)``, orthonormal (T, q) → (q, q): Σ_n (Dᵀŷ_n)(Dᵀŷ_n)ᵀ of the whitened signal, without noise."""


def fit_energy_shift(
    references: References,
    energies_eV: Vector,
    sigma: Vector,
    scatter: Scatter,
    *,
    background: str = "linear",
    range_eV: float = RANGE_EV,
) -> float:
    """Return the shift in eV, added to the energies before the references are looked up, that fits best.

    Parameters
    ----------
    sigma
        Noise of each visit (T,) in OD.
    scatter
        How the signal of the whitened pixels inside the particles scatters. Noise in it must be that of no visit more
        than of another, or absent: it would pull the shift, see :func:`.signal_scatter`.

    Notes
    -----
    Least squares over all pixels at once: maximises tr(Π scatter), Π the projector on references and background at
    the shifted energies; only directions that one of them has are asked for. Only visits that the references cover at
    every trial shift take part. Grid of 0.1 eV, then golden section to 1 meV; 0 where the references cannot be moved
    that far, or where there is no signal. A shift at the end of ±1 eV means a monochromator that is further off: then
    ±3 eV are searched.
    """
    low, high = (references.at(energies_eV, shift_eV=s) for s in (-range_eV, range_eV))
    covered = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
    limited = np.where(covered, sigma, np.inf)

    def basis(shift_eV: float) -> Matrix:
        design = make_design(references.at(energies_eV, shift_eV=shift_eV), energies_eV, limited, background=background)
        return np.concatenate([design.channels, design.background], axis=1)

    trials = np.linspace(-range_eV, range_eV, 2 * round(10 * range_eV) + 1)
    try:
        bases = [basis(float(s)) for s in trials]
    except BadReferenceError:
        return 0.0
    left, singular, _ = np.linalg.svd(np.concatenate(bases, axis=1), full_matrices=False)
    directions = left[:, singular > _SAME_SPAN * singular[0]]
    scattered = scatter(directions)
    if not np.trace(scattered) > 0:
        return 0.0

    def misfit(at: Matrix) -> float:
        along = directions.T @ at
        return -float(np.sum((scattered @ along) * along))

    values = [misfit(at) for at in bases]
    best = int(np.argmin(values))
    if best in (0, len(trials) - 1) and range_eV < WIDE_EV:
        wider = fit_energy_shift(references, energies_eV, sigma, scatter, background=background, range_eV=WIDE_EV)
        if abs(wider) >= range_eV:
            return wider
    low_eV, high_eV = float(trials[max(best - 1, 0)]), float(trials[min(best + 1, len(trials) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    while high_eV - low_eV > 1e-3:
        a, b = high_eV - golden * (high_eV - low_eV), low_eV + golden * (high_eV - low_eV)
        if misfit(basis(a)) < misfit(basis(b)):
            high_eV = b
        else:
            low_eV = a
    return 0.5 * (low_eV + high_eV)
