"""One Newton step on all shifts of a scan together, by the likelihood of a low-rank stack of smooth images.

Model: whitened registered frames are y_t = Σ_k V_tk P_k + unit noise, the images P_k Gaussian with the power spectrum
S_k that they show. With the temporal vectors V held fixed the negative log-likelihood falls into two parts,

    ‖(1 − UUᵀ) Y (1 − VVᵀ)‖²   what low rank cannot explain (variable projection), and
    Σ_k ‖P_k‖² weighted by 1/(S_k + 1) in Fourier space   what low rank explains, but no smooth image would show.

The first alone is blind along shifts δ_t ∝ v_tk/v_t1: a shift proportional to the chemistry is, to first order, another
chemistry, P_k → P_k + α ∇P_1. The second sees them: an edge of P_1 that leaks into P_k stands out of P_k's spectrum,
where
P_1's own chemistry does not. Both are quadratic forms of the 2T shifts with matrices built from 2K gradient images,
so that one step solves for all of them; sweeping frame by frame needs dozens along those directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

from txm_stream.alignment.matching import WORKERS, apply_filter, gradient, radial_level, wiener_filter
from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector

_LEAST_LEVEL = 0.3
"""Spectra are at least this share of the noise: resampling has taken some of it away at high frequencies."""


@dataclass(frozen=True, eq=False)
class JointStep:
    """``moves`` (T, 2) px to add to the shifts, and the standard error (T,) of the shifts; 0 and NaN without weight.

    ``growth`` is to be added to the slope of the magnification, ``growth_sigma`` its standard error; 0 without one.
    """

    moves: Vector
    sigma_px: Vector
    growth: float = 0.0
    growth_sigma: float = 0.0


def temporal_basis(registered: Stack, noise: Vector, window: Image, keep: Mask) -> tuple[Vector, Matrix]:
    """Return eigenvalues and vectors (T, T) of the whitened Gram matrix of smoothed frames; rejected rows are 0."""
    smooth = smoothed(registered, np.where(keep, 1 / noise, 0.0), window)
    values, vectors = np.linalg.eigh((smooth @ smooth.T).astype(np.float64))
    return values[::-1], vectors[:, ::-1]


def smoothed(registered: Iterable[Image], weight: Vector, window: Image) -> Matrix:
    """Return weighted frames (T, pixels) within a window, smoothed, every second row and column."""
    smooth = np.stack([(ndimage.gaussian_filter(f, 1.5) * window)[::2, ::2].ravel() for f in registered])
    smooth *= weight[:, None].astype(np.float32)
    return np.asarray(smooth)


def joint_step(
    registered: Stack, noise: Vector, window: Image, keep: Mask, rank: int, *, pattern: Vector | None = None
) -> JointStep:
    """Return the step for frames (T, y, x) registered at the current shifts.

    Parameters
    ----------
    registered
        Optical density, finite everywhere.
    noise
        Of each frame, shape (T,), in its units.
    window
        (y, x), 1 in the common field, falling to 0 at its borders.
    keep
        (T,), False takes a frame out.
    rank
        Components K of the model; more than the stack has do no harm.
    pattern
        (T,), mean zero: frame t is also magnified by a factor 1 + growth · pattern[t] about its centre, with one
        unknown growth for all frames; default: no magnification.

    Notes
    -----
    The common offset is free, and stays where it is. Cost: a few transforms of K images and one pass over the stack.

    References
    ----------
    Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973), DOI 10.1137/0710036 (variable projection);
    Kaufman, BIT 15, 49 (1975), DOI 10.1007/BF01932995 (its approximate derivative).
    """
    chosen = np.flatnonzero(keep)
    frames = len(chosen)
    basis = temporal_basis(registered, noise, window, keep)[1][chosen, :rank]
    loads = (basis / noise[chosen, None]).astype(np.float32)
    images = np.zeros((rank, *window.shape), dtype=np.float32)
    for t, load in zip(chosen, loads, strict=True):
        images += load[:, None, None] * registered[t]
    root = np.sqrt(window)
    reach_px = max(window.shape) / 2
    clear = (apply_filter(p, wiener_filter(p, 1.0, window)) for p in images)
    slopes = np.stack([_slopes(p, reach_px, growing=pattern is not None) for p in clear]) * root
    total = float(window.sum())
    images = np.stack([(p - np.float32((p * window).sum() / total)) * root for p in images])
    information, pull = _beyond_rank((registered[t] / noise[t] for t in chosen), basis, images, slopes, root)
    within = _within_rank(basis, images, slopes)
    information += within[0]
    pull += within[1]
    if pattern is not None:
        unknowns = _shifts_and_growth(pattern[chosen])
        information, pull = unknowns.T @ information @ unknowns, unknowns.T @ pull
    precision = float(np.trace(information)) / len(information)
    inverse = np.linalg.inv(information + 1e-6 * precision * np.eye(len(information)))
    solution = inverse @ pull
    moves, sigma = np.zeros((len(registered), 2)), np.full(len(registered), np.nan)
    found = solution[: 2 * frames].reshape(frames, 2)
    moves[chosen] = found - found.mean(axis=0)  # the common offset says nothing
    covariance = inverse[: 2 * frames, : 2 * frames].reshape(frames, 2, frames, 2)
    variance = [np.diag(c) - 2 * c.mean(axis=1) + c.mean() for c in (covariance[:, 0, :, 0], covariance[:, 1, :, 1])]
    sigma[chosen] = np.sqrt(np.maximum(np.mean(variance, axis=0), 0))
    if pattern is None:
        return JointStep(moves, sigma)
    return JointStep(moves, sigma, float(solution[-1]) / reach_px, float(np.sqrt(inverse[-1, -1])) / reach_px)


def _slopes(image: Image, reach_px: float, *, growing: bool) -> Stack:
    """Return the derivatives of an image along y, x and, if it may grow, by magnification (in px at ``reach_px``)."""
    along_y, along_x = gradient(image)
    if not growing:
        return np.stack([along_y, along_x])
    y, x = ((np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) / np.float32(reach_px) for n in image.shape)
    return np.stack([along_y, along_x, y[:, None] * along_y + x * along_x])


def _shifts_and_growth(pattern: Vector) -> Matrix:
    """Return the matrix that turns shifts and growth (2T + 1) into what frames do along their three slopes (3T)."""
    frames = len(pattern)
    out = np.zeros((frames, 3, 2 * frames + 1))
    every = np.arange(frames)
    out[every, 0, 2 * every] = out[every, 1, 2 * every + 1] = 1
    out[every, 2, -1] = pattern
    return out.reshape(3 * frames, -1)


def _beyond_rank(
    frames: Iterable[Image], basis: Matrix, images: Stack, slopes: Stack, root: Image
) -> tuple[Matrix, Vector]:
    """Return information (AT, AT) and pull (AT,) of what the components leave unexplained, for A slopes per frame."""
    rank, ways = slopes.shape[:2]
    spanned = np.concatenate([images.reshape(rank, -1), root.reshape(1, -1)])
    flat = slopes.reshape(rank * ways, -1)
    inner = (spanned @ spanned.T).astype(np.float64)
    across = np.linalg.pinv(inner, rcond=1e-10, hermitian=True) @ (spanned @ flat.T).astype(np.float64)
    flat = flat - across.T.astype(np.float32) @ spanned
    gram = (flat @ flat.T).astype(np.float64).reshape(rank, ways, rank, ways)
    seen = np.stack([flat @ (frame.astype(np.float32) * root).ravel() for frame in frames], axis=1)
    unexplained = np.eye(len(basis)) - basis @ basis.T
    pull = np.einsum("tk,kat->ta", basis, (seen.astype(np.float64) @ unexplained).reshape(rank, ways, -1))
    information = np.einsum("ts,tk,sl,kalb->tasb", unexplained, basis, basis, gram, optimize=True)
    return information.reshape(pull.size, pull.size), pull.ravel()


def _within_rank(basis: Matrix, images: Stack, slopes: Stack) -> tuple[Matrix, Vector]:
    """Return information (AT, AT) and pull (AT,) of the components' spectra."""
    (rank, ways), count = slopes.shape[:2], images[0].size
    transforms = scipy.fft.rfft2(images, workers=WORKERS)
    steep = scipy.fft.rfft2(slopes, workers=WORKERS).reshape(rank * ways, -1)
    twice = np.full(transforms.shape[1:], 2.0, dtype=np.float32)  # rfft2 keeps one of two conjugate halves
    twice[:, 0] = 1
    if images.shape[2] % 2 == 0:
        twice[:, -1] = 1
    least = _LEAST_LEVEL * count
    information = np.zeros((ways * len(basis), ways * len(basis)))
    pull = np.zeros(ways * len(basis))
    for k in range(rank):
        level = np.maximum(radial_level(np.abs(transforms[k]) ** 2, (images.shape[1], images.shape[2])), least)
        weighted = steep * (twice / level).astype(np.float32).ravel()
        inner = np.real(weighted @ steep.conj().T).astype(np.float64).reshape(rank, ways, rank, ways)
        across = np.real(weighted @ transforms[k].ravel().conj()).astype(np.float64).reshape(rank, ways)
        shares = basis[:, k, None] * basis
        block = np.einsum("tl,sm,lamb->tasb", shares, shares, inner, optimize=True)
        information += block.reshape(information.shape)
        pull += np.einsum("tl,la->ta", shares, across).ravel()
    return information, pull
