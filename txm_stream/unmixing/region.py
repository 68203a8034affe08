"""One spectrum of many pixels: the states in a region of interest, with its own energy calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray, Mask, Matrix, Vector
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.energy_shift import fit_energy_shift
from txm_stream.unmixing.goodness import reduced_limit
from txm_stream.unmixing.least_squares import nonnegative, split_scale
from txm_stream.unmixing.references import References
from txm_stream.unmixing.unmix import noise_per_frame, valid_pixels

_STEP_EV = 0.05


@dataclass(frozen=True, eq=False)
class RegionFit:
    """Linear combination fit of the mean spectrum of a region.

    Attributes
    ----------
    names, abundances, sigma
        States, their shares (L,) of the element in the region, and standard errors, those of the shift included.
    scale
        Mean edge jump in units of the stack.
    shift_eV, shift_sigma_eV
        Added to the energies before the references are looked up; error 0 where it was given.
    spectrum, fit
        (T,) mean spectrum and what the states and the background make of it; ``fit`` is NaN where the references do
        not reach.
    spectrum_sigma
        (T,) noise of ``spectrum``.
    reduced_chi2, explained
        χ² of the residual per degree of freedom, NaN without any, and whether noise alone exceeds it at 5 %.
    n_pixels
        Pixels in the mean.
    """

    names: tuple[str, ...]
    abundances: Vector
    sigma: Vector
    scale: float
    shift_eV: float
    shift_sigma_eV: float
    spectrum: Vector
    fit: Vector
    spectrum_sigma: Vector
    reduced_chi2: float
    explained: bool
    n_pixels: int


def fit_region(
    stack: AnyArray,
    energies_eV: AnyArray,
    references: References,
    *,
    region: Mask | None = None,
    sigma: AnyArray | float | None = None,
    shift_eV: float | None = None,
) -> RegionFit:
    """Fit the mean spectrum of a region by reference spectra, a linear background and an energy shift.

    Parameters
    ----------
    stack
        (T, y, x) registered optical density or fluorescence, not denoised. Frames that are NaN throughout and pixels
        that are NaN in any other are left out.
    energies_eV
        (T,) in eV, in any order.
    region
        (y, x), True where pixels count; default: all.
    sigma
        Noise of one pixel before registration moved it, one value or (T,); default: measured.
    shift_eV
        Energy calibration, for instance that of the whole scan; default: fitted within ±1 eV (±3 eV at the limits).

    Returns
    -------
    RegionFit
        The abundances are those of the element in the region: thick pixels count for more.

    Raises
    ------
    BadStackError
        Shapes do not fit, or no pixel is valid.
    BadReferenceError
        Too few energies, states that they cannot tell apart, or nothing of the element in the region.

    Notes
    -----
    Standard errors are those of the linear fit in all unknowns (states, background, shift) at the solution; where an
    abundance is at its limit 0 the true error is smaller. What is wrong with the references does not enter: see
    ``reduced_chi2``.
    """
    stack = np.asanyarray(stack)
    energies = np.asarray(energies_eV, dtype=np.float64)
    if stack.ndim != 3 or energies.shape != (len(stack),) or not np.isfinite(energies).all():
        raise BadStackError(
            f"stack of shape {stack.shape} with {energies.size} energies; expected (energy, y, x), a finite energy each"
        )
    used, field = valid_pixels(stack, np.ones(len(stack), dtype=bool), region)
    spectrum = np.array(
        [frame[field].mean(dtype=np.float64) if ok else np.nan for frame, ok in zip(stack, used, strict=True)]
    )
    noise = np.where(used, noise_per_frame(stack, used, _whole(stack, used), sigma), np.inf) / np.sqrt(field.sum())
    fitted = shift_eV is None
    if shift_eV is None:
        white = np.where(used, spectrum / noise, 0.0)
        shift_eV = fit_energy_shift(references, energies, noise, lambda along: np.outer(white @ along, white @ along))
    values = references.at(energies, shift_eV=shift_eV)
    covered = used & np.isfinite(values).all(axis=1)
    noise = np.where(covered, noise, np.inf)
    design = make_design(values, energies, noise)
    white = np.where(covered, spectrum / noise, 0.0)
    amounts = nonnegative((design.channels.T @ white)[:, None], design.triangle)
    shares, scale = split_scale(amounts)
    if scale[0] <= 0:
        raise BadReferenceError("the region holds nothing of the element: its spectrum has no edge; choose another")
    background = design.background @ (design.background.T @ (white - _weighted(values, noise) @ amounts[:, 0]))
    model = _weighted(values, noise) @ amounts[:, 0] + background
    slope = (references.at(energies, shift_eV + _STEP_EV) - references.at(energies, shift_eV - _STEP_EV)) / 2 / _STEP_EV
    turning = _weighted(np.nan_to_num(slope), noise) @ amounts[:, 0] if fitted else None
    covariance = _covariance(design, turning)
    jacobian = (np.eye(len(shares)) - shares) / scale[0]
    n_states = design.n_states
    errors = np.sqrt(np.diag(jacobian @ covariance[:n_states, :n_states] @ jacobian.T))
    freedom = design.n_used - n_states - design.background.shape[1] - int(fitted)
    chi2 = float(np.sum((white - model) ** 2) / freedom) if freedom > 0 else float("nan")
    return RegionFit(
        names=references.names,
        abundances=shares[:, 0],
        sigma=errors,
        scale=float(scale[0]),
        shift_eV=float(shift_eV),
        shift_sigma_eV=float(np.sqrt(covariance[-1, -1])) if fitted else 0.0,
        spectrum=spectrum,
        fit=np.where(covered, model * np.where(covered, noise, 1.0), np.nan),
        spectrum_sigma=noise,
        reduced_chi2=chi2,
        explained=bool(freedom <= 0 or chi2 <= float(reduced_limit(freedom))),
        n_pixels=int(field.sum()),
    )


def _whole(stack: AnyArray, used: Mask) -> Mask:
    """Return the pixels (y, x) that are finite in all frames that count: noise is measured on all of them."""
    return np.asarray(np.isfinite(stack[np.flatnonzero(used)]).all(axis=0))


def _weighted(values: Matrix, noise: Vector) -> Matrix:
    """Return values over noise, 0 in visits that do not count."""
    return np.asarray(np.where(np.isfinite(noise)[:, None], values, 0.0) / noise[:, None])


def _covariance(design: Design, turning: Vector | None) -> Matrix:
    """Return the covariance of amounts (L) and, where it was fitted, of the shift, background projected out."""
    columns = design.channels @ design.triangle
    if turning is not None:
        outside = turning - design.background @ (design.background.T @ turning)
        columns = np.column_stack([columns, outside])
    return np.asarray(np.linalg.pinv(columns.T @ columns))


def region_facts(
    stack: AnyArray, energies_eV: AnyArray, references: References | None, box: tuple[int, int, int, int]
) -> dict[str, Any]:
    """Return what :func:`fit_region` finds in a box (y0, y1, x0, x1) as plain values; ``problem`` where it cannot."""
    told: dict[str, Any] = {"region": list(box)}
    if references is None:
        return told | {"problem": "there are no references"}
    y0, y1, x0, x1 = box
    region = np.zeros(stack.shape[1:], dtype=bool)
    region[y0:y1, x0:x1] = True
    try:
        fit = fit_region(stack, energies_eV, references, region=region)
    except (BadStackError, BadReferenceError) as error:
        return told | {"problem": str(error)}
    return told | {
        "states": list(fit.names),
        "abundances": [float(a) for a in fit.abundances],
        "sigma": [float(s) for s in fit.sigma],
        "edge_jump": float(fit.scale),
        "energy_shift_eV": float(fit.shift_eV),
        "energy_shift_sigma_eV": float(fit.shift_sigma_eV),
        "reduced_chi2": float(fit.reduced_chi2) if np.isfinite(fit.reduced_chi2) else None,
        "explained": bool(fit.explained),
        "pixels": int(fit.n_pixels),
    }
