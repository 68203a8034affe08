"""RUM+: denoise the white channels, invert, refine the abundances, and bootstrap the whole estimator for its error.

The robust unmixing of Wang et al., Opt. Express 31, 42524 (2023), arXiv:2308.04207, solves for abundances and a
per-pixel scale together. Denoising in white coordinates, where the noise level is known, needs no parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask, Matrix, Stack
from txm_stream.denoising import Denoiser, denoise_mirrored, takes_sigma_map
from txm_stream.resampling import bin_image
from txm_stream.unmixing.least_squares import nonnegative, split_scale
from txm_stream.unmixing.noise_draws import SharedNoise, draw_noise
from txm_stream.unmixing.plug_and_play import is_hidden, on_simplex, refine_abundances, typical_noise

INSIDE = 0.25
"""Inside the particles: scale above this share of its 98th percentile."""
_THIN = 0.08
_THIN_SIGMAS = 4.0
_REACH, _REACH_PX = 1.7, (1.0, 4.0)
"""Squared errors are smoothed by so many px times the abundance noise of a typical pixel, within these bounds."""
_GRAINS, _GRAIN_POWER, _MOST_BY_GRAINS = 0.14, 0.3, (0.8, 1.3)
"""Graininess of maps that the bootstrap judges rightly, power of its factor on σ, and its bounds."""
_MORE_STATES = ((0.1, 0.2), (1.0, 1.06))
"""With three states and more σ falls short besides: abundance noise of a typical pixel, and the factor on σ."""


Estimator = Callable[[Stack], tuple[Stack, Image]]
"""``estimate(white)`` → abundances (L, y, x) and scale (y, x)."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Chemical maps. ``abundances`` and ``sigma`` (L, y, x), ``scale`` (y, x) in OD; NaN where ``mask`` is False.

    ``predicted_rmse`` is the expected abundance error inside the particles (``inside``).
    """

    abundances: Stack
    scale: Image
    sigma: Stack
    mask: Mask
    inside: Mask
    predicted_rmse: float

    def with_common_error(self, rmse: float) -> Maps:
        """Return the maps with an error added that all abundances share."""
        sigma = np.hypot(self.sigma, np.float32(rmse))
        return replace(self, sigma=sigma, predicted_rmse=float(np.hypot(self.predicted_rmse, rmse)))


def rotate_to_signal(white: Stack) -> Matrix:
    """Return the rotation (L, L) that sorts the channels by smoothed signal energy."""
    smooth = np.stack([ndimage.gaussian_filter(bin_image(c, 2), 1.0).ravel() for c in white]).astype(np.float64)
    _, vectors = np.linalg.eigh(smooth @ smooth.T)
    return np.asarray(vectors[:, ::-1].T)


def denoise_channels(
    white: Stack, rotation: Matrix, sigma: float | Image, denoiser: Denoiser, *, turned: bool = False
) -> Stack:
    """Rotate channels (L, y, x), denoise them at ``sigma``, one number or (y, x), rotate back.

    ``turned``: the denoiser sees the images turned by 180°.
    """
    step = -1 if turned else 1
    combined = np.tensordot(rotation.astype(np.float32), white, axes=1)
    clean = denoise_mirrored(combined, sigma, denoiser, up=step, along=step)
    return np.asarray(np.tensordot(rotation.T.astype(np.float32), clean, axes=1), dtype=np.float32)


def invert(clean: Stack, triangle: Matrix) -> tuple[Stack, Image]:
    """Return abundances (L, y, x) and scale (y, x) of denoised white channels."""
    scaled = nonnegative(clean.reshape(len(clean), -1), triangle)
    abundances, scale = split_scale(scaled)
    return abundances.reshape(clean.shape), scale.reshape(clean.shape[1:])


def inside_of(scale: Image, field: Mask) -> Mask:
    """Return the pixels inside the particles, judged by the scale."""
    if not field.any():
        return np.zeros_like(field)
    return np.asarray(field & (scale > INSIDE * np.percentile(scale[field], 98)))


def level_inside(white: Stack, triangle: Matrix, pixel_noise: Image, field: Mask) -> float:
    """Return the rms noise of the white channels inside the particles, found from a smoothed first look."""
    smooth = np.stack([ndimage.gaussian_filter(c, 2.0) for c in white])
    inside = inside_of(invert(smooth, triangle)[1], field)
    chosen = pixel_noise[inside] if inside.any() else pixel_noise[field]
    return float(np.sqrt(np.mean(chosen.astype(np.float64) ** 2))) if chosen.size else 1.0


def unmix_channels(
    white: Stack,
    triangle: Matrix,
    pixel_noise: Image,
    field: Mask,
    denoiser: Denoiser,
    *,
    draws: int,
    rng: np.random.Generator,
    refine: bool = True,
    shared_noise: SharedNoise | None = None,
) -> Maps:
    """Unmix white channels (L, y, x) with their noise per pixel (y, x); see :class:`Maps`.

    Parameters
    ----------
    field
        Pixels where the channels are complete; the others come out as NaN.
    draws
        Bootstrap draws; 4 for a final map, 1 to 2 live.
    refine
        Also denoise the abundances themselves, see :mod:`.plug_and_play`: 1 to 2 dB, at three times the cost.
    shared_noise
        The part of ``pixel_noise`` that neighbouring pixels have in common; default: none.

    Notes
    -----
    Where noise hides the abundances of a single pixel, the channels are denoised a second time, turned by 180°, and
    the two averaged (cycle spinning); the splitting steps are one fewer there.

    Parametric bootstrap: d = D(white), x̂ = map(d); x*ᵢ = estimate(d + noise); σ² = mean (x*ᵢ − x̂)², smoothed inside
    the mask. With ``refine`` x̂ lies between the one-pass and the refined solution, and d is what it gives: the
    one is rougher, the other smoother than what is there. The more the noise hides, the rougher
    x̂ is taken, see :func:`_roughness`, and the wider σ² is smoothed: errors then reach further, and four draws
    say little of single pixels. Edges that x̂ has lost are lost to the draws, too, see :func:`_unseen_edges`. With three
    states and more up to 6 % are missing besides, found on phantoms of seeds 0 to 8 and again in steered scans of seeds
    9 and 12 to 14. It covers noise and the bias of the denoiser, nothing unmodelled.
    """
    filled = np.where(field, white, np.float32(0))
    level = pixel_noise if takes_sigma_map(denoiser) else level_inside(filled, triangle, pixel_noise, field)
    rotation = rotate_to_signal(filled)

    def look(channels: Stack, *, turned: bool = False) -> Stack:
        return denoise_channels(channels, rotation, level, denoiser, turned=turned)

    clean = look(filled)
    first, scale = invert(clean, triangle)
    inside = inside_of(scale, field)
    noise = typical_noise(triangle, scale, pixel_noise, inside)
    hidden = refine and is_hidden(noise)
    if hidden:
        clean = 0.5 * (clean + look(filled, turned=True))
        first, scale = invert(clean, triangle)
        inside = inside_of(scale, field)
        noise = typical_noise(triangle, scale, pixel_noise, inside)

    def refined(channels: Stack, start: Stack, amount: Image) -> Stack:
        if not refine:
            return start
        return refine_abundances(channels, triangle, amount, start, denoiser, pixel_noise=pixel_noise, inside=inside)

    def estimate(channels: Stack) -> tuple[Stack, Image]:
        seen = look(channels)
        again, amount = invert(0.5 * (seen + look(channels, turned=True)) if hidden else seen, triangle)
        return refined(channels, again, amount), amount

    abundances = refined(filled, first, scale)
    truth, reach_px = first, _REACH_PX[0]
    if refine:
        usual = float(np.sqrt(noise[0] * noise[-1])) if len(noise) else 0.0
        truth = on_simplex(abundances + np.float32(_roughness(usual)) * (first - abundances))
        clean = np.tensordot(triangle.astype(np.float32), scale * truth, axes=1)
        reach_px = float(np.clip(_REACH * usual, *_REACH_PX))
    squared, scale_squared = bootstrap(
        estimate,
        clean,
        (truth, scale),
        pixel_noise,
        field,
        draws=draws,
        rng=rng,
        reach_px=reach_px,
        shared_noise=shared_noise,
    )
    if refine and draws:
        more = np.interp(usual, *_MORE_STATES) if len(abundances) > 2 else 1.0
        squared *= np.float32((more * _unseen_edges(abundances, inside)) ** 2)
    return finish_maps(abundances, scale, squared, scale_squared, field)


def _roughness(noise: float) -> float:
    """Return where between the refined (0) and the one-pass solution (1) the bootstrap starts: 0.4 to 1.6.

    0.55 + 1.1 lg(ν/0.3) for the abundance noise ν: so that on phantoms of both kinds the predicted error is the true
    one up to ν = 2.4.
    """
    return float(np.clip(0.55 + 1.1 * np.log10(max(noise, 1e-6) / 0.3), 0.4, 1.6))


def _unseen_edges(abundances: Stack, inside: Mask) -> float:
    """Return by how much the bootstrap's σ falls short: 0.8 to 1.3, more for finely grained maps, less for smooth ones.

    (g/0.14)^0.3 for graininess g, the rms slope of the abundances (L, y, x) per px over their rms contrast ``inside``.
    The draws start from maps whose edges are already rounded, and round them less than the real ones: the more of a map
    is edges, the more so. Found on phantoms of both kinds, two to five states, with seeds 9 to 14.
    """
    middle = ndimage.binary_erosion(inside, iterations=2)
    contrast = float(abundances[:, middle].var(axis=1).sum()) if middle.any() else 0.0
    if contrast <= 0:
        return 1.0
    slopes = [ndimage.gaussian_gradient_magnitude(image, 1.0)[middle] for image in abundances]
    grains = np.sqrt(np.sum(np.square(slopes)) / middle.sum() / contrast)
    return float(np.clip((grains / _GRAINS) ** _GRAIN_POWER, *_MOST_BY_GRAINS))


def unmix_by(
    estimate: Estimator,
    white: Stack,
    triangle: Matrix,
    pixel_noise: Image,
    field: Mask,
    *,
    draws: int,
    rng: np.random.Generator,
) -> Maps:
    """Unmix white channels (L, y, x) by any estimator, bootstrapped about its own answer."""
    found = estimate(np.where(field, white, np.float32(0)))
    clean = np.tensordot(triangle, found[1] * found[0], axes=1).astype(np.float32)
    return finish_maps(*found, *bootstrap(estimate, clean, found, pixel_noise, field, draws=draws, rng=rng), field)


def bootstrap(
    estimate: Estimator,
    clean: Stack,
    truth: tuple[Stack, Image],
    pixel_noise: Image,
    field: Mask,
    *,
    draws: int,
    rng: np.random.Generator,
    reach_px: float = 1.0,
    shared_noise: SharedNoise | None = None,
) -> tuple[Stack, Image]:
    """Return squared errors of abundances (L, y, x) and scale (y, x) about ``truth``, shown by ``clean``, smoothed."""
    squared, scale_squared = np.zeros_like(truth[0]), np.zeros_like(truth[1])
    for _ in range(draws):
        noise = draw_noise(clean.shape, pixel_noise, shared_noise, rng)
        abundances, scale = estimate(np.where(field, clean + noise, np.float32(0)))
        squared += (abundances - truth[0]) ** 2 / draws
        scale_squared += (scale - truth[1]) ** 2 / draws
    thick, inside = thick_of(truth[1], field), inside_of(truth[1], field)
    return smooth_errors(squared, thick, inside, reach_px), smooth_inside(scale_squared[None], thick)[0]


def thick_of(scale: Image, field: Mask) -> Mask:
    """Return the pixels that are not too thin to say anything, judged by the scale."""
    return np.asarray(field & (scale > _THIN * np.percentile(scale[field], 98))) if field.any() else field


def finish_maps(abundances: Stack, scale: Image, squared: Stack, scale_squared: Image, field: Mask) -> Maps:
    """Turn squared errors (L, y, x) and (y, x), smoothed, into σ maps; hide the pixels that say nothing."""
    inside = inside_of(scale, field)
    mask = thick_of(scale, field) & (scale > _THIN_SIGMAS * np.sqrt(scale_squared))
    predicted = float(np.sqrt(squared[:, inside].mean())) if inside.any() else float("nan")
    sigma = np.sqrt(squared)
    nothing = np.float32(np.nan)
    return Maps(
        np.where(mask, abundances, nothing).astype(np.float32),
        np.where(field, scale, nothing).astype(np.float32),
        np.where(mask, sigma, nothing).astype(np.float32),
        mask,
        inside,
        predicted,
    )


def smooth_errors(squared: Stack, thick: Mask, inside: Mask, reach_px: float = 1.0) -> Stack:
    """Smooth squared errors (n, y, x) where it is ``thick``; those of thin pixels do not reach the ones ``inside``."""
    smooth = smooth_inside(squared, thick, reach_px)
    smooth[:, inside] = smooth_inside(squared, inside, reach_px)[:, inside]
    return smooth


def smooth_inside(images: Stack, mask: Mask, reach_px: float = 1.0) -> Stack:
    """Smooth images (n, y, x) by a Gaussian using only pixels inside ``mask``; 0 far from it."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), reach_px)
    reached = weight > 1e-3
    out = np.zeros(images.shape, dtype=np.float32)
    for image, smooth in zip(images, out, strict=True):
        total = ndimage.gaussian_filter(np.where(mask, image, np.float32(0)), reach_px)
        np.divide(total, weight, out=smooth, where=reached)
    return out
