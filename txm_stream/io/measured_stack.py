"""A measured stack as read from a file: frames, energies, what the values mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Vector
from txm_stream.errors import BadStackError
from txm_stream.profile import Signal

_OPEN_BEAM_PERCENTILES = (95.0, 99.9)
_SMALLEST_JUMP_RATIO = 0.05
"""Absorption below a K or L edge is at least a tenth of that above; far less means that no absorption was measured."""


@dataclass(frozen=True, eq=False)
class MeasuredStack:
    """A stack of one sample position.

    Attributes
    ----------
    frames
        (T, y, x) in file order; counts keep the type of the file, everything else is float32. NaN is kept.
    energies_eV
        (T,) in eV; any order, repeats are further visits.
    signal
        What the values are: "counts", "transmission" (divided by I0), "optical-density" or "fluorescence".
    flats, darks
        (F, y, x) and (D, y, x) or ``None``. F = T: flat n belongs to frame n; otherwise all serve all frames.
    pixel_nm
        Pixel size in nm, ``None`` where the file does not say.
    name
        File and dataset.
    notes
        What was assumed while reading, one line each.
    """

    frames: AnyArray
    energies_eV: Vector
    signal: Signal
    flats: AnyArray | None = None
    darks: AnyArray | None = None
    pixel_nm: float | None = None
    name: str = ""
    notes: tuple[str, ...] = ()


def energy_axis_first(data: AnyArray, n_energies: int, *, name: str) -> tuple[AnyArray, str | None]:
    """Bring a stack into (energy, y, x) and say what was done.

    The energy axis is the one as long as the energy list. Where several are: the first axis, else the last.
    Axes of length 1 are dropped; a 4-D stack (energy, repeat, y, x) is averaged over its repeats.

    Raises
    ------
    BadStackError
        No axis has that length, or the array is no stack.
    """
    got = data.shape
    if data.ndim > 3:
        data = np.squeeze(data, axis=tuple(i for i, length in enumerate(got) if length == 1 and i < data.ndim - 2))
    if data.ndim == 2 and n_energies == 1:
        data = data[None]
    if data.ndim == 4 and len(data) == n_energies:
        mean = data.mean(axis=1, dtype=np.float64).astype(np.float32)
        return mean, f"{data.shape[1]} repeats per energy averaged"
    matches = [axis for axis, length in enumerate(data.shape) if length == n_energies]
    if data.ndim != 3 or not matches:
        raise BadStackError(
            f"{name}: {n_energies} energies for an array of shape {got}; one of three axes must have that length; "
            f"check the energy list"
        )
    axis = 0 if 0 in matches else matches[-1]
    if axis == 0:
        note = "several axes are as long as the energy list; the first is taken as energy" if len(matches) > 1 else None
        return data, note
    return np.ascontiguousarray(np.moveaxis(data, axis, 0)), f"axis {axis} of the file's array is energy"


def guess_signal(frames: AnyArray, energies_eV: Vector, *, has_flats: bool) -> tuple[Signal, str]:
    """Decide what the values are where the file does not say; return the signal and the reason.

    Integers or a file with flats: counts. Otherwise by the course over the edge: falling is transmission; rising is
    optical density, or fluorescence where nothing is negative and hardly anything (5 %) is there below the edge –
    absorption below an edge never is that small.
    """
    if has_flats or np.issubdtype(frames.dtype, np.integer):
        return "counts", "the file has flats" if has_flats else "values are integers"
    shown = np.array([bool(np.isfinite(frame).any()) for frame in frames])
    order = [int(t) for t in np.argsort(energies_eV, kind="stable") if shown[t]]
    if not order:
        return "optical-density", "no value is finite"
    mean = np.array([float(np.nanmean(frames[t], dtype=np.float64)) for t in order])
    tenth = max(1, len(mean) // 10)
    before, after = float(np.mean(mean[:tenth])), float(np.mean(mean[-max(1, len(mean) // 4) :]))
    if after < before and float(np.nanmin(frames)) >= 0.0:
        return "transmission", "values fall over the edge"
    if float(np.nanmin(frames)) >= 0.0 and before < _SMALLEST_JUMP_RATIO * after:
        return "fluorescence", f"values rise over the edge from {before / after:.1%} of their level above it"
    return "optical-density", "values rise over the edge"


def open_beam_i0(frames: AnyArray) -> Vector:
    """Estimate I0 (T,) of each frame as the median over the open beam: the brightest 5 % of the pixels on average.

    Hot pixels (the top 0.1 %) are left out. The estimate is right where at least 5 % of the field is empty.
    """
    mean = np.zeros(frames.shape[1:])
    for frame in frames:
        mean += np.nan_to_num(frame, nan=0.0)
    low, high = np.percentile(mean, _OPEN_BEAM_PERCENTILES)
    bright = (mean >= low) & (mean <= high)
    return np.array([float(np.nanmedian(f[bright])) if np.isfinite(f[bright]).any() else np.nan for f in frames])


def divided(frames: AnyArray, i0: AnyArray, *, name: str) -> tuple[Image, str]:
    """Divide intensities (T, y, x) by I0 of shape (T,), (y, x) or (T, y, x); NaN where I0 is not positive.

    Raises
    ------
    BadStackError
        I0 has another shape.
    """
    i0 = np.squeeze(np.asarray(i0, dtype=np.float32))
    if i0.shape == frames.shape[:1]:
        i0 = i0[:, None, None]
    if i0.shape not in (frames.shape, frames.shape[1:], (len(frames), 1, 1)):
        raise BadStackError(f"{name}: I0 of shape {i0.shape} for frames of shape {frames.shape}; check the file")
    usable = np.where(i0 > 0, i0, np.nan).astype(np.float32)
    return frames.astype(np.float32) / usable, f"divided by I0 = {np.nanmin(usable):.4g}–{np.nanmax(usable):.4g}"
