"""Denoising by subspace modelling against its peers, on phantoms and measured stacks with noise of known σ.

    python benchmarks/bench_sum.py [--part denoisers speed stacks counts measured slow] [--seeds 3] [--quick]

Every table is measured in one run on the same data: PSNR, map correlation, seconds, ratios. An idle machine needs some
three hours, two of them for BM3D on stacks of 512 × 512 (``--quick`` leaves these out). Peers: 3-D median, truncated
SVD with its rank by SURE, BM3D per frame, BM4D, SUM as in the paper.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_counts import counts_table
from bench_visit import per_visit
from sum_methods import (
    Answer,
    Case,
    bm3d_per_frame,
    bm4d,
    cases,
    median,
    ours,
    svd_by_sure,
    true_subspace,
)

from txm_stream import unmix_stack
from txm_stream.denoising import load_denoiser
from txm_stream.device import fixed_threads
from txm_stream.metrics import fpsnr, map_correlation, spsnr

SIGMAS = (10, 50, 100, 150)
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


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
        against_peers(found)
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


def against_peers(found: dict[str, list[dict[str, float]]]) -> None:
    """Print by how much ours is ahead of each peer in the stack where that is least."""
    peers = [name for name in found if not name.startswith(("ours", "true subspace"))]
    for peer in peers if "ours, unet" in found else ():
        pairs = list(zip(found["ours, unet"], found[peer], strict=True))
        spsnr, corr = (min(a[key] - b[key] for a, b in pairs) for key in ("spsnr", "corr"))
        print(f"unet against {peer}: at least {spsnr:+.2f} dB SPSNR, {corr:+.3f} map correlation")


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
        table(
            f"{shape[0]} × {shape[1]}, {visits} energies",
            lambda sigma, shape=shape, visits=visits: cases(shape, visits, (sigma,), seeds),
            methods,
            SIGMAS,
        )


def slow_part() -> None:
    """The slow peers, 40 energies, one seed; BM4D on the whole scan at one noise (ten minutes per stack)."""
    methods = {"ours, unet": ours("unet"), "ours, tv": ours("tv"), "BM4D": bm4d, "BM3D per frame": bm3d_per_frame}
    table("40 × 150 × 200, slow peers", lambda sigma: cases((150, 200), 40, (sigma,), 1), methods, SIGMAS)
    whole = {"ours, unet": ours("unet"), "BM4D": bm4d}
    table("117 × 150 × 200, BM4D", lambda sigma: cases((150, 200), 117, (sigma,), 1), whole, (50,))


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
            case = Case(name, None, stack.energies_eV, clean, noisy, sigma)
            cells = []
            for method in (ours("unet"), ours("tv"), svd_by_sure("bm3d"), svd_by_sure(None), median):
                answer = method(case)
                rank = f", K {answer.rank}" if answer.rank else ""
                cells.append(f"{np.mean((answer.stack - clean) ** 2) / sigma**2:.4f}{rank}")
            print(f"| {name} | {percent} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("denoisers", "speed", "stacks", "counts", "measured", "slow")
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
            per_visit()
        if "counts" in arguments.part:
            counts_table(arguments.seeds)
        if "measured" in arguments.part:
            measured_part()
        if "slow" in arguments.part:
            slow_part()


if __name__ == "__main__":
    main()
