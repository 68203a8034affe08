"""Unmix a stack that is in memory: the public function, thin over the design and the one-pass estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, load_denoiser
from txm_stream.device import Device, compute_device
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.subspace.noise import noise_of_image, noise_of_samples
from txm_stream.subspace.projection import AT_ONCE, add_weighted
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.one_pass import unmix_by, unmix_channels
from txm_stream.unmixing.references import References
from txm_stream.unmixing.rum import ITERATIONS
from txm_stream.unmixing.rum_by_rule import rum_by_rule

METHODS = ("rum+", "rum-tv", "rum-pnp", "lcf")
_DRAWS = 4


@dataclass(frozen=True, eq=False)
class PhaseMap:
    """A chemical map.

    Attributes
    ----------
    abundances, sigma
        (L, y, x) float32 on the simplex and their standard errors; NaN where ``mask`` is False.
    scale
        (y, x) edge jump in units of the stack; NaN outside the mask given and where the stack is NaN.
    predicted_rmse
        Expected error of the abundances inside the particles (scale above 25 % of its 98th percentile).
    iterations
        Iterations of the solver; 1 for one-pass methods.
    mask
        (y, x), True where there is enough of the element to say something.
    names
        Names of the states.
    fit, freedom
        Reduced χ² of the least-squares fit (y, x) and its degrees of freedom, see :mod:`.goodness`; NaN outside the
        mask given, and everywhere with as many unknowns as frames.
    """

    abundances: Stack
    scale: Image
    sigma: Stack
    predicted_rmse: float
    iterations: int
    mask: Mask
    names: tuple[str, ...]
    fit: Image
    freedom: int


def unmix_stack(
    stack: AnyArray,
    references: References | AnyArray,
    *,
    energies_eV: AnyArray | None = None,
    method: str = "rum+",
    sigma: AnyArray | float | None = None,
    mask: Mask | None = None,
    background: Literal["linear", "constant", "none"] = "linear",
    device: Device = "auto",
) -> PhaseMap:
    """Map the abundances of known states.

    Parameters
    ----------
    stack
        (T, y, x) registered optical density or fluorescence, not denoised. Frames that are NaN throughout are left
        out; pixels that are NaN in any other frame are masked.
    references
        :class:`References`, or their values (T, L) in edge jumps at the energies of the stack; energies that they do
        not cover (NaN) are left out.
    energies_eV
        (T,) in eV, in any order; needed by :class:`References` and by a linear background.
    method
        ``"rum+"``: denoise in white coordinates, fit, denoise the abundances; ``"lcf"``: exact non-negative least
        squares per pixel; ``"rum-tv"``, ``"rum-pnp"``: the published iterations, λ and ρ by a rule
        (:func:`.rum.rum_tv` takes them from you).
    sigma
        Noise of the stack, one value or (T,), in its units; default: measured.
    mask
        (y, x), True where pixels count.
    background
        Fitted in every pixel: ``"linear"`` [1, E], ``"constant"`` or ``"none"``.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``: where the channels are denoised; all else runs on the CPU.

    Returns
    -------
    PhaseMap

    Raises
    ------
    BadStackError
        Shapes do not fit, no pixel is valid, or the noise is not positive.
    BadReferenceError
        Unknown method, too few energies, or states that these energies cannot tell apart.

    Notes
    -----
    The noise of all pixels of a frame is taken as equal; 0.1 s per state and 512² image, and again per bootstrap
    draw (4). For one edge, up to 6 states.

    References
    ----------
    Wang et al., Opt. Express 31, 42524 (2023), DOI 10.1364/OE.500539: the model and its iterations.
    """
    where = compute_device(device)
    if method not in METHODS:
        raise BadReferenceError(f"method is {method!r}, there are: {', '.join(METHODS)}")
    if background not in ("linear", "constant", "none"):
        raise BadReferenceError(f"background is {background!r}, there are: linear, constant, none")
    stack = np.asanyarray(stack)
    if stack.ndim != 3 or not len(stack) or stack.dtype.kind not in "uif":
        raise BadStackError(f"stack has shape {stack.shape} and type {stack.dtype}; expected numbers (energy, y, x)")
    energies = _energies(energies_eV, len(stack), references, background)
    values, names = _values(references, energies, len(stack))
    used, field = valid_pixels(stack, np.asarray(np.isfinite(values).all(axis=1)), mask)
    noise = np.where(used, noise_per_frame(stack, used, field, sigma), np.inf)
    design = make_design(values, energies, noise, background=background)
    everything = np.concatenate([design.channels, design.background], axis=1)
    images = np.zeros((everything.shape[1], *stack.shape[1:]), dtype=np.float32)
    squares = np.zeros(stack.shape[1:], dtype=np.float32)
    counted = np.flatnonzero(used)
    for start in range(0, len(counted), AT_ONCE):
        chosen = counted[start : start + AT_ONCE]
        frames = np.where(field, stack[chosen], 0).astype(np.float32)
        frames /= noise[chosen, None, None].astype(np.float32)
        add_weighted(everything[chosen], frames, images)
        squares += np.einsum("tyx,tyx->yx", frames, frames)
    white, freedom = images[: design.n_states], design.n_used - everything.shape[1]
    left = np.maximum(squares - (images**2).sum(axis=0), 0) / np.float32(freedom if freedom > 0 else np.nan)
    fit = np.where(field, left, np.float32(np.nan))
    rng = np.random.default_rng(0)
    ones = np.ones(stack.shape[1:], dtype=np.float32)
    denoiser: Denoiser = load_denoiser("auto", device=where) if method != "lcf" else _unchanged
    if method in ("rum+", "lcf"):
        refine = method == "rum+"
        maps = unmix_channels(white, design.triangle, ones, field, denoiser, draws=_DRAWS, rng=rng, refine=refine)
    else:
        published = rum_by_rule(white, design.triangle, field, denoiser if method == "rum-pnp" else None)
        maps = unmix_by(published, white, design.triangle, ones, field, draws=_DRAWS, rng=rng)
    iterations = 1 if method in ("rum+", "lcf") else ITERATIONS
    figures = (maps.predicted_rmse, iterations, maps.mask, names, fit, freedom)
    return PhaseMap(maps.abundances, maps.scale, maps.sigma, *figures)


def valid_pixels(stack: AnyArray, covered: Mask, mask: Mask | None) -> tuple[Mask, Mask]:
    """Return the frames (T,) that count – covered and not NaN throughout – and the pixels (y, x) complete in them.

    Raises
    ------
    BadStackError
        The mask has another shape, or no pixel is left.
    """
    shape = stack.shape[1:]
    if mask is not None and np.shape(mask) != shape:
        raise BadStackError(f"mask of shape {np.shape(mask)} for images of shape {shape}; they must be equal")
    field = np.ones(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    used = np.array(covered)
    for t in np.flatnonzero(covered):
        finite = np.isfinite(stack[t])
        if finite.any():
            field &= finite
        else:
            used[t] = False
    if used.any() and not field.any():
        raise BadStackError("no pixel is valid at all energies; check the mask and the NaN of the stack")
    return used, field


def noise_per_frame(stack: AnyArray, used: Mask, field: Mask, sigma: AnyArray | float | None) -> Vector:
    """Return the noise (T,) of a stack in its units: as given, or measured frame by frame and over the spectrum.

    Raises
    ------
    BadStackError
        A given noise is not positive, or has another length.
    """
    if sigma is not None:
        given = np.broadcast_to(np.asarray(sigma, dtype=np.float64), len(stack)) if np.ndim(sigma) == 0 else sigma
        noise = np.array(given, dtype=np.float64)
        if noise.shape != (len(stack),) or not (noise[used] > 0).all():
            raise BadStackError(f"sigma of shape {noise.shape}; expected one positive value or one per frame")
        return noise
    noise = np.full(len(stack), np.nan)
    if not used.any():
        return noise
    for t in np.flatnonzero(used):
        noise[t] = noise_of_image(np.where(field, stack[t], np.nan))
    typical = float(np.nanmedian(noise)) if np.isfinite(noise).any() else float("nan")
    if not np.isfinite(typical) or typical <= 0:
        raise BadStackError("the noise cannot be measured on so few pixels; give sigma")
    noise = np.where(noise > 0.05 * typical, noise, typical)
    step = max(1, int(np.sqrt(field.sum() / 20000)))
    if used.sum() >= 8 and field[::step, ::step].sum() >= 2 * used.sum():
        inside = field[::step, ::step]
        samples = np.stack([stack[t][::step, ::step][inside] / noise[t] for t in np.flatnonzero(used)])
        noise = noise * noise_of_samples(samples)
    return noise


def _energies(energies_eV: AnyArray | None, n: int, references: References | AnyArray, background: str) -> Vector:
    if energies_eV is None:
        if isinstance(references, References) or background == "linear":
            raise BadStackError("energies_eV is needed by References and by a linear background; give it")
        return np.arange(n, dtype=np.float64)
    energies = np.asarray(energies_eV, dtype=np.float64)
    if energies.shape != (n,) or not np.isfinite(energies).all():
        raise BadStackError(f"{energies.size} energies for {n} frames; give one finite energy in eV per frame")
    return energies


def _values(references: References | AnyArray, energies: Vector, n: int) -> tuple[Matrix, tuple[str, ...]]:
    if isinstance(references, References):
        return references.at(energies), references.names
    values = np.asarray(references, dtype=np.float64)
    if values.ndim != 2 or len(values) != n or not values.shape[1]:
        raise BadReferenceError(f"references have shape {values.shape}, expected ({n}, states)")
    return values, tuple(f"state {j + 1}" for j in range(values.shape[1]))


def _unchanged(image: Image, sigma: float) -> Image:
    return image
