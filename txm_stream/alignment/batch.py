"""Registration of a whole scan: causal start, then Newton steps on all shifts together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.joint import joint_step, temporal_basis
from txm_stream.alignment.matching import taper
from txm_stream.arrays import Image, Mask, Stack, Vector
from txm_stream.resampling import field_after_shift, shift_image

STEPS = 3
RANK = 6
"""Components of the model; any number from that of the states and the background on gives the same shifts."""
_LARGEST_STEP_PX = 1.5
_CONVERGED_PX = 0.002


@dataclass(frozen=True, eq=False)
class BatchShifts:
    """Shifts (T, 2) in px applied to register, their standard errors (T,), and the weight (T,): 0 = rejected."""

    shifts_px: Vector
    sigma_px: Vector
    keep: Vector


def register_batch(frames: Stack, sigma: Vector) -> BatchShifts:
    """Register a stack of changing contrast.

    Parameters
    ----------
    frames
        Optical density (T, y, x), finite everywhere, not registered.
    sigma
        Noise of each frame, shape (T,); ``inf`` rejects a frame.

    Notes
    -----
    The common offset is free: shifts are returned with weighted mean zero. See :mod:`.joint` for the model. Shifts that
    leave more energy beyond its rank than no shifts at all are dropped: the stack was registered, or its contrast
    cannot be. Cost: about 8 resamplings per frame.
    """
    usable = np.isfinite(sigma)
    shifts = np.zeros((len(frames), 2))
    errors = np.full(len(frames), np.nan)
    if usable.sum() < 2:
        return BatchShifts(shifts, errors, usable.astype(np.float64))
    chosen = np.flatnonzero(usable)
    stack, noise = frames[chosen], np.asarray(sigma, dtype=np.float64)[chosen]
    start = _causal_start(stack, noise)
    current, failed = start.shifts_px, ~np.isfinite(start.sigma_px)
    rank = min(RANK, max(1, int((~failed).sum()) // 3))
    error = start.sigma_px
    for _ in range(STEPS):
        window = common_window((stack.shape[1], stack.shape[2]), current, ~failed)
        step = joint_step(_registered(stack, current), noise, window, ~failed, rank)
        current, error = current + np.clip(step.moves, -_LARGEST_STEP_PX, _LARGEST_STEP_PX), step.sigma_px
        if np.abs(step.moves).max() < _CONVERGED_PX:
            break
    if _energy_beyond(stack, noise, np.zeros_like(current), current, rank, ~failed) <= _energy_beyond(
        stack, noise, current, current, rank, ~failed
    ):
        current = np.zeros_like(current)
    weight = np.where(failed, 0.0, 1 / np.maximum(error, 1e-3) ** 2)
    current = current - (weight[:, None] * current).sum(axis=0) / weight.sum()
    keep = np.zeros(len(frames))
    shifts[chosen], errors[chosen], keep[chosen] = current, error, (~failed).astype(np.float64)
    return BatchShifts(shifts, errors, keep)


def _causal_start(stack: Stack, noise: Vector) -> BatchShifts:
    """Register every frame causally, the clearest first."""
    contrast = np.array([ndimage.gaussian_filter(f, 1.5).std() / s for f, s in zip(stack, noise, strict=True)])
    order = np.argsort(-contrast, kind="stable")
    causal = CausalRegistration((stack.shape[1], stack.shape[2]))
    shifts, errors = np.zeros((len(stack), 2)), np.full(len(stack), np.nan)
    for t in order:
        found = causal.partial_fit(stack[t], float(noise[t]))
        shifts[t] = found.shift_px
        errors[t] = found.sigma_px if found.accepted else np.nan
    return BatchShifts(shifts, errors, np.isfinite(errors).astype(np.float64))


def _registered(stack: Stack, shifts: Vector) -> Stack:
    return np.stack([shift_image(f, s) for f, s in zip(stack, shifts, strict=True)])


def common_window(shape: tuple[int, int], shifts: Vector, keep: Mask) -> Image:
    """Return a tapered window over the field that all kept frames share."""
    field = np.ones(shape, dtype=bool)
    for shift in shifts[keep]:
        field &= field_after_shift(shape, shift)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    window = np.zeros(shape, dtype=np.float32)
    if rows.size < 8 or columns.size < 8:
        return taper(shape)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    window[box] = taper((rows.size, columns.size))
    return window


def _energy_beyond(stack: Stack, noise: Vector, shifts: Vector, seen: Vector, rank: int, keep: Mask) -> float:
    """Return the energy beyond ``rank`` of the stack at ``shifts``, in the common field of the shifts ``seen``."""
    window = common_window((stack.shape[1], stack.shape[2]), seen, keep)
    return float(temporal_basis(_registered(stack, shifts), noise, window, keep)[0][rank:].sum())
