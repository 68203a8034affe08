"""Pre-/post-edge normalisation of absorption spectra to an edge jump of 1, by larch's conventions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Mask, Vector
from txm_stream.errors import BadReferenceError

NORMALISED_PRE = 0.03
"""A spectrum whose pre-edge level is within this of 0 (and its edge jump of 1) counts as normalised already."""
_LINE_MIN_EV = 8.0
"""A pre-edge range shorter than this gives a level, no slope."""


@dataclass(frozen=True, eq=False)
class EdgeStep:
    """A normalised spectrum and how it was made.

    ``energies_eV`` (E,) sorted and unique; ``mu`` (E,) in edge jumps; ``e0_eV`` steepest rise; ``step`` the edge
    jump in the units of the input (1 where it was left as it was); ``already_normalised`` says so.
    """

    energies_eV: Vector
    mu: Vector
    e0_eV: float
    step: float
    already_normalised: bool


def sort_and_average(energies_eV: AnyArray, values: AnyArray) -> tuple[Vector, AnyArray]:
    """Sort by energy in eV and average repeats.

    Parameters
    ----------
    energies_eV
        (T,), in any order, with repeats.
    values
        (T,) or (T, N); NaN spoils only the energies at which it stands.

    Returns
    -------
    tuple
        Unique energies (E,) float64 and the means (E,) or (E, N), in the floating type of ``values``.
    """
    energies = np.asarray(energies_eV, dtype=np.float64)
    unique, where = np.unique(energies, return_inverse=True)
    if len(unique) == len(energies):
        return unique, np.asarray(values)[np.argsort(energies, kind="stable")]
    order = np.argsort(where, kind="stable")
    counts = np.bincount(where)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    summed = np.add.reduceat(np.asarray(values)[order], starts, axis=0)
    weight = counts.astype(summed.dtype).reshape(-1, *[1] * (summed.ndim - 1))
    return unique, summed / weight


def find_edge_eV(energies_eV: Vector, mu: Vector) -> float:
    """Find the energy of the steepest rise in eV.

    Parameters
    ----------
    energies_eV, mu
        (E,) sorted, unique and finite.

    Notes
    -----
    The spectrum is resampled uniformly and smoothed by about 1 eV first, so that a glitch or an oversampled noisy
    stretch does not win. One percent of the range at either end cannot be the edge.
    """
    from scipy.ndimage import gaussian_filter1d

    low, high = float(energies_eV[0]), float(energies_eV[-1])
    step = min(0.25, (high - low) / 200.0)
    grid = np.arange(low, high + step / 2, step)
    smooth = gaussian_filter1d(np.interp(grid, energies_eV, mu), min(1.0, (high - low) / 30.0) / step, mode="nearest")
    slope = np.gradient(smooth, grid)
    margin = max(2, len(grid) // 100)
    return float(grid[margin + int(np.argmax(slope[margin:-margin]))])


def ranges_eV(energies_eV: Vector, e0_eV: float) -> tuple[tuple[float, float], tuple[float, float], int]:
    """Choose the pre-edge range, the post-edge range (eV relative to ``e0_eV``) and the post-edge degree.

    Larch's defaults: pre-edge from the second point to halfway to the edge; post-edge from at most 25 eV above the
    edge to the end; degree 2, reduced to 1 below 350 eV and to 0 below 50 eV of post-edge range.
    """
    pre1 = float(energies_eV[1] if len(energies_eV) > 20 else energies_eV[0]) - e0_eV
    norm2 = float(energies_eV[-1]) - e0_eV
    norm1 = min(25.0, max(5.0 * round(norm2 / 15.0), norm2 / 3.0))
    width = norm2 - norm1
    return (pre1, 0.5 * pre1), (norm1, norm2), 2 if width > 350 else 1 if width > 50 else 0


def normalise(
    energies_eV: AnyArray, mu: AnyArray, *, name: str = "spectrum", raw: bool | None = None, e0_eV: float | None = None
) -> EdgeStep:
    """Normalise a spectrum to zero below the edge and an edge jump of 1.

    Parameters
    ----------
    energies_eV, mu
        (E,) energy in eV and absorption in any unit, in any order, repeats allowed; NaN points are dropped.
    name
        How errors call the spectrum.
    raw
        ``True``: always normalise; ``False``: leave as it is; ``None``: leave it when it is normalised already
        (pre-edge level within 0.03 of 0 and edge jump within 0.05 of 1; XANES-only ranges: post-edge mean .8–1.4).
    e0_eV
        Edge energy in eV, so that several spectra are normalised over the same ranges; default: the steepest rise.

    Raises
    ------
    BadReferenceError
        Fewer than 6 points, nothing below or above the edge, or no edge.
    """
    finite = np.isfinite(energies_eV) & np.isfinite(mu)
    energies, mu = sort_and_average(np.asarray(energies_eV)[finite], np.asarray(mu, dtype=np.float64)[finite])
    if len(energies) < 6:
        raise BadReferenceError(f"{name}: {len(energies)} usable energies, at least 6 are needed; check the file")
    e0 = find_edge_eV(energies, mu) if e0_eV is None else e0_eV
    if raw is False:
        return EdgeStep(energies, mu, e0, 1.0, already_normalised=True)
    pre, post, degree = ranges_eV(energies, e0)
    x = energies - e0
    below, above = (x >= pre[0]) & (x <= pre[1]), (x >= post[0]) & (x <= post[1])
    if below.sum() < 2 or above.sum() < 2:
        raise BadReferenceError(
            f"{name}: {below.sum()} points below and {above.sum()} above the edge at {e0:.1f} eV (range "
            f"{energies[0]:.1f}–{energies[-1]:.1f} eV), at least 2 each are needed; give a spectrum that spans its edge"
        )
    net = mu - _pre_edge(x, mu, below, above)
    step = float(np.polyval(np.polyfit(x[above], net[above], min(degree, int(above.sum()) - 1)), 0.0))
    noise = float(np.std(net[below]))
    if not step > 3.0 * noise or step <= 0.0:
        raise BadReferenceError(
            f"{name}: edge jump {step:.3g} over pre-edge scatter {noise:.2g}: no edge found between "
            f"{energies[0]:.1f} and {energies[-1]:.1f} eV; check that the column holds absorption, not intensity"
        )
    if raw is None and abs(float(np.mean(mu[below]))) < NORMALISED_PRE and _jump_is_one(step, degree):
        return EdgeStep(energies, mu, e0, 1.0, already_normalised=True)
    return EdgeStep(energies, net / step, e0, step, already_normalised=False)


def _pre_edge(x: Vector, mu: Vector, below: Mask, above: Mask) -> Vector:
    """Evaluate the pre-edge line; a level where the line would be uncertain by 5 % of the jump above the edge."""
    level = np.full(len(x), mu[below].mean())
    if below.sum() < 5 or np.ptp(x[below]) < _LINE_MIN_EV:
        return level
    line: Vector = np.asarray(np.polyval(np.polyfit(x[below], mu[below], 1), x), dtype=np.float64)
    scatter = float(np.sqrt(np.sum((mu - line)[below] ** 2) / (below.sum() - 2)))
    slope_error = scatter / float(np.sqrt(np.sum((x[below] - x[below].mean()) ** 2)))
    reach = float(x[above].mean() - x[below].mean())
    return line if slope_error * reach < 0.05 * abs(float(np.mean((mu - level)[above]))) else level


def _jump_is_one(step: float, degree: int) -> bool:
    """Tell whether an edge jump is 1; the mean of a XANES-only range contains the white line."""
    return 0.95 < step < 1.05 if degree else 0.8 < step < 1.4
