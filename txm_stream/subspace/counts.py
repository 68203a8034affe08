"""Denoise counts: subspace modelling of the optical density, linearised about itself, for few quanta per pixel."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Mask, Stack
from txm_stream.denoising import Denoiser
from txm_stream.device import Device
from txm_stream.errors import BadStackError
from txm_stream.optical_density import CountsImage, OpticalDensity, working_density
from txm_stream.subspace.denoise import Denoised, denoise_stack

ITERATIONS = 2


def denoise_counts(
    counts: AnyArray,
    flat: AnyArray,
    dark: AnyArray | float = 0.0,
    *,
    energies_eV: AnyArray | None = None,
    electrons_per_adu: float = 1.0,
    read_noise_adu: float = 0.0,
    flat_repeats: float = 1.0,
    denoiser: str | Denoiser = "auto",
    mask: Mask | None = None,
    device: Device = "auto",
) -> Denoised:
    """Denoise a registered stack of counts by subspace modelling of its optical density.

    Parameters
    ----------
    counts
        (T, y, x) in ADU; pixels that are not finite are bridged.
    flat
        Open beam (T, y, x) or (y, x) in ADU, of the same exposure.
    dark
        In ADU, (y, x) or a constant.
    energies_eV
        (T,), where the frames are not in order of energy.
    electrons_per_adu, read_noise_adu
        Noise model: var(I) = (I − dark)/electrons_per_adu + read_noise_adu².
    flat_repeats
        How many exposures the flat is the mean of; more for pooled ones.
    denoiser, mask, device
        As in :func:`.denoise_stack`.

    Returns
    -------
    Denoised
        ``stack`` is optical density.

    Raises
    ------
    BadStackError
        Wrong shapes, a gain that is not positive, or no valid pixel.

    Notes
    -----
    Low rank and linear mixing hold for the optical density only; counts have simple noise. Starting from
    ln((F + ½)/(I + ½)), the counts are linearised twice about the denoised optical density
    (:func:`.working_density`), so that neither their mean nor their noise level is taken from single noisy counts.
    """
    sample, open_beam = np.asarray(counts, dtype=np.float32), np.asarray(flat, dtype=np.float32)
    if sample.ndim != 3 or open_beam.shape not in (sample.shape, sample.shape[1:]):
        raise BadStackError(
            f"counts of shape {sample.shape}, flat of shape {open_beam.shape}; expected (energy, y, x), and for the "
            "flat the same or (y, x)"
        )
    if not electrons_per_adu > 0 or not flat_repeats > 0:
        raise BadStackError(f"electrons_per_adu {electrons_per_adu} and flat_repeats {flat_repeats} must be positive")
    base = np.asarray(dark, dtype=np.float32)
    measured = CountsImage(sample - base, np.isfinite(sample), 1.0, 1.0)
    beam = CountsImage(open_beam - base, np.isfinite(open_beam), flat_repeats, 1.0)
    half = np.float32(0.5 / electrons_per_adu)
    start = np.log(np.maximum(beam.counts + half, half) / np.maximum(measured.counts + half, half))
    start = np.where(measured.mask & beam.mask & (beam.counts > 0), start, np.float32(np.nan)).astype(np.float32)
    found = denoise_stack(start, energies_eV=energies_eV, denoiser=denoiser, mask=mask, device=device)
    for _ in range(ITERATIONS):
        density = working_density(
            measured, beam, found.stack, electrons_per_adu=electrons_per_adu, read_noise_adu=read_noise_adu
        )
        found = denoise_stack(
            density.image,
            energies_eV=energies_eV,
            pixel_noise=_pixel_noise(density),
            denoiser=denoiser,
            mask=mask,
            device=device,
        )
    return found


def _pixel_noise(density: OpticalDensity) -> Stack:
    """Return the noise of each pixel (y, x) relative to that of its frame; 1 where nothing is known."""
    variance = np.where(density.mask, density.variance, np.nan)
    level = np.nanmean(variance, axis=(1, 2), keepdims=True)
    known = density.mask.any(axis=0)
    relative = np.ones(known.shape, dtype=np.float32)
    relative[known] = np.sqrt(np.nanmean((variance / level)[:, known], axis=0))
    return relative
