"""Does the fit explain the data? χ² of the residual against the noise, per pixel and per particle.

A state that is missing from the references leaves s·x·a⊥/σ, the part of its spectrum outside the references and the
background: the residual is then non-central χ² with λ = Σ_t (s x a⊥,t/σ_t)².
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Vector

FALSE_ALARM = 0.05


def reduced_limit(freedom: AnyArray | float, *, false_alarm: float = FALSE_ALARM) -> AnyArray:
    """Return the reduced χ² that noise alone exceeds with probability ``false_alarm``, for degrees of freedom."""
    from scipy.stats import chi2

    return np.asarray(chi2.isf(false_alarm, freedom) / np.asarray(freedom, dtype=np.float64))


def detection_power(
    noncentrality: AnyArray | float, freedom: AnyArray | float, *, false_alarm: float = FALSE_ALARM
) -> AnyArray:
    """Return how often a residual of the given non-centrality λ exceeds :func:`reduced_limit`."""
    from scipy.stats import chi2, ncx2

    return np.asarray(ncx2.sf(chi2.isf(false_alarm, freedom), freedom, noncentrality))


def noncentrality(missing: Vector, references: Matrix, energies_eV: Vector, sigma: Vector) -> float:
    """Return λ per (scale × abundance)² of a state ``missing`` (T,) from ``references`` (T, L); noise (T,) in OD."""
    axis = energies_eV - energies_eV.mean()
    known = np.column_stack([references, np.ones_like(axis), axis / max(float(np.abs(axis).max()), 1e-9)])
    weighted, wanted = known / sigma[:, None], missing / sigma
    left = wanted - weighted @ np.linalg.lstsq(weighted, wanted, rcond=None)[0]
    return float(left @ left)


def misfit(fit: Image, freedom: AnyArray | float, *, false_alarm: float = FALSE_ALARM) -> Mask:
    """Return the pixels (y, x) that are fitted worse than noise allows; False where ``fit`` is NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(fit > reduced_limit(freedom, false_alarm=false_alarm), dtype=bool)


def misfit_regions(
    fit: Image, labels: AnyArray, freedom: float, *, false_alarm: float = FALSE_ALARM, model_error: float = 0.0
) -> dict[int, tuple[float, bool]]:
    """Return, for every region of ``labels`` (y, x; 0: none), its mean reduced χ² and whether noise cannot explain it.

    The sum over n pixels has n times the degrees of freedom. Registered pixels are correlated with their neighbours:
    they count as half as many. ``model_error`` is what else adds to the variance, as a share of it: 0.1 for scans that
    were registered and whose noise was estimated, else their particles are all flagged.
    """
    found: dict[int, tuple[float, bool]] = {}
    for label in np.unique(labels[labels > 0]).tolist():
        values = fit[(labels == label) & np.isfinite(fit)]
        if values.size:
            mean = float(values.mean(dtype=np.float64))
            limit = float(reduced_limit(max(values.size / 2, 1) * freedom, false_alarm=false_alarm))
            found[int(label)] = (mean, mean > limit * (1 + model_error))
    return found
