"""Edge-50: the energy at which each pixel's normalised spectrum crosses one half. Needs no reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Vector
from txm_stream.errors import BadStackError
from txm_stream.unmixing.edge_step import find_edge_eV, ranges_eV, sort_and_average

MIN_ENERGIES = 6
PIXELS_AT_ONCE = 1 << 16
FAINT = 0.1
"""A pixel whose edge jump is below this fraction of the stack's 98th percentile shows no edge."""
_NOISE = 3.0
"""An edge jump below this many times the pixel's pre-edge scatter is no edge."""


@dataclass(frozen=True, eq=False)
class EdgePlan:
    """What every pixel shares: rows that give the pre-edge line and the jump, and where to look for the crossing."""

    energies_eV: Vector
    below: Mask
    shapes: AnyArray
    """(E, 2): the pre-edge background is shapes @ fit @ spectrum."""
    fit: AnyArray
    """(2, E), or one row where there is a level only."""
    jump: AnyArray
    """(E,): edge jump = jump @ spectrum."""
    window: slice


def edge50_map(stack: AnyArray, energies_eV: AnyArray, *, mask: Mask | None = None) -> Image:
    """Map the energy in eV at which the pre-/post-edge normalised spectrum crosses 0.5.

    Parameters
    ----------
    stack
        (T, y, x) optical density or fluorescence, best denoised; may be memory-mapped.
    energies_eV
        (T,) in eV, in any order; repeats are averaged.
    mask
        (y, x), True where pixels are valid.

    Returns
    -------
    ndarray
        (y, x) float32 in eV; NaN outside the mask, where a frame is NaN, and where there is no edge: jump below
        three times the pixel's pre-edge scatter or below a tenth of the stack's 98th percentile, or no crossing.

    Raises
    ------
    BadStackError
        Shapes do not fit, fewer than 6 distinct energies, or fewer than 2 of them below or above the edge.

    Notes
    -----
    Ranges as in :func:`.edge_step.ranges_eV`, from the mean spectrum, the same for all pixels, so the work is two
    small matrix products per pixel. The crossing is found on a local cubic; peaks of the pre-edge above half the
    jump would win. Memory: chunks of 65 536 pixels.
    """
    stack = np.asanyarray(stack)
    flat, valid = pixels_of(stack, energies_eV, mask)
    plan = plan_edge(np.asarray(energies_eV, np.float64), flat, valid)
    crossing = np.full(flat.shape[1], np.nan, np.float32)
    jumps = np.full(flat.shape[1], np.nan, np.float32)
    for start in range(0, flat.shape[1], PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        if valid[part].any():
            crossing[part], jumps[part] = _crossings(plan, sorted_chunk(flat, energies_eV, part))
    known = valid & np.isfinite(jumps)
    if known.any():
        known &= jumps > FAINT * np.percentile(jumps[known], 98.0)
    crossing[~known] = np.nan
    return crossing.reshape(stack.shape[1:])


def pixels_of(stack: AnyArray, energies_eV: AnyArray, mask: Mask | None) -> tuple[AnyArray, Mask]:
    """Return a stack as pixels (T, N), and which of them (N,) are valid; :class:`BadStackError` where shapes differ."""
    if stack.ndim != 3 or len(stack) != len(energies_eV):
        raise BadStackError(f"stack of shape {stack.shape} with {len(energies_eV)} energies; expected (energies, y, x)")
    shape = stack.shape[1:]
    if mask is not None and np.shape(mask) != shape:
        raise BadStackError(f"mask of shape {np.shape(mask)} for images of shape {shape}; they must be equal")
    flat = stack.reshape(len(stack), -1)
    return flat, np.ones(flat.shape[1], bool) if mask is None else np.asarray(mask, bool).ravel()


def sorted_chunk(flat: AnyArray, energies_eV: AnyArray, part: slice) -> AnyArray:
    """Return some pixels (E, n) of (T, N) in order of energy, repeats averaged."""
    block = np.asarray(flat[:, part], dtype=np.float32)
    return block if (np.diff(energies_eV) > 0).all() else sort_and_average(energies_eV, block)[1]


def plan_edge(energies_eV: Vector, flat: AnyArray, valid: Mask) -> EdgePlan:
    """Return the plan for pixels (T, N) of which ``valid`` (N,) ones count; errors as in :func:`edge50_map`."""
    total, count = np.zeros(len(energies_eV)), 0
    for start in range(0, flat.shape[1], PIXELS_AT_ONCE):
        block = np.asarray(flat[:, start : start + PIXELS_AT_ONCE], dtype=np.float32)
        good = valid[start : start + PIXELS_AT_ONCE] & np.isfinite(block).all(axis=0)
        total += block @ good.astype(np.float32) if good.all() else block[:, good].sum(axis=1, dtype=np.float64)
        count += int(good.sum())
    energies, mean = sort_and_average(energies_eV, total / max(count, 1))
    if len(energies) < MIN_ENERGIES:
        raise BadStackError(f"{len(energies)} distinct energies, edge-50 needs at least {MIN_ENERGIES}")
    if count == 0:
        raise BadStackError("no pixel is valid at all energies; check the mask")
    e0 = find_edge_eV(energies, mean)
    pre, post, degree = ranges_eV(energies, e0)
    x = energies - e0
    below, above = (x >= pre[0]) & (x <= pre[1]), (x >= post[0]) & (x <= post[1])
    if below.sum() < 2 or above.sum() < 2:
        raise BadStackError(
            f"{below.sum()} energies below and {above.sum()} above the edge at {e0:.1f} eV (scan "
            f"{energies[0]:.1f}–{energies[-1]:.1f} eV), edge-50 needs at least 2 each; measure on both sides"
        )
    linear = below.sum() >= 5 and np.ptp(x[below]) > 0.25 * x[above].mean()
    shapes, fit = _polynomial(x, below, 1 if linear else 0)
    _, post_fit = _polynomial(x, above, min(degree, int(above.sum()) - 1))
    at_edge = post_fit[-1]  # the constant term: x is relative to the edge
    jump = at_edge - at_edge @ shapes @ fit
    first = int(np.flatnonzero(below)[-1])
    last = int(np.flatnonzero(x <= max(post[0], 15.0))[-1])
    shapes, fit, jump = (np.asarray(matrix, dtype=np.float32) for matrix in (shapes, fit, jump))
    return EdgePlan(energies, below, shapes, fit, jump, slice(first, last + 1))


def _polynomial(x: Vector, used: Mask, degree: int) -> tuple[AnyArray, AnyArray]:
    """Return the basis (E, degree + 1) and the matrix (degree + 1, E) that fits its coefficients where ``used``."""
    basis = np.vander(x / float(np.abs(x).max()), degree + 1)
    fit = np.zeros((degree + 1, len(x)))
    fit[:, used] = np.linalg.pinv(basis[used])
    return basis, fit


def _crossings(plan: EdgePlan, spectra: AnyArray) -> tuple[Vector, Vector]:
    """Return crossing energies (N,) and edge jumps (N,) of spectra (E, N); NaN where there is no edge."""
    jump = plan.jump @ spectra
    background = plan.fit @ spectra
    scatter = np.std(spectra[plan.below] - plan.shapes[plan.below] @ background, axis=0)
    jump[~(jump > _NOISE * scatter) | (jump <= 0)] = np.nan
    energies = plan.energies_eV[plan.window]
    net = spectra[plan.window] - plan.shapes[plan.window] @ background - 0.5 * jump
    up = (net[:-1] < 0) & (net[1:] >= 0)
    at = up.argmax(axis=0)
    crossing = np.full(spectra.shape[1], np.nan)
    found = np.flatnonzero(up.any(axis=0))
    if len(found):
        crossing[found] = _root(energies, net[:, found], at[found])
    return crossing, jump


def _root(energies_eV: Vector, net: AnyArray, at: AnyArray) -> Vector:
    """Find the zero between samples ``at`` and ``at + 1`` on a cubic Hermite curve; bisection, 16 steps."""
    column = np.arange(net.shape[1])

    def sample(index: AnyArray) -> tuple[Vector, Vector]:
        index = np.clip(index, 0, len(energies_eV) - 1)
        return energies_eV[index], net[index, column].astype(np.float64)

    (e0, y0), (e1, y1), (e2, y2), (e3, y3) = (sample(at + offset) for offset in (-1, 0, 1, 2))
    width = e2 - e1
    inner = (y2 - y1) / width
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(e1 > e0, ((y1 - y0) / (e1 - e0) * width + inner * (e1 - e0)) / (e2 - e0), inner)
        right = np.where(e3 > e2, ((y3 - y2) / (e3 - e2) * width + inner * (e3 - e2)) / (e3 - e1), inner)
    left, right = (np.clip(slope, 0.0, 3.0 * inner) * width for slope in (left, right))
    low, high = np.zeros_like(y1), np.ones_like(y1)
    for _ in range(16):
        t = 0.5 * (low + high)
        value = (
            (1 + 2 * t) * (1 - t) ** 2 * y1
            + t * (1 - t) ** 2 * left
            + t * t * (3 - 2 * t) * y2
            + t * t * (t - 1) * right
        )
        low, high = np.where(value < 0, t, low), np.where(value < 0, high, t)
    return np.asarray(e1 + 0.5 * (low + high) * width, dtype=np.float64)
