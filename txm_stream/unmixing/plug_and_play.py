"""Abundances refined where they are simple: the denoiser acts on the abundances, not on abundance times thickness.

One pass denoises s∘x, whose cracks and texture are those of the thickness, known far better than the chemistry. Given
the scale, x = 1/L + U y with U the directions of the simplex along which the data are independent, so that

    b − s R 1/L = s R U y + noise,    y_k known to ± noise / (s √λ_k) in every pixel,

and half-quadratic splitting alternates between the data and a denoised y: few steps from the one-pass solution, each
with less noise left. Thin pixels, where y is hardly known, start from what their neighbours know.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser
from txm_stream.unmixing.rum import project_simplex

_LEVELS = (1.0, 0.5, 0.25, 0.12)
"""What the denoiser is told, over the typical noise of y (of directions known worse: between theirs and the best)."""
_HIDDEN = 0.4
"""Typical noise of y, in the direction known worst, above which the first level is left out: it would take too much."""
_TRUST = 0.3
"""Weight of the denoised y over what its told noise would give it; below .2 the steps do not converge."""
_MOST = 0.35
"""Most that the denoiser is told: more would take the composition of whole particles for noise."""
_MIRRORS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
"""Steps along y and x by which the image of each splitting step is turned for the denoiser: what it prefers of one
orientation does not add up."""
_REACH_PX = 1.5
_THIN = 0.3
"""Information, over the typical one, at which a pixel starts half from its own y and half from its neighbours'."""
_ALIKE = 0.1
"""How much neighbours differ in y: no more information than 1/0.1² comes from them."""


def simplex_directions(triangle: Matrix) -> tuple[Matrix, Vector]:
    """Return U (L, L − 1), orthonormal and orthogonal to 1, and λ (L − 1,) = diag(Uᵀ RᵀR U), largest first."""
    n_states = len(triangle)
    centre = np.eye(n_states) - 1 / n_states
    values, vectors = np.linalg.eigh(centre @ triangle.T @ triangle @ centre)
    return np.ascontiguousarray(vectors[:, :0:-1]), values[:0:-1]


def typical_noise(triangle: Matrix, scale: Image, pixel_noise: Image, inside: Mask) -> Vector:
    """Return the noise of y (L − 1,) of typical pixels ``inside`` before denoising, that of the best known first."""
    known = float(np.median((scale[inside] / pixel_noise[inside]) ** 2)) if inside.any() else np.inf
    return 1 / np.sqrt(np.maximum(simplex_directions(triangle)[1] * known, 1e-12))


def is_hidden(noise: Vector) -> bool:
    """Return whether :func:`typical_noise` hides the abundances: some direction is not known to ± 0.4."""
    return bool(noise.max(initial=0.0) > _HIDDEN)


def refine_abundances(
    white: Stack,
    triangle: Matrix,
    scale: Image,
    start: Stack,
    denoiser: Denoiser,
    *,
    pixel_noise: Image,
    inside: Mask,
) -> Stack:
    """Return abundances (L, y, x) on the simplex.

    Parameters
    ----------
    white
        b (L, y, x) with noise ``pixel_noise`` (y, x).
    triangle
        R (L, L) of the design.
    scale, start
        s (y, x) and abundances (L, y, x) of the one-pass solution.
    inside
        (y, x), the pixels whose noise is typical.

    References
    ----------
    Zhang et al., IEEE Trans. Pattern Anal. Mach. Intell. 44, 6360 (2022), DOI 10.1109/TPAMI.2021.3088914
    (half-quadratic splitting with a denoising network and falling noise levels).
    """
    if len(triangle) < 2 or not inside.any():
        return start
    directions, curvature = simplex_directions(triangle)
    even = np.full(len(triangle), 1 / len(triangle))
    rest = white - (scale * (triangle @ even)[:, None, None]).astype(np.float32)
    weight = (1 / pixel_noise**2).astype(np.float32)
    pull = np.tensordot((triangle @ directions).T.astype(np.float32), rest, axes=1) * (scale * weight)
    bound = curvature[:, None, None].astype(np.float32) * (scale**2 * weight)
    typical = typical_noise(triangle, scale, pixel_noise, inside)
    y = np.tensordot(directions.T.astype(np.float32), start, axes=1)
    for k, known in enumerate(bound):
        y[k] = _from_neighbours(y[k], known, float(typical[k] ** -2))
    abundances = start
    levels = _LEVELS[1:] if is_hidden(typical) else _LEVELS
    told = np.sqrt(typical[0] * typical)
    for level, (up, along) in zip(levels, _MIRRORS, strict=False):
        for k, noise in enumerate(np.minimum(level * told, _MOST)):
            prior = np.float32(_TRUST / noise**2)
            seen = (pull[k] + prior * y[k]) / (bound[k] + prior)
            y[k] = denoiser(np.ascontiguousarray(seen[::up, ::along]), float(noise))[::up, ::along]
        moved = np.tensordot(directions.astype(np.float32), y, axes=1) + even[:, None, None].astype(np.float32)
        abundances = on_simplex(moved)
        y = np.tensordot(directions.T.astype(np.float32), abundances, axes=1)
    return abundances


def on_simplex(abundances: Stack) -> Stack:
    """Return the nearest abundances (L, y, x) that are not negative and add up to 1."""
    import torch

    return np.asarray(project_simplex(torch.from_numpy(abundances)).numpy())


def _from_neighbours(y: Image, known: Image, usual: float) -> Image:
    """Mix y (y, x) with the mean of its neighbours, both by their information ``known``; ``usual`` is typical of it."""
    weight = ndimage.gaussian_filter(known, _REACH_PX)
    mean = ndimage.gaussian_filter(known * y, _REACH_PX) / np.maximum(weight, np.float32(1e-6 * usual))
    share = np.float32(min(_THIN * usual, _ALIKE**-2))
    return np.asarray((known * y + share * mean) / (known + share), dtype=np.float32)
