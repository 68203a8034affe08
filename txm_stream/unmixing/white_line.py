"""White line of every pixel: where the normalised spectrum is highest, how high, and the edge jump. No reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Vector
from txm_stream.unmixing.edge50 import FAINT, PIXELS_AT_ONCE, pixels_of, plan_edge, sorted_chunk


@dataclass(frozen=True, eq=False)
class WhiteLine:
    """Images (y, x) float32, NaN where there is no edge.

    ``energy_eV`` of the highest point, its ``height`` in edge jumps (1: no white line), and the edge ``jump`` in units
    of the stack.
    """

    energy_eV: Image
    height: Image
    jump: Image


def white_line_map(stack: AnyArray, energies_eV: AnyArray, *, mask: Mask | None = None) -> WhiteLine:
    """Map the white line of a stack (T, y, x), best a denoised one.

    Parameters
    ----------
    stack
        (T, y, x) optical density or fluorescence; may be memory-mapped.
    energies_eV
        (T,) in eV, in any order; repeats are averaged.
    mask
        (y, x), True where pixels are valid.

    Raises
    ------
    BadStackError
        As in :func:`.edge50_map`: shapes, or too few energies below or above the edge.

    Notes
    -----
    Background and jump as in :func:`.edge50_map`. The top is that of the parabola through the highest sample and its
    neighbours, sought from the last pre-edge energy to the first post-edge one, at least 15 eV above the edge; where
    the highest is the first or the last there is no white line, and the pixel is NaN.
    """
    stack = np.asanyarray(stack)
    flat, valid = pixels_of(stack, energies_eV, mask)
    plan = plan_edge(np.asarray(energies_eV, np.float64), flat, valid)
    window = slice(plan.window.start, min(plan.window.stop + 1, len(plan.energies_eV)))
    out = np.full((3, flat.shape[1]), np.nan, np.float32)
    for start in range(0, flat.shape[1], PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        spectra = sorted_chunk(flat, energies_eV, part)
        jump = plan.jump @ spectra
        with np.errstate(divide="ignore", invalid="ignore"):
            net = (spectra[window] - plan.shapes[window] @ (plan.fit @ spectra)) / jump
            out[:2, part] = _top(plan.energies_eV[window], net)
        out[2, part] = jump
    known = valid & np.isfinite(out[2]) & (out[2] > 0)
    if known.any():
        known &= out[2] > FAINT * np.percentile(out[2][known], 98.0)
    out[:, ~known] = np.nan
    return WhiteLine(*out.reshape(3, *stack.shape[1:]))


def _top(energies_eV: Vector, net: AnyArray) -> AnyArray:
    """Return energy and height (2, N) of the top of spectra (E, N); NaN where it is no local maximum inside."""
    top = np.full((2, net.shape[1]), np.nan)
    highest = np.where(np.isfinite(net), net, -np.inf).argmax(axis=0)
    found = np.flatnonzero((highest > 0) & (highest < len(net) - 1))
    at = highest[found]
    low, middle, high = (net[at + step, found].astype(np.float64) for step in (-1, 0, 1))
    left, right = (energies_eV[at + step] - energies_eV[at] for step in (-1, 1))
    # parabola y = middle + b x + c x² through (left, low) and (right, high)
    c = ((high - middle) / right - (low - middle) / left) / (right - left)
    b = (high - middle) / right - c * right
    away = np.where(c < 0, -b / (2 * np.where(c < 0, c, -1.0)), 0.0)
    top[0, found] = energies_eV[at] + away
    top[1, found] = middle + b * away + c * away**2
    return top
