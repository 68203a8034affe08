"""Counts to optical density: dark, flat, exposure, bad pixels → optical density, its variance, and a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask
from txm_stream.errors import BadFrameError, BadStackError, NoFlatError
from txm_stream.frames import mean_of_repeats


@dataclass(frozen=True, eq=False)
class OpticalDensity:
    """Optical density ``image`` (dimensionless), its noise ``variance`` per pixel, and ``mask`` (True = valid).

    All have the shape of the input, (y, x) or (energy, y, x). Invalid pixels are NaN in ``image`` and ``variance``.
    """

    image: Image
    variance: Image
    mask: Mask


@dataclass(frozen=True, eq=False)
class CountsImage:
    """A mean of repeats above dark, in ADU: ``counts`` (y, x), ``repeats`` averaged, ``exposure_s`` of one repeat."""

    counts: Image
    mask: Mask
    repeats: float
    exposure_s: float


def optical_density(
    image: AnyArray,
    flat: AnyArray | None,
    dark: AnyArray | float = 0.0,
    *,
    exposure_s: float = 1.0,
    flat_exposure_s: float = 1.0,
    electrons_per_adu: float = 1.0,
    read_noise_adu: float = 0.0,
    saturation_adu: float = 65535.0,
) -> OpticalDensity:
    """Return −ln((I − dark)/(flat − dark)·t₀/t) with its variance and the mask of valid pixels.

    Parameters
    ----------
    image, flat
        Counts in ADU, shape (y, x), or (energy, y, x) for both; a (y, x) flat serves a whole stack.
    dark
        Dark image (y, x) or a constant, in ADU.
    exposure_s, flat_exposure_s
        Exposure times t and t₀ in s.
    electrons_per_adu, read_noise_adu
        Noise model: var(I) = (I − dark)/electrons_per_adu + read_noise_adu².
    saturation_adu
        Counts at and above this are invalid.

    Raises
    ------
    NoFlatError
        There is no flat field.
    BadStackError
        The shapes do not fit.

    Notes
    -----
    The second-order bias of the logarithm, var(I)/2I² − var(F)/2F², is removed. Pixels whose sample or flat
    counts are not above zero, saturated or not finite are invalid: NaN, never an invented value.
    """
    if flat is None:
        raise NoFlatError("optical density needs a flat field and got none; give one, or pass optical density as it is")
    sample, open_beam = np.asarray(image), np.asarray(flat)
    if sample.shape[-2:] != open_beam.shape[-2:] or open_beam.ndim > sample.ndim:
        raise BadStackError(f"flat has shape {open_beam.shape}, the image {sample.shape}; they must agree in (y, x)")
    above_dark = [
        CountsImage(
            np.asarray(counts - np.asarray(dark, dtype=np.float32), dtype=np.float32),
            np.isfinite(counts) & (counts < saturation_adu),
            1,
            exposure,
        )
        for counts, exposure in ((sample, exposure_s), (open_beam, flat_exposure_s))
    ]
    return divide(*above_dark, electrons_per_adu=electrons_per_adu, read_noise_adu=read_noise_adu)


def divide(
    sample: CountsImage, flat: CountsImage, *, electrons_per_adu: float, read_noise_adu: float
) -> OpticalDensity:
    """Return the optical density of two :class:`CountsImage` (see :func:`optical_density`)."""
    valid = sample.mask & flat.mask & (sample.counts > 0) & (flat.counts > 0)
    numerator = np.where(valid, sample.counts, np.float32(1.0))
    denominator = np.where(valid, flat.counts, np.float32(1.0))
    relative = [
        (1.0 / (electrons_per_adu * counts) + (read_noise_adu / counts) ** 2) / repeats
        for counts, repeats in ((numerator, sample.repeats), (denominator, flat.repeats))
    ]
    density = np.log(denominator / numerator) + np.float32(np.log(sample.exposure_s / flat.exposure_s))
    # E[-ln N] = -ln λ + var/2λ²; at low counts the estimated correction itself must stay small
    density -= np.minimum(0.5 * relative[0], 0.25) - np.minimum(0.5 * relative[1], 0.25)
    nothing = np.float32(np.nan)
    return OpticalDensity(
        np.where(valid, density, nothing).astype(np.float32),
        np.where(valid, relative[0] + relative[1], nothing).astype(np.float32),
        valid,
    )


def working_density(
    sample: CountsImage, flat: CountsImage, predicted: Image, *, electrons_per_adu: float, read_noise_adu: float
) -> OpticalDensity:
    """Return the optical density of two :class:`CountsImage` linearised about ``predicted`` (y, x), for low counts.

    With λ = F·exp(−X̂) expected, X̂ − (I − λ)/λ has the mean X up to the square of the error of X̂, whatever the
    counts, and variance 1/λ: neither carries the noise of the very counts, as −ln I and 1/I do. No counts at all are a
    measurement, too. One step of iteratively reweighted least squares for Poisson counts with a logarithmic link.

    References
    ----------
    Nelder and Wedderburn, J. R. Stat. Soc. A 135, 370 (1972), DOI 10.2307/2344614.
    """
    valid = sample.mask & flat.mask & (flat.counts > 0) & np.isfinite(predicted)
    open_beam = np.where(valid, flat.counts, np.float32(1.0))
    flat_noise = (1.0 / (electrons_per_adu * open_beam) + (read_noise_adu / open_beam) ** 2) / flat.repeats
    known = np.where(valid, predicted, np.float32(0.0))
    # E[1/F] = (1 + var)/F
    expected = open_beam * (1 + flat_noise) * np.exp(-known) * np.float32(sample.exposure_s / flat.exposure_s)
    noise = (1.0 / (electrons_per_adu * expected) + (read_noise_adu / expected) ** 2) / sample.repeats
    nothing = np.float32(np.nan)
    return OpticalDensity(
        np.where(valid, known - (sample.counts - expected) / expected, nothing).astype(np.float32),
        np.where(valid, noise + flat_noise, nothing).astype(np.float32),
        valid,
    )


def counts_above_dark(
    image: AnyArray, dark: Image | None, bad: Mask | None, *, exposure_s: float, saturation_adu: float
) -> CountsImage:
    """Average repeats, subtract the dark and mark bad pixels.

    Raises
    ------
    BadFrameError
        The image is not (y, x) or (repeats, y, x), not numeric, or its shape differs from the dark's.
    """
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype.kind not in "uif":
        raise BadFrameError(
            f"frame has shape {image.shape} and type {image.dtype}; expected numbers as (y, x) or (repeats, y, x)"
        )
    mean, repeats = mean_of_repeats(image)
    if dark is not None and dark.shape != mean.shape:
        raise BadFrameError(f"frame has shape {mean.shape}, the dark {dark.shape}; check the camera ROI")
    brightest = image.max(axis=0) if image.ndim == 3 else image
    mask = np.isfinite(mean) & (brightest < saturation_adu)
    if bad is not None:
        mask &= ~bad
    counts = mean if dark is None else mean - dark
    return CountsImage(np.where(np.isfinite(counts), counts, np.float32(0)), mask, repeats, exposure_s)


def bad_pixels(dark: Image | None, flat: CountsImage | None) -> Mask | None:
    """Return pixels (True = bad) that are hot in the dark or dead in the flat; ``None`` without either."""
    from scipy import ndimage  # slow to import, and this module comes with the package

    bad: Mask | None = None
    if dark is not None:
        excess = dark - np.median(dark)
        bad = np.asarray(np.abs(excess) > 12 * max(float(np.median(np.abs(excess))), 0.5))
    if flat is not None:
        local = ndimage.median_filter(flat.counts, size=5)
        ratio = flat.counts / np.maximum(local, 1e-6)
        dead = (ratio < 0.4) | (ratio > 2.5) | (local <= 0)
        bad = dead if bad is None else bad | dead
    return bad


def electrons_per_adu(repeats: AnyArray, dark: Image | float, read_noise_adu: float) -> float | None:
    """Measure the gain in quanta per ADU from repeats (n ≥ 2, y, x) of one scene; ``None`` where they cannot tell.

    The difference of two repeats, each divided by its own mean, is free of illumination flicker:
    var(I₁/Ī₁ − I₂/Ī₂) = Σ (1/(g·I) + read²/I²). The median over tiles resists moving features and bad pixels.
    """
    if repeats.ndim != 3 or len(repeats) < 2:
        return None
    first, second = (np.asarray(repeats[i], dtype=np.float64) - dark for i in (0, 1))
    mean = 0.5 * (first + second)
    gain_ratio = float(np.median(first) / max(float(np.median(second)), 1e-9))
    difference = first - gain_ratio * second
    tile = 16
    rows, columns = (n // tile for n in mean.shape)
    if rows * columns < 4 or not np.isfinite(gain_ratio) or gain_ratio <= 0:
        return None

    def tiles(values: AnyArray) -> AnyArray:
        blocks = values[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile)
        return np.asarray(blocks.swapaxes(1, 2).reshape(rows * columns, tile * tile))

    blocks = tiles(difference)
    spread = 1.4826 * np.median(np.abs(blocks - np.median(blocks, axis=1, keepdims=True)), axis=1)
    level = np.median(tiles(mean), axis=1)
    shot = spread**2 - (1 + gain_ratio**2) * read_noise_adu**2
    usable = (shot > 0) & (level > 0)
    if usable.sum() < 4:
        return None
    gain = float(np.median(2 * gain_ratio * level[usable] / shot[usable]))
    return gain if np.isfinite(gain) and gain > 0 else None
