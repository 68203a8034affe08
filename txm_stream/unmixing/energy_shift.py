"""One energy shift per scan: references and monochromator seldom agree to 0.1 eV."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.references import References

RANGE_EV = 1.0
WIDE_EV = 3.0
"""Looked up only when the best shift lies at the end of the usual range: wider, one state may pass for another."""


def fit_energy_shift(
    references: References,
    energies_eV: Vector,
    sigma: Vector,
    scatter: Matrix,
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
        (T, T) signal scatter of the whitened pixels inside the particles, Σ_n ŷ_n ŷ_nᵀ, low rank.

    Notes
    -----
    Least squares over all pixels at once: minimises tr(scatter (I − Π)), Π the projector on references and
    background at the shifted energies. Only visits that the references cover at every trial shift take part.
    Grid of 0.1 eV, then golden section to 1 meV; 0 where the references cannot be moved that far. A shift at the end of
    ±1 eV means a monochromator that is further off: then ±3 eV are searched.
    """
    low, high = (references.at(energies_eV, shift_eV=s) for s in (-range_eV, range_eV))
    covered = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
    limited = np.where(covered, sigma, np.inf)

    def misfit(shift_eV: float) -> float:
        design = make_design(references.at(energies_eV, shift_eV=shift_eV), energies_eV, limited, background=background)
        basis = np.concatenate([design.channels, design.background], axis=1)
        used = np.isfinite(limited)
        return float(np.trace(scatter[np.ix_(used, used)]) - np.sum((basis.T @ scatter) * basis.T))

    try:
        trials = np.linspace(-range_eV, range_eV, 2 * round(10 * range_eV) + 1)
        values = [misfit(float(s)) for s in trials]
    except BadReferenceError:
        return 0.0
    best = int(np.argmin(values))
    if best in (0, len(trials) - 1) and range_eV < WIDE_EV:
        wider = fit_energy_shift(references, energies_eV, sigma, scatter, background=background, range_eV=WIDE_EV)
        if abs(wider) >= range_eV:
            return wider
    left, right = float(trials[max(best - 1, 0)]), float(trials[min(best + 1, len(trials) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    while right - left > 1e-3:
        a, b = right - golden * (right - left), left + golden * (right - left)
        if misfit(a) < misfit(b):
            right = b
        else:
            left = a
    return 0.5 * (left + right)
