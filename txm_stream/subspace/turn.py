"""Denoise components where they are simplest: in the rotation of whitened components with the least risk.

Components of a singular value decomposition are orthogonal, not simple: each weak one holds a little of the strongest,
whose edges then have to be told from noise once more. Any rotation of whitened components has the same white noise and
spans the same subspace, so it may be chosen by what the denoiser leaves of it, and Stein's estimate tells that without
the truth. The squared error of the weak components, those of the chemistry, falls by about a quarter.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Image, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components, denoise_images, denoise_mirrored, takes_sigma_map
from txm_stream.subspace.risk import busiest_tile

_TILE_PX = 192
_ROWS = 128
_SWEEPS = ((2, (-1.0, -0.5, 0.0, 0.5, 1.0)), (1, (-0.33, 0.0, 0.33)))
"""In either sweep, pairs with one of so many strongest components are turned, by these angles over the largest useful
one; nothing is gained by turning the others."""
_STEP = 0.05
_LEAST_POWER = 0.1
"""Signal over noise, in power, that a component is taken to have at least."""
_SHARE = 0.65
"""Weight of the turned view; the components as they are, mirrored, have the rest."""


def turned_denoiser(noisy: Stack, sigma: float | Image, denoiser: Denoiser) -> Denoiser:
    """Return the denoiser of components (K, y, x) like ``noisy`` that turns them to least risk first.

    Parameters as for :func:`turn_to_least_risk`. A single component, and those of a denoiser that is too slow for it,
    are left to ``denoiser`` itself.
    """
    turn = turn_to_least_risk(noisy, sigma, denoiser)
    return denoiser if np.array_equal(turn, np.eye(len(turn))) else TurnedDenoiser(denoiser, turn)


class TurnedDenoiser:
    """Mean of two views of the components of one stack: turned by a rotation (K, K), and as they are but mirrored.

    What a denoiser loses or invents depends on the basis and the orientation in which it sees the images; in the mean
    of several there is less of it (cycle spinning: Coifman and Donoho 1995, DOI 10.1007/978-1-4612-2544-7_9). In the
    turned view images are simpler; as they are, the weak ones are drawn towards the mean composition rather than
    towards a pure one. The error is that of the better view or below, and maps are better than with either.
    """

    def __init__(self, denoiser: Denoiser, turn: Matrix) -> None:
        self.denoiser = denoiser
        self.turn = turn.astype(np.float32)
        self.takes_sigma_map = takes_sigma_map(denoiser)

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return one image (y, x) denoised; there is nothing to turn."""
        return self.denoiser(image, sigma)

    def components(self, images: Stack, sigma: float | Image) -> Stack:
        """Return the components (K, y, x) of one stack denoised."""
        clean = denoise_components(_combined(self.turn, images), sigma, self.denoiser)
        _combined(self.turn.T, clean, out=clean)
        clean *= np.float32(_SHARE)
        mirrored = denoise_mirrored(images, sigma, self.denoiser, up=-1)
        mirrored *= np.float32(1 - _SHARE)
        clean += mirrored
        return np.asarray(clean)


def _combined(turn: AnyArray, images: Stack, *, out: Stack | None = None) -> Stack:
    """Return Σ_j turn[k, j]·images[j] (K, y, x), some rows at a time; ``out`` may be ``images``."""
    made = np.empty(images.shape, dtype=np.float32) if out is None else out
    for start in range(0, images.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        made[:, rows] = np.tensordot(turn, images[:, rows], axes=1)
    return made


def turn_to_least_risk(noisy: Stack, sigma: float | Image, denoiser: Denoiser) -> Matrix:
    """Return the rotation (K, K) after which components (K, y, x), strongest first, are denoised with least risk.

    Parameters
    ----------
    noisy
        Components with equal white noise that is independent between them.
    sigma
        Its standard deviation, one number or (y, x).
    denoiser
        One without ``many`` takes too long to be tried a hundred times: its components stay as they are.

    Notes
    -----
    Jacobi's method: pairs of components are turned in their plane, each by the angle with the least Stein risk of a few
    tried, improved by a parabola through it and its neighbours. What the weaker one holds of the stronger is at most of
    its own size, so angles go to twice the ratio of their signals; with the strongest of all they are so small that its
    own risk does not change. The risk is that of the busiest 192 × 192 pixels, at one random probe that turns with the
    components. Cost: 52, 88, 124, 232 such images are denoised for K = 3, 4, 5, 8; 15 ms each on two cores.

    References
    ----------
    Ramani, Blu and Unser, IEEE Trans. Image Process. 17, 1540 (2008), DOI 10.1109/TIP.2008.2001404, eq. 14 (risk).
    """
    rank = len(noisy)
    turn = np.eye(rank)
    if rank == 1 or getattr(denoiser, "many", None) is None:
        return turn
    tile = busiest_tile(noisy, _TILE_PX)
    told = sigma if np.ndim(sigma) == 0 else np.asarray(sigma)[tile]
    images = np.ascontiguousarray(noisy[:, *tile], dtype=np.float32)
    probe = np.random.default_rng(0).choice(np.array([-1.0, 1.0], dtype=np.float32), size=images.shape)
    probe *= np.asarray(told, dtype=np.float32)
    power = images.var(axis=(1, 2), dtype=np.float64) / np.mean(np.square(told, dtype=np.float64)) - 1
    signal = np.sqrt(np.maximum(power, _LEAST_POWER))
    for mixed, parts in _SWEEPS:
        for first in range(min(rank, mixed)):
            for second in range(first + 1, rank):
                ratio = min(signal[first], signal[second]) / max(signal[first], signal[second])
                angles = np.array(parts) * min(2 * ratio, np.pi / 4)
                pair = _rotations(angles) @ turn[[first, second]]
                changed = pair[:, 1:] if first == 0 else pair
                risks = _risks(changed.reshape(-1, rank), images, probe, told, denoiser)
                best = _least(angles, risks.reshape(len(angles), -1).sum(axis=1))
                turn[[first, second]] = _rotations(np.array([best]))[0] @ turn[[first, second]]
    return turn


def _rotations(angles: Vector) -> AnyArray:
    """Return rotations (n, 2, 2) of the plane."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.moveaxis(np.array([[cos, sin], [-sin, cos]]), 2, 0)


def _risks(turn: Matrix, images: Stack, probe: Stack, sigma: float | Image, denoiser: Denoiser) -> Vector:
    """Return the risk per pixel, but for a constant, of each combination (n, K) of images (K, y, x)."""
    weights = turn.astype(np.float32)
    noisy, moved = np.tensordot(weights, images, axes=1), np.tensordot(weights, probe, axes=1)
    clean = denoise_images(np.concatenate([noisy, noisy + np.float32(_STEP) * moved]), sigma, denoiser)
    response = moved * (clean[len(turn) :] - clean[: len(turn)])
    misfit = (clean[: len(turn)] - noisy) ** 2
    return np.asarray((misfit + np.float32(2 / _STEP) * response).mean(axis=(1, 2), dtype=np.float64))


def _least(angles: Vector, risks: Vector) -> float:
    """Return the angle of least risk: the vertex of the parabola through the least of these and its neighbours."""
    least = int(np.argmin(risks))
    if not 0 < least < len(angles) - 1:
        return float(angles[least])
    before, here, after = risks[least - 1 : least + 2]
    bend = before - 2 * here + after
    return float(angles[least] + (0.5 * (before - after) / bend if bend > 0 else 0.0) * (angles[1] - angles[0]))
