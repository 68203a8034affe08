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
    """``moves`` (T, 2) px to add to the shifts, and the standard error (T,) of the shifts; 0 and NaN without weight."""

    moves: Vector
    sigma_px: Vector


def temporal_basis(registered: Stack, noise: Vector, window: Image, keep: Mask) -> tuple[Vector, Matrix]:
    """Return eigenvalues and vectors (T, T) of the whitened Gram matrix of smoothed frames; rejected rows are 0."""
    weight = np.where(keep, 1 / noise, 0.0)
    smooth = np.stack([(ndimage.gaussian_filter(f, 1.5) * window)[::2, ::2].ravel() for f in registered])
    smooth *= weight[:, None].astype(np.float32)
    values, vectors = np.linalg.eigh((smooth @ smooth.T).astype(np.float64))
    return values[::-1], vectors[:, ::-1]


def joint_step(registered: Stack, noise: Vector, window: Image, keep: Mask, rank: int) -> JointStep:
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
    slopes = np.stack([np.stack(gradient(apply_filter(p, wiener_filter(p, 1.0, window)))) for p in images]) * root
    total = float(window.sum())
    images = np.stack([(p - np.float32((p * window).sum() / total)) * root for p in images])
    information, pull = _beyond_rank(registered[chosen], noise[chosen], basis, images, slopes, root)
    within = _within_rank(basis, images, slopes)
    information += within[0]
    pull += within[1]
    precision = float(np.trace(information)) / len(information)
    inverse = np.linalg.inv(information + 1e-6 * precision * np.eye(len(information)))
    free = np.eye(frames) - 1 / frames  # the common offset says nothing
    covariance = np.einsum("st,tapb,pq->saqb", free, inverse.reshape(frames, 2, frames, 2), free)
    moves, sigma = np.zeros((len(registered), 2)), np.full(len(registered), np.nan)
    moves[chosen] = free @ (inverse @ pull).reshape(frames, 2)
    variance = np.einsum("tata->t", covariance) / 2
    sigma[chosen] = np.sqrt(np.maximum(variance, 0))
    return JointStep(moves, sigma)


def _beyond_rank(
    frames: Stack, noise: Vector, basis: Matrix, images: Stack, slopes: Stack, root: Image
) -> tuple[Matrix, Vector]:
    """Return information (2T, 2T) and pull (2T,) of what the components leave unexplained."""
    rank = len(images)
    spanned = np.concatenate([images.reshape(rank, -1), root.reshape(1, -1)])
    flat = slopes.reshape(2 * rank, -1)
    inner = (spanned @ spanned.T).astype(np.float64)
    across = np.linalg.pinv(inner, rcond=1e-10, hermitian=True) @ (spanned @ flat.T).astype(np.float64)
    flat = flat - across.T.astype(np.float32) @ spanned
    gram = (flat @ flat.T).astype(np.float64).reshape(rank, 2, rank, 2)
    seen = np.stack([flat @ (f * root).ravel() / n for f, n in zip(frames, noise, strict=True)], axis=1)
    rest = seen.astype(np.float64) @ (np.eye(len(basis)) - basis @ basis.T)
    pull = np.einsum("tk,kat->ta", basis, rest.reshape(rank, 2, -1))
    unexplained = np.eye(len(basis)) - basis @ basis.T
    information = np.einsum("ts,tk,sl,kalb->tasb", unexplained, basis, basis, gram, optimize=True)
    return information.reshape(pull.size, pull.size), pull.ravel()


def _within_rank(basis: Matrix, images: Stack, slopes: Stack) -> tuple[Matrix, Vector]:
    """Return information (2T, 2T) and pull (2T,) of the components' spectra."""
    rank, count = len(images), images[0].size
    transforms = scipy.fft.rfft2(images, workers=WORKERS)
    steep = scipy.fft.rfft2(slopes, workers=WORKERS).reshape(2 * rank, -1)
    twice = np.full(transforms.shape[1:], 2.0, dtype=np.float32)  # rfft2 keeps one of two conjugate halves
    twice[:, 0] = 1
    if images.shape[2] % 2 == 0:
        twice[:, -1] = 1
    least = _LEAST_LEVEL * count
    information = np.zeros((2 * len(basis), 2 * len(basis)))
    pull = np.zeros(2 * len(basis))
    for k in range(rank):
        level = np.maximum(radial_level(np.abs(transforms[k]) ** 2, (images.shape[1], images.shape[2])), least)
        weighted = steep * (twice / level).astype(np.float32).ravel()
        inner = np.real(weighted @ steep.conj().T).astype(np.float64).reshape(rank, 2, rank, 2)
        across = np.real(weighted @ transforms[k].ravel().conj()).astype(np.float64).reshape(rank, 2)
        shares = basis[:, k, None] * basis
        block = np.einsum("tl,sm,lamb->tasb", shares, shares, inner, optimize=True)
        information += block.reshape(information.shape)
        pull += np.einsum("tl,la->ta", shares, across).ravel()
    return information, pull
