"""Denoising by subspace modelling against its peers, on phantoms and measured stacks with noise of known σ.

    python benchmarks/bench_sum.py [--part denoisers speed stacks measured slow] [--seeds 3] [--quick]

Every table is measured in one run on the same data: PSNR, map correlation, seconds, ratios. An idle machine needs about
half an hour. Peers: 3-D median, truncated SVD with its rank by SURE, BM3D per frame, BM4D, SUM as in the paper.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from txm_stream import denoise_stack, unmix_stack
from txm_stream.arrays import AnyArray, Stack
from txm_stream.denoising import Denoiser, load_denoiser
from txm_stream.device import fixed_threads
from txm_stream.metrics import fpsnr, map_correlation, spsnr
from txm_stream.phantoms import Phantom, make_phantom, nickel_energies

SIGMAS = (10, 50, 100, 150)
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


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
            phantom = make_phantom(shape, n_states=2 + seed % 2, chemistry=chemistry, seed=seed)  # type: ignore[arg-type]
            clean = phantom.stack(energies)
            scale = float(np.ptp(clean)) / 255
            for sigma in sigmas:
                rng = np.random.default_rng([seed, sigma])
                noisy = clean + np.float32(sigma * scale) * rng.standard_normal(clean.shape, dtype=np.float32)
                yield Case(f"{chemistry} {seed}", phantom, energies, clean, noisy, sigma * scale)


# -- the methods


def ours(denoiser: str) -> Callable[[Case], Answer]:
    """Return our subspace model with a denoiser, nothing given."""

    def run(case: Case) -> Answer:
        began = time.perf_counter()
        found = denoise_stack(case.noisy, denoiser=denoiser)
        return Answer(found.stack, time.perf_counter() - began, found.rank, found.sigma, found.risk)

    return run


def in_subspace(case: Case, vectors: AnyArray, denoiser: Denoiser | None) -> Stack:
    """Return the projection of the noisy stack on temporal vectors (T, K), its components denoised."""
    images = np.tensordot(vectors.T.astype(np.float32), case.noisy, axes=1)
    if denoiser is not None:
        images = np.stack([denoiser(image, case.sigma) for image in images])
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
        for rank in range(1, 7):
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


# -- the tables


def figures(case: Case, answer: Answer) -> dict[str, float]:
    """Return MSE, PSNR in dB over frames and inside spectra, and correlation of the least-squares map."""
    inside = case.phantom.inside
    references = case.phantom.spectra(case.energies_eV)
    quiet = 1e-3 * float(np.ptp(case.clean))  # no pixel is called too thin
    maps = unmix_stack(answer.stack, references, energies_eV=case.energies_eV, method="lcf", sigma=quiet)
    return {
        "mse": float(np.mean((answer.stack - case.clean) ** 2)),
        "fpsnr": fpsnr(answer.stack, case.clean),
        "spsnr": spsnr(answer.stack, case.clean, inside),
        "corr": map_correlation(maps.abundances, case.phantom.abundances, inside),
        "s": answer.seconds,
        "rank": answer.rank,
        "sigma": answer.sigma / case.sigma,
        "risk": answer.risk,
    }


def table(
    title: str, stacks: Callable[[int], Iterator[Case]], methods: dict[str, Callable[[Case], Answer]], sigmas: Any
) -> dict[int, dict[str, list[dict[str, float]]]]:
    """Run and print all methods on all cases, one block per σ: mean and spread over phantoms and seeds."""
    everything: dict[int, dict[str, list[dict[str, float]]]] = {}
    print(f"\n## {title}")
    for sigma in sigmas:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
        for case in stacks(sigma):
            for name, method in methods.items():
                found[name].append(figures(case, method(case)))
        everything[sigma] = found
        print(f"\nσ = {sigma}/255 ({len(next(iter(found.values())))} stacks)")
        print("| method | MSE | FPSNR dB | SPSNR dB | map correlation (least) | rank | σ̂/σ | risk/MSE | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name, rows in found.items():
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            spread = float(np.std([row["spsnr"] for row in rows]))
            ratio = float(np.mean([row["risk"] / row["mse"] for row in rows]))
            ranks = "–".join(str(int(r)) for r in sorted({row["rank"] for row in rows}))
            least = min(row["corr"] for row in rows)
            print(
                f"| {name} | {mean['mse']:.3g} | {mean['fpsnr']:.2f} | {mean['spsnr']:.2f} ± {spread:.1f} | "
                f"{mean['corr']:.3f} ({least:.3f}) | {ranks} | {mean['sigma']:.4f} | {ratio:.2f} | {mean['s']:.2f} |",
                flush=True,
            )
        check(found)
    return everything


def check(found: dict[str, list[dict[str, float]]]) -> None:
    """Print how ours stands to the model with the true subspace."""
    for name in ("tv", "unet"):
        if f"ours, {name}" not in found or f"true subspace, {name}" not in found:
            continue
        mine, oracle = found[f"ours, {name}"], found[f"true subspace, {name}"]
        ratios = [a["mse"] / b["mse"] for a, b in zip(mine, oracle, strict=True)]
        lead = [a["corr"] - b["corr"] for a, b in zip(mine, oracle, strict=True)]
        ranks = [int(a["rank"] - b["rank"]) for a, b in zip(mine, oracle, strict=True)]
        print(
            f"{name}: MSE / true subspace {np.mean(ratios):.2f} (at most {max(ratios):.2f}); "
            f"map correlation {np.mean(lead):+.3f} (least {min(lead):+.3f}); "
            f"rank − best rank {min(ranks)} to {max(ranks)}"
        )


def stacks_part(seeds: int, *, quick: bool) -> None:
    """Phantoms of both kinds, two sizes, two numbers of energies."""
    methods: dict[str, Callable[[Case], Answer]] = {
        "ours, tv": ours("tv"),
        "ours, unet": ours("unet"),
        "true subspace, tv": true_subspace("tv"),
        "true subspace, unet": true_subspace("unet"),
        "SUM of the paper (BM3D)": svd_by_sure("bm3d"),
        "truncated SVD by SURE": svd_by_sure(None),
        "3-D median": median,
    }
    sizes = [((150, 200), 117), ((150, 200), 468)] if quick else [
        ((150, 200), 117), ((150, 200), 468), ((512, 512), 117), ((512, 512), 468),
    ]  # fmt: skip
    for shape, visits in sizes:
        chosen = methods if shape[0] < 300 else {k: v for k, v in methods.items() if "BM3D" not in k}
        table(
            f"{shape[0]} × {shape[1]}, {visits} energies",
            lambda sigma, shape=shape, visits=visits: cases(shape, visits, (sigma,), seeds),  # type: ignore[misc]
            chosen,
            SIGMAS,
        )


def slow_part() -> None:
    """The slow peers, 40 energies, one seed."""
    methods = {"ours, unet": ours("unet"), "ours, tv": ours("tv"), "BM4D": bm4d, "BM3D per frame": bm3d_per_frame}
    table("40 × 150 × 200, slow peers", lambda sigma: cases((150, 200), 40, (sigma,), 1), methods, (10, 50))


def denoisers_part() -> None:
    """Every denoiser on images that no network was trained on."""
    from txm_stream.denoising.training_images import held_out_images

    images = held_out_images()
    print("\n## Denoisers, ten held-out images of 256², one thread: mean PSNR in dB (peak 1)")
    print("| denoiser | " + " | ".join(f"σ={s}" for s in (5, 10, 25, 50, 100, 150)) + " | mean | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("tv", "wavelet", "nlm", "dncnn", "unet", "bm3d"):
        denoiser, took, means = load_denoiser(name), 0.0, []
        denoiser(images["coins"], 0.1)
        for sigma in (5, 10, 25, 50, 100, 150):
            values = []
            for number, image in enumerate(images.values()):
                rng = np.random.default_rng([number, sigma])
                noisy = (image + sigma / 255 * rng.standard_normal(image.shape)).astype(np.float32)
                began = time.perf_counter()
                out = denoiser(noisy, sigma / 255)
                took += time.perf_counter() - began
                values.append(-10 * np.log10(np.mean((out - image) ** 2)))
            means.append(float(np.mean(values)))
        took /= 6 * len(images)
        print(
            f"| {name} | " + " | ".join(f"{m:.2f}" for m in means) + f" | {np.mean(means):.2f} | {took:.3f} |",
            flush=True,
        )


def measured_part() -> None:
    """The measured stacks with noise added to them; what is there already counts as truth."""
    from txm_stream.io.stack_file import read_stack

    files = {"HXN Fe K": DATA / "hxn_fe_k" / "test_stack.tiff", "ALS Fe L": DATA / "als11022_stxm_Fe_L23_71214078.h5"}
    print("\n## Measured stacks with added noise: MSE in units of that of the noise added")
    print("| stack | noise, % of range | ours, unet | ours, tv | SUM of the paper | truncated SVD, SURE | 3-D median |")
    print("|---|---|---|---|---|---|---|")
    for name, file in files.items():
        if not file.exists():
            print(f"| {name} | the file is not here | | | | | |")
            continue
        stack = read_stack(file)
        clean = np.asarray(stack.frames, dtype=np.float32)
        if stack.signal == "transmission":
            clean = -np.log(np.maximum(clean, 1e-3))
        clean = np.nan_to_num(clean)
        for percent in (2, 5, 15):
            sigma = percent / 100 * float(np.ptp(clean))
            noisy = clean + np.float32(sigma) * np.random.default_rng(percent).standard_normal(clean.shape, np.float32)
            case = Case(name, None, stack.energies_eV, clean, noisy, sigma)  # type: ignore[arg-type]
            cells = []
            for method in (ours("unet"), ours("tv"), svd_by_sure("bm3d"), svd_by_sure(None), median):
                answer = method(case)
                rank = f", K {answer.rank}" if answer.rank else ""
                cells.append(f"{np.mean((answer.stack - clean) ** 2) / sigma**2:.4f}{rank}")
            print(f"| {name} | {percent} | " + " | ".join(cells) + " |", flush=True)


def speed_part(visits: int = 288, side: int = 1024) -> None:
    """Time per visit of what the live view does before denoising, late in a long scan of large frames."""
    from txm_stream.alignment.causal import CausalRegistration
    from txm_stream.resampling import bin_image, shift_image
    from txm_stream.subspace.gram import SmoothedGram
    from txm_stream.subspace.projection import Projection
    from txm_stream.subspace.rank import components_above_noise

    phantom = make_phantom((side, side), seed=0)
    energies = nickel_energies(visits)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, side, side), dtype=np.float32)
    chosen = (energies[0], 8352.0, energies[-1])
    rows = [np.append(phantom.spectra(e)[0], [1.0, (e - 8345) / 100]) for e in (*energies, *chosen)]
    design, known = np.stack(rows[:-3]), np.stack(rows[-3:])
    parts = [phantom.optical_density(float(e)) for e in chosen]
    mix = design @ np.linalg.pinv(known)  # every frame as a mixture of three: cheap to make, of the right rank
    sigma = 0.05

    def frame(t: int) -> Stack:
        image = sum(np.float32(m) * p for m, p in zip(mix[t], parts, strict=True))
        return np.asarray(image + np.float32(sigma) * np.roll(noise[t % 4], 37 * t, axis=1), dtype=np.float32)

    gram = SmoothedGram((side, side))
    projection = Projection((side, side), lambda t: frame(t) / np.float32(sigma))
    causal = CausalRegistration((side // 2, side // 2))
    field = np.ones((side, side), dtype=bool)
    field[:3] = field[:, -3:] = False
    registering, following = [], []
    for t in range(visits):
        image = frame(t)
        began = time.perf_counter()
        found = causal.partial_fit(bin_image(image, 2), sigma / 2)
        shift_image(image, found.shift_px * 2)
        registering.append(time.perf_counter() - began)
        began = time.perf_counter()
        gram.partial_fit(t, image, field, sigma)
        spectrum = gram.spectrum()
        level = gram.noise_level()
        projection.turn(spectrum.vectors, components_above_noise(spectrum, level, margin=2.0))
        following.append(time.perf_counter() - began)
    last = slice(-48, None)
    print(f"\n## Per visit, {side} x {side}, visits {visits - 48} to {visits}")
    print(f"registration and moving {1e3 * np.mean(registering[last]):.0f} ms")
    print(f"Gram matrix, spectrum, noise, projection {1e3 * np.mean(following[last]):.0f} ms (<= 40), rebuilds counted")
    print(f"together {1e3 * (np.mean(registering[last]) + np.mean(following[last])):.0f} ms (<= 150)")
    print(f"exact projections in the whole scan: {projection.n_rebuilds}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("denoisers", "speed", "stacks", "measured", "slow")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="150 × 200 only")
    arguments = parser.parse_args()
    import torch

    if "denoisers" in arguments.part:
        torch.set_num_threads(1)
        denoisers_part()
    with fixed_threads():
        if "stacks" in arguments.part:
            stacks_part(arguments.seeds, quick=arguments.quick)
        if "speed" in arguments.part:
            speed_part()
        if "measured" in arguments.part:
            measured_part()
        if "slow" in arguments.part:
            slow_part()


if __name__ == "__main__":
    main()
