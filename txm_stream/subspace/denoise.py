"""Denoise a stack that is in memory: subspace from the smoothed Gram matrix, image denoiser on its components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components, load_denoiser
from txm_stream.device import Device, compute_device
from txm_stream.errors import BadStackError
from txm_stream.resampling import fill_invalid
from txm_stream.subspace.gram import SmoothedGram
from txm_stream.subspace.noise import noise_beyond, noise_of_image
from txm_stream.subspace.projection import project
from txm_stream.subspace.rank import leading_basis
from txm_stream.subspace.refine import refine_basis
from txm_stream.subspace.risk import component_risks, stack_risk
from txm_stream.subspace.turn import turned_denoiser

FILLED_AT_MOST = 0.2
"""A pixel bridged from its neighbours in more frames than this share says nothing."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """A denoised stack.

    Attributes
    ----------
    stack
        (T, y, x) float32; NaN where the mask is False, in pixels that are NaN in more than a fifth of the frames, and
        in frames without any value.
    rank
        Components K.
    sigma
        Noise of the input, rms over frames, in its units.
    risk
        Predicted mean squared error of ``stack``, in its units squared.
    components, loadings
        (K, y, x) denoised images in units of the noise, and (T, K): ``stack`` is loadings · components.
    """

    stack: Stack
    rank: int
    sigma: float
    risk: float
    components: Stack
    loadings: Stack


def denoise_stack(
    stack: AnyArray,
    *,
    energies_eV: AnyArray | None = None,
    sigma: AnyArray | float | None = None,
    pixel_noise: AnyArray | None = None,
    rank: int | None = None,
    denoiser: str | Denoiser = "auto",
    mask: Mask | None = None,
    device: Device = "auto",
) -> Denoised:
    """Denoise a registered stack by subspace modelling.

    Parameters
    ----------
    stack
        (T, y, x), for instance optical density; at least 32 × 32 pixels. NaN pixels are bridged.
    energies_eV
        (T,), where the frames are not in order of energy.
    sigma
        White noise of the stack, one value or (T,), in its units; default: measured.
    pixel_noise
        (y, x), noise of each pixel relative to that of its frame, where it varies; default: 1.
    rank
        Number of components; default: those above the noise by parallel analysis, 2 to 8.
    denoiser
        Name of an installed denoiser or a :class:`.Denoiser`; ``"auto"`` is the UNet.
    mask
        (y, x), True where pixels count.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``: where the images are denoised; all else runs on the CPU.

    Returns
    -------
    Denoised

    Raises
    ------
    BadStackError
        No stack, wrong shapes, no valid pixel, noise not positive, or a rank that is not possible.
    BadProfileError
        No such denoiser or device.

    Notes
    -----
    The subspace comes from smoothed frames, the components are projections of the unsmoothed ones; their noise is
    white and known. With the denoised components the subspace is found once more, see :mod:`.refine`, and its
    components are turned to be denoised best, see :mod:`.turn`. Cost: about 20 ms per frame and 3 s per component at
    1024², and 1 to 5 s for the turn.

    References
    ----------
    Li et al., ICASSP 2023 (subspace modelling; its eqs. 2–6 denoise the temporal factor, the spatial one is meant);
    Ramani et al., IEEE Trans. Image Process. 17, 1540 (2008), DOI 10.1109/TIP.2008.2001404 (risk).
    """
    where = compute_device(device)
    stack = np.asanyarray(stack)
    if stack.ndim != 3 or not len(stack) or stack.dtype.kind not in "uif" or min(stack.shape[1:]) < 32:
        raise BadStackError(
            f"stack has shape {stack.shape} and type {stack.dtype}; expected numbers (energy, y, x), at least 32 × 32"
        )
    shape = (int(stack.shape[1]), int(stack.shape[2]))
    if mask is not None and np.shape(mask) != shape:
        raise BadStackError(f"mask of shape {np.shape(mask)} for images of shape {shape}; they must be equal")
    measured, invalid = [], np.zeros(shape)
    for frame in stack:
        finite = np.isfinite(frame)
        measured.append(bool(finite.any()))
        invalid += 0 if not measured[-1] else ~finite
    keep = np.array(measured, dtype=np.float64)
    field = np.ones(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    field &= invalid <= FILLED_AT_MOST * keep.sum()
    if not keep.any() or not field.any():
        raise BadStackError("no pixel of the stack is valid; check the mask and the NaN of the stack")
    energies = None if energies_eV is None else np.asarray(energies_eV, dtype=np.float64)
    if energies is not None and (energies.shape != keep.shape or not np.isfinite(energies).all()):
        raise BadStackError(f"energies of shape {energies.shape}; expected {len(stack)} finite ones, one per frame")
    relative = None if pixel_noise is None else np.asarray(pixel_noise, dtype=np.float32)
    if relative is not None and (relative.shape != shape or not (relative[field] > 0).all()):
        raise BadStackError(f"pixel_noise of shape {relative.shape}; expected {shape}, positive where the mask is True")
    if rank is not None and not 1 <= rank <= keep.sum():
        raise BadStackError(f"rank is {rank}, allowed are 1 to {int(keep.sum())}")
    noise = _noise(stack, keep > 0, field, sigma)

    def read(t: int) -> Image:
        image = np.asarray(stack[t], dtype=np.float32)
        return fill_invalid(image, np.isfinite(image) & field) / np.float32(noise[t])

    gram = SmoothedGram(shape)
    nothing = np.zeros(shape, dtype=np.float32)
    for t in range(len(stack)):
        gram.partial_fit(t, read(t) if keep[t] else nothing, field, 1.0)
    spectrum = gram.spectrum(keep)
    level = gram.noise_level(keep) if sigma is None else 1.0
    bounds = {} if rank is None else {"at_least": rank, "at_most": rank}
    basis = leading_basis(spectrum, level, keep > 0, energies_eV=energies, **bounds)
    rank = basis.shape[1]
    chosen: Denoiser = load_denoiser(denoiser, device=where) if isinstance(denoiser, str) else denoiser
    told: float | Image = level if relative is None else np.float32(level) * relative
    clean = denoise_components(project(read, basis, shape), told, chosen)
    refined = refine_basis(read, basis, clean, field, energies_eV=energies, noise=level)
    basis = refined.basis
    images = project(read, basis, shape)
    if sigma is None:
        level = noise_beyond(level, read, basis, images, field)
        told = level if relative is None else np.float32(level) * relative
    chosen = turned_denoiser(images, told, chosen)
    clean = denoise_components(images, told, chosen)
    rng = np.random.default_rng(0)
    risks = component_risks(images, clean, told, chosen, rng=rng, factors=np.ones(rank))
    rest = spectrum.values[rank:].sum() - (keep.sum() - rank) * level**2 * spectrum.gain * spectrum.n_samples
    discarded = max(float(rest), 0.0) / (spectrum.n_samples * keep.sum())
    discarded += refined.freedom * level**2 / field.sum()
    known = np.where(keep > 0, noise, np.nan)
    loadings = (basis * np.where(keep > 0, noise, 0.0)[:, None]).astype(np.float32)
    out = np.tensordot(loadings, clean, axes=1)
    out[:, ~field] = np.nan
    out[keep == 0] = np.nan
    rms = float(level * np.sqrt(np.nanmean(known**2)))
    return Denoised(out, rank, rms, stack_risk(risks, basis, known, discarded), clean, loadings)


def _noise(stack: AnyArray, used: Mask, field: Mask, sigma: AnyArray | float | None) -> Vector:
    """Return the noise (T,) as given or by second differences, to be corrected by its level over the spectrum."""
    if sigma is None:
        noise = np.full(len(stack), np.nan)
        for t in np.flatnonzero(used):
            noise[t] = noise_of_image(np.where(field, stack[t], np.nan))
        typical = float(np.nanmedian(noise)) if np.isfinite(noise).any() else float("nan")
        if not np.isfinite(typical) or typical <= 0:
            raise BadStackError("the noise cannot be measured on this stack; give sigma")
        return np.where(noise > 0.05 * typical, noise, typical)
    noise = np.full(len(stack), float(sigma)) if np.ndim(sigma) == 0 else np.array(sigma, dtype=np.float64)
    if noise.shape != (len(stack),) or not (noise[used] > 0).all():
        raise BadStackError(f"sigma of shape {noise.shape}; expected one positive value or one per frame")
    return noise
