"""Errors that all pixels of a visit share, and what they do to the energy calibration and to the map.

Noise differs from pixel to pixel; an illumination that was corrected a thousandth wrong does not. The mean pixel is
y_t = a_tᵀx̄ + q₀ + q₁ E_t + δ x̄ᵀ∂a_t/∂E + f_t, with one energy shift δ for the scan and an error f_t of rms τ for every
visit. A scan of few energies that tell the states apart may say next to nothing about δ, whatever its counts: visits
where the spectra are steep in another proportion do.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Matrix
from txm_stream.energies.information import PRIOR
from txm_stream.unmixing.references import References

LEAST_ERROR = 0.002
"""In edge jumps: references are never truer."""
SHIFT_PRIOR_EV = 0.5
_SLOPE_EV = 0.05


def visit_error(sigma: float, *, n_open: float, n_inside: float, edge_jump: float) -> float:
    """Return the rms error τ in edge jumps that all pixels of a visit share.

    Parameters
    ----------
    sigma
        Noise of the visit in OD.
    n_open, n_inside
        Pixels from which its illumination was read, and pixels inside the particles.
    edge_jump
        Their mean edge jump in OD.
    """
    if not (n_open > 0 and n_inside > 0 and edge_jump > 0):
        return LEAST_ERROR
    return float(np.hypot(LEAST_ERROR, sigma * np.sqrt(1 / n_open + 1 / n_inside) / edge_jump))


def common_rows(
    references: References, energies_eV: AnyArray, *, shift_eV: float = 0.0, centre_eV: float, width_eV: float
) -> Matrix:
    """Return [references, 1, (E − centre)/width, slope in 1/eV of their mean] at energies (n,) in eV: (n, L + 3).

    NaN where the references do not reach.
    """
    values = references.at(energies_eV, shift_eV=shift_eV)
    slope = slopes_of(references, energies_eV, shift_eV=shift_eV).mean(axis=1)
    axis = (np.asarray(energies_eV, dtype=np.float64) - centre_eV) / max(width_eV, 1e-9)
    return np.column_stack([values, np.ones_like(axis), axis, np.nan_to_num(slope)])


def slopes_of(references: References, energies_eV: AnyArray, *, shift_eV: float = 0.0) -> Matrix:
    """Return the slope of every reference in 1/eV at energies (n,) in eV: (n, L); NaN where they do not reach."""
    above, below = (references.at(energies_eV, shift_eV=shift_eV + step) for step in (_SLOPE_EV, -_SLOPE_EV))
    return (above - below) / (2 * _SLOPE_EV)


def common_information(rows: Matrix, tau: float, *, shift_information: float = 0.0) -> Matrix:
    """Return the information (L + 3, L + 3) of visits with rows (n, L + 3) and errors of rms ``tau``.

    ``shift_information``: what else tells of the shift, in 1/eV², see :func:`.contrast_information`.
    """
    prior = np.full(rows.shape[1], PRIOR)
    prior[-1] = SHIFT_PRIOR_EV**-2 + shift_information
    return np.asarray(rows.T @ rows / tau**2 + np.diag(prior))
