"""Denoising counts: linearised about the model, after variance stabilisation, and after the plain logarithm.

python benchmarks/bench_counts.py [--seeds 3]
"""

from __future__ import annotations

import argparse

import numpy as np

from txm_stream import denoise_counts, denoise_stack
from txm_stream.arrays import Stack
from txm_stream.device import fixed_threads
from txm_stream.phantoms import make_phantom, nickel_energies

SHAPE, VISITS = (150, 200), 117


def stabilised(counts: Stack, photons: float) -> Stack:
    """Denoise 2√(c + 3/8), go back by the unbiased inverse (Mäkitalo and Foi 2011), then take the logarithm."""
    root = denoise_stack(2 * np.sqrt(counts + 0.375), sigma=1.0).stack
    root = np.maximum(root, 1.0)
    c = np.sqrt(1.5)
    mean = root**2 / 4 + 0.25 * c / root - 11 / 8 / root**2 + 5 / 8 * c / root**3 - 1 / 8
    return np.asarray(-np.log(np.maximum(mean, 0.05) / photons))


def counts_table(seeds: int) -> None:
    """Print the error of the denoised optical density, and its ratio to that of the plain logarithm."""
    energies = nickel_energies(VISITS)
    print(f"\n## Poisson counts, {SHAPE[0]} × {SHAPE[1]} × {VISITS}, flat without noise: rms error in OD")
    print(
        "| photons | plain −ln | stabilised | ours | stabilised / plain | ours / plain (at most) | predicted / true |"
    )
    print("|---|---|---|---|---|---|---|")
    for photons in (50, 200, 500):
        errors: dict[str, list[float]] = {"plain": [], "stabilised": [], "ours": [], "predicted": []}
        for chemistry in ("core-shell", "region"):
            for seed in range(seeds):
                phantom = make_phantom(SHAPE, n_states=2 + seed % 2, chemistry=chemistry, seed=seed)
                clean = phantom.stack(energies)
                counts = np.random.default_rng([seed, photons]).poisson(photons * np.exp(-clean)).astype(np.float32)
                found = denoise_counts(counts, np.full(SHAPE, photons), flat_repeats=1e9)
                plain = denoise_stack(np.log(photons / np.maximum(counts, 0.5))).stack
                for name, stack in (
                    ("plain", plain),
                    ("stabilised", stabilised(counts, photons)),
                    ("ours", found.stack),
                ):
                    errors[name].append(float(np.sqrt(np.mean((stack - clean) ** 2))))
                errors["predicted"].append(float(np.sqrt(found.risk)))
        plain_, other, mine, said = (np.array(errors[name]) for name in errors)
        ratio = mine / plain_
        print(
            f"| {photons} | {plain_.mean():.4f} | {other.mean():.4f} | {mine.mean():.4f} | "
            f"{np.mean(other / plain_):.2f} | {ratio.mean():.2f} ({ratio.max():.2f}) | {np.mean(said / mine):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    with fixed_threads():
        counts_table(parser.parse_args().seeds)
