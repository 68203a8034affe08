"""Align a stack that is in memory: the public function, thin over the batch registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from txm_stream.alignment.batch import register_batch
from txm_stream.arrays import AnyArray, Mask, Stack, Vector
from txm_stream.device import Device, compute_device
from txm_stream.errors import BadStackError
from txm_stream.profile import Magnification
from txm_stream.resampling import bin_image, field_after_shift, fill_invalid, shift_image, shift_mask
from txm_stream.subspace.noise import noise_of_image

WORK_PIXELS = 512
_LEAST_VALID = 0.5


@dataclass(frozen=True, eq=False)
class Alignment:
    """A registered stack.

    Attributes
    ----------
    shifts_px
        (T, 2) shift (y, x) in px applied to the data to register them, weighted mean zero; 0 for rejected frames.
    sigma_px
        (T,) standard error of the shifts from the noise; NaN for rejected frames.
    stack
        (T, y, x) float32, moved once; NaN outside ``mask``, in bad pixels, and in rejected frames.
    mask
        (y, x), True in the field common to all frames that were kept.
    keep
        (T,), False where a frame could not be registered.
    magnification
        (T,), factor by which a frame was magnified about its centre before it was moved.
    growth, growth_sigma
        ``magnification`` is 1 + growth · (E/Ē − 1); the standard error of a fitted growth.
    """

    shifts_px: Vector
    sigma_px: Vector
    stack: Stack
    mask: Mask
    keep: Mask
    magnification: Vector
    growth: float = 0.0
    growth_sigma: float = 0.0


def align_stack(
    stack: AnyArray,
    *,
    energies_eV: AnyArray | None = None,
    magnification: Magnification = "constant",
    device: Device = "auto",
) -> Alignment:
    """Align a stack whose contrast changes with energy.

    Parameters
    ----------
    stack
        (T, y, x) optical density; NaN pixels are bridged for interpolation and stay NaN.
    energies_eV
        (T,) in eV, in any order; needed where the magnification is not constant.
    magnification
        ``"constant"``; ``"proportional"``: a pixel on the sample grows as the energy; ``"fitted"``: linear in energy,
        with one slope from the data.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``: where frames are moved; shifts are always found on the CPU.

    Returns
    -------
    Alignment

    Raises
    ------
    BadStackError
        No stack, another number of energies or none where they are needed, another magnification, or no frame that can
        be used.

    Notes
    -----
    See :func:`.batch.register_batch`; frames above 512 px a side are binned to estimate the shift, and moved at full
    size. It follows *all* that changes place: where pre-edge frames show something else than the element (fluorescence
    stacks), they are moved onto it.
    """
    where = compute_device(device)
    stack = np.asanyarray(stack)
    if stack.ndim != 3 or not len(stack) or stack.dtype.kind not in "uif" or min(stack.shape[1:]) < 32:
        raise BadStackError(
            f"stack has shape {stack.shape} and type {stack.dtype}; expected numbers (energy, y, x), at least 32 × 32"
        )
    if energies_eV is not None and np.shape(energies_eV) != (len(stack),):
        raise BadStackError(f"{np.size(energies_eV)} energies for {len(stack)} frames; give one per frame")
    if magnification not in get_args(Magnification):
        raise BadStackError(f"magnification is {magnification!r}, there are: {', '.join(get_args(Magnification))}")
    if magnification != "constant" and (energies_eV is None or not np.isfinite(energies_eV).all()):
        raise BadStackError(f"magnification is {magnification!r}: give the energies of all frames in eV")
    shape = (int(stack.shape[1]), int(stack.shape[2]))
    factor = max(1, -(-max(shape) // WORK_PIXELS))
    work = np.zeros((len(stack), shape[0] // factor, shape[1] // factor), dtype=np.float32)
    noise = np.full(len(stack), np.inf)
    for t, frame in enumerate(stack):
        valid = np.isfinite(frame)
        level = noise_of_image(np.where(valid, frame, np.nan).astype(np.float32))
        if valid.mean() >= _LEAST_VALID and np.ptp(frame[valid]) > 0:
            work[t] = bin_image(fill_invalid(frame.astype(np.float32), valid), factor)
            noise[t] = max(level, 1e-6 * float(np.std(frame[valid]))) / factor
    if not np.isfinite(noise).any():
        raise BadStackError("no frame has enough valid pixels to be registered; check the stack")
    energies = None if energies_eV is None else np.asarray(energies_eV, dtype=np.float64)
    found = register_batch(work, noise, energies_eV=energies, magnification=magnification).enlarged(factor, shape)
    keep = np.asarray(found.keep > 0)
    shifts, errors = found.shifts_px, found.sigma_px
    mask = np.ones(shape, dtype=bool)
    for shift, zoom in zip(shifts[keep], found.magnification[keep].tolist(), strict=True):
        mask &= field_after_shift(shape, shift, zoom)
    moved = np.full(stack.shape, np.nan, dtype=np.float32)
    for t in np.flatnonzero(keep).tolist():
        valid, zoom = np.isfinite(stack[t]), float(found.magnification[t])
        image = shift_image(fill_invalid(stack[t].astype(np.float32), valid), shifts[t], zoom, device=where)
        moved[t] = np.where(mask & shift_mask(valid, shifts[t], zoom), image, np.float32(np.nan))
    return Alignment(
        shifts_px=np.where(keep[:, None], shifts, 0.0),
        sigma_px=np.where(keep, errors, np.nan),
        stack=moved,
        mask=mask,
        keep=keep,
        magnification=found.magnification,
        growth=found.growth,
        growth_sigma=found.growth_sigma,
    )
