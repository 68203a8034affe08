"""Stacks with known truth and noise, and the methods that are compared on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream import denoise_stack
from txm_stream.arrays import AnyArray, Stack
from txm_stream.denoising import Denoiser, denoise_components, load_denoiser
from txm_stream.phantoms import Phantom, make_phantom, nickel_energies
from txm_stream.subspace.turn import turned_denoiser

BEST_RANK_UP_TO = 5


@dataclass(frozen=True, eq=False)
class Case:
    """A noisy stack with its truth: σ in units of the stack."""

    name: str
    phantom: Phantom
    energies_eV: AnyArray
    clean: Stack
    noisy: Stack
    sigma: float


@dataclass(frozen=True, eq=False)
class Answer:
    """A denoised stack, seconds, rank and, where there are, estimated σ and risk."""

    stack: Stack
    seconds: float
    rank: int = 0
    sigma: float = float("nan")
    risk: float = float("nan")


def cases(shape: tuple[int, int], visits: int, sigmas: tuple[int, ...], seeds: int) -> Iterator[Case]:
    """Yield phantoms of both kinds at every noise."""
    energies = nickel_energies(visits)
    for chemistry in ("core-shell", "region"):
        for seed in range(seeds):
            phantom = make_phantom(shape, n_states=2 + seed % 2, chemistry=chemistry, seed=seed)
            clean = phantom.stack(energies)
            scale = float(np.ptp(clean)) / 255
            for sigma in sigmas:
                rng = np.random.default_rng([seed, sigma])
                noisy = clean + np.float32(sigma * scale) * rng.standard_normal(clean.shape, dtype=np.float32)
                yield Case(f"{chemistry} {seed}", phantom, energies, clean, noisy, sigma * scale)


def ours(denoiser: str) -> Callable[[Case], Answer]:
    """Return our subspace model with a denoiser, nothing given."""

    def run(case: Case) -> Answer:
        began = time.perf_counter()
        found = denoise_stack(case.noisy, denoiser=denoiser)
        return Answer(found.stack, time.perf_counter() - began, found.rank, found.sigma, found.risk)

    return run


def in_subspace(case: Case, vectors: AnyArray, denoiser: Denoiser | None) -> Stack:
    """Return the projection of the noisy stack on temporal vectors (T, K), denoised as ours is (BM3D: not turned)."""
    images = np.tensordot(vectors.T.astype(np.float32), case.noisy, axes=1)
    if denoiser is not None:
        images = denoise_components(images, case.sigma, turned_denoiser(images, case.sigma, denoiser))
    return np.asarray(np.tensordot(vectors.astype(np.float32), images, axes=1))


def temporal(stack: Stack) -> tuple[AnyArray, AnyArray]:
    """Return eigenvalues, descending, and vectors of the Gram matrix (T, T) of a stack."""
    flat = stack.reshape(len(stack), -1)
    values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
    return values[::-1], vectors[:, ::-1]


def true_subspace(denoiser: str) -> Callable[[Case], Answer]:
    """Return the model with the subspace of the clean stack and the rank that suits it best."""

    def run(case: Case) -> Answer:
        began = time.perf_counter()
        _, vectors = temporal(case.clean)
        best = Answer(case.noisy, 0.0)
        error = np.inf
        for rank in range(1, BEST_RANK_UP_TO + 1):
            stack = in_subspace(case, vectors[:, :rank], load_denoiser(denoiser))
            mse = float(np.mean((stack - case.clean) ** 2))
            if mse < error:
                best, error = Answer(stack, time.perf_counter() - began, rank), mse
        return best

    return run


def rank_by_sure(values: AnyArray, n_pixels: int, sigma: float) -> int:
    """Return the rank with the least risk of the truncated SVD (Candès, Sing-Long and Trzasko 2013), up to 12."""
    n = len(values)
    risks = []
    for rank in range(1, min(13, n)):
        kept, rest = values[:rank], values[rank:]
        cross = (kept[:, None] / np.maximum(kept[:, None] - rest[None, :], 1e-12 * values[0])).sum()
        divergence = rank * (n_pixels - n) + rank**2 + 2 * cross
        risks.append(-n_pixels * n * sigma**2 + rest.sum() + 2 * sigma**2 * divergence)
    return 1 + int(np.argmin(risks))


def svd_by_sure(denoiser: str | None) -> Callable[[Case], Answer]:
    """Return the truncated SVD of the raw stack; with a denoiser it is SUM as in the paper (σ given)."""

    def run(case: Case) -> Answer:
        began = time.perf_counter()
        values, vectors = temporal(case.noisy)
        rank = rank_by_sure(values, case.noisy[0].size, case.sigma)
        stack = in_subspace(case, vectors[:, :rank], None if denoiser is None else load_denoiser(denoiser))
        return Answer(stack, time.perf_counter() - began, rank)

    return run


def median(case: Case) -> Answer:
    """3-D median of 3 × 3 × 3."""
    began = time.perf_counter()
    return Answer(ndimage.median_filter(case.noisy, 3), time.perf_counter() - began)


def bm3d_per_frame(case: Case) -> Answer:
    """BM3D on every frame."""
    began = time.perf_counter()
    denoiser = load_denoiser("bm3d")
    return Answer(np.stack([denoiser(f, case.sigma) for f in case.noisy]), time.perf_counter() - began)


def bm4d(case: Case) -> Answer:
    """BM4D on the cube."""
    from bm4d import bm4d as run

    began = time.perf_counter()
    out = run(case.noisy.astype(np.float64), case.sigma)
    return Answer(np.asarray(out, dtype=np.float32), time.perf_counter() - began)
