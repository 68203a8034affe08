"""Registration of a whole scan: causal start, then sweeps against the leave-one-out low-rank prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.matching import apply_filter, gauss_newton_step, taper, wiener_filter
from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.resampling import field_after_shift, shift_image

SWEEPS = 3


@dataclass(frozen=True, eq=False)
class BatchShifts:
    """Shifts (T, 2) in px applied to register, their standard errors (T,), and the weight (T,): 0 = rejected."""

    shifts_px: Vector
    sigma_px: Vector
    keep: Vector


def register_batch(frames: Stack, sigma: Vector, *, rank: int = 3) -> BatchShifts:
    """Register a stack of changing contrast.

    Parameters
    ----------
    frames
        Optical density (T, y, x), finite everywhere, not registered.
    sigma
        Noise of each frame, shape (T,); ``inf`` rejects a frame.
    rank
        Spatial components of the model: the states and one for the background that is not proportional to them.

    Notes
    -----
    The common offset is free: shifts are returned with weighted mean zero. A frame is predicted from all others in
    ``rank`` components; with too few of them the shifts lean along the chemistry (a shift ∝ v₂/v₁ looks like another
    chemistry image to first order). Shifts that leave more energy beyond ``rank`` than no shifts at all are dropped:
    the stack was registered, or its contrast cannot be. Cost: about 10 resamplings and 12 transforms per frame.
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
    rank = min(rank, max(1, int((~failed).sum()) - 1))
    for _ in range(SWEEPS):
        current, error = _sweep(stack, noise, current, rank, ~failed)
    if _energy_beyond(stack, noise, np.zeros_like(current), current, rank, ~failed) <= _energy_beyond(
        stack, noise, current, current, rank, ~failed
    ):
        current = np.zeros_like(current)
    weight = (~failed) / np.maximum(error, 1e-3) ** 2
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


def _temporal_basis(registered: Stack, noise: Vector, window: Image, keep: Mask) -> tuple[Vector, Matrix]:
    """Return eigenvalues and vectors (T, T) of the whitened Gram matrix of smoothed frames; rejected rows are 0."""
    weight = np.where(keep, 1 / noise, 0.0)
    smooth = np.stack([(ndimage.gaussian_filter(f, 1.5) * window)[::2, ::2].ravel() for f in registered])
    smooth *= weight[:, None].astype(np.float32)
    values, vectors = np.linalg.eigh((smooth @ smooth.T).astype(np.float64))
    return values[::-1], vectors[:, ::-1]


def _energy_beyond(stack: Stack, noise: Vector, shifts: Vector, seen: Vector, rank: int, keep: Mask) -> float:
    """Return the energy beyond ``rank`` of the stack at ``shifts``, in the common field of the shifts ``seen``."""
    window = common_window((stack.shape[1], stack.shape[2]), seen, keep)
    return float(_temporal_basis(_registered(stack, shifts), noise, window, keep)[0][rank:].sum())


def _sweep(stack: Stack, noise: Vector, shifts: Vector, rank: int, keep: Mask) -> tuple[Vector, Vector]:
    """Re-register each frame against the low-rank prediction from all others; return shifts and errors."""
    shape = (stack.shape[1], stack.shape[2])
    registered = _registered(stack, shifts)
    window = common_window(shape, shifts, keep)
    _, vectors = _temporal_basis(registered, noise, window, keep)
    basis = vectors[:, :rank]
    loads = basis / noise[:, None]
    components = np.einsum("tk,tyx->kyx", loads.astype(np.float32), registered)
    filters = [wiener_filter(c, 1.0, window) for c in components]
    filtered = [apply_filter(c, f) for c, f in zip(components, filters, strict=True)]
    moved, error = shifts.copy(), np.full(len(stack), np.nan)
    for t in range(len(stack)):
        models = [
            image - np.float32(loads[t, k]) * apply_filter(registered[t], filters[k])
            for k, image in enumerate(filtered)
        ]
        step = gauss_newton_step(registered[t], models, window)
        limit = np.clip(step.move, -1.5, 1.5)
        moved[t] = shifts[t] + limit
        error[t] = float(np.sqrt(0.5 * np.trace(step.covariance)))
    return moved, error
