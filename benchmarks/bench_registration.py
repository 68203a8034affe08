"""Registration of changing contrast against its bound and its peers, on phantoms with known motion.

    python benchmarks/bench_registration.py [--seeds 3] [--only final causal peers]

Errors are rms over visits and axes in px, common offset removed; the bound is that of Cramér and Rao for a template
that is known without noise, from the clean frames in the field that all frames share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from txm_stream import align_stack
from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.matching import gradient
from txm_stream.arrays import Matrix, Stack
from txm_stream.device import fixed_threads
from txm_stream.metrics import shift_rmse_px
from txm_stream.phantoms import Phantom, make_phantom, nickel_energies

SHAPE = (192, 256)
VISITS = 35


@dataclass(frozen=True, eq=False)
class Case:
    """A moving noisy stack and its truth."""

    phantom: Phantom
    motion_px: Matrix
    noisy: Stack
    sigma: float
    bound_px: float


def cases(amplitude_px: float, sigma: int, seeds: int) -> Iterator[Case]:
    """Yield stacks of both kinds, uniform motion ± ``amplitude_px``, white noise of ``sigma``/255 of the range."""
    energies = nickel_energies(VISITS)
    for chemistry in ("core-shell", "region"):
        for seed in range(seeds):
            phantom = make_phantom(SHAPE, chemistry=chemistry, seed=seed)  # type: ignore[arg-type]
            rng = np.random.default_rng([seed, sigma])
            motion = amplitude_px * rng.uniform(-1, 1, (VISITS, 2))
            clean = phantom.stack(energies, motion)
            noise = sigma / 255 * float(np.ptp(clean))
            noisy = clean + np.float32(noise) * rng.standard_normal(clean.shape, dtype=np.float32)
            yield Case(phantom, motion, noisy, noise, cramer_rao_px(phantom.stack(energies), noise, amplitude_px))


def cramer_rao_px(clean: Stack, sigma: float, amplitude_px: float) -> float:
    """Return the smallest rms error per axis of shifts of frames with a known template, gain and offset."""
    border = int(np.ceil(amplitude_px)) + 1
    inner = (slice(border, -border), slice(border, -border))
    variances = []
    for frame in clean:
        gy, gx = (g[inner].ravel().astype(np.float64) for g in gradient(frame))
        nuisance = np.stack([frame[inner].ravel().astype(np.float64), np.ones(gy.size)])
        columns = np.concatenate([np.stack([gy, gx]), nuisance])
        information = columns @ columns.T / sigma**2
        variances.append(np.trace(np.linalg.inv(information)[:2, :2]) / 2)
    return float(np.sqrt(np.mean(variances)))


def ours(case: Case) -> Matrix:
    """Return the shifts of the batch registration."""
    return align_stack(case.noisy).shifts_px


def causal(case: Case) -> Matrix:
    """Return the shifts of the causal registration, one white-line frame first."""
    energies = nickel_energies(VISITS)
    first = int(np.argmax(case.phantom.spectra(energies).sum(axis=1)))
    registration = CausalRegistration(SHAPE)
    shifts = np.zeros((VISITS, 2))
    for t in [first, *(t for t in range(VISITS) if t != first)]:
        shifts[t] = registration.partial_fit(case.noisy[t], case.sigma).shift_px
    return shifts


def phase_correlation(case: Case) -> Matrix:
    """scikit-image: each frame against the one before, summed."""
    from skimage.registration import phase_cross_correlation

    steps = [
        phase_cross_correlation(a, b, upsample_factor=20)[0] for a, b in zip(case.noisy, case.noisy[1:], strict=False)
    ]
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def stackreg(case: Case) -> Matrix:
    """pystackreg (the plug-in most users have): translation, each frame against the mean of those before."""
    from pystackreg import StackReg

    matrices = StackReg(StackReg.TRANSLATION).register_stack(case.noisy, reference="mean")
    return -np.stack([matrices[:, 1, 2], matrices[:, 0, 2]], axis=1)


def table(methods: dict[str, Callable[[Case], Matrix]], seeds: int) -> None:
    """Print the errors of all methods over amplitudes and noise."""
    print("| jitter | σ | bound | " + " | ".join(methods) + " |")
    print("|---|---|---|" + "---|" * len(methods))
    for sigma in (10, 150):
        for amplitude in (2, 4, 6):
            errors: dict[str, list[float]] = {name: [] for name in methods}
            bounds, seconds = [], dict.fromkeys(methods, 0.0)
            for case in cases(amplitude, sigma, seeds):
                bounds.append(case.bound_px)
                for name, method in methods.items():
                    began = time.perf_counter()
                    errors[name].append(shift_rmse_px(method(case), case.motion_px))
                    seconds[name] += time.perf_counter() - began
            cells = []
            for name in methods:
                ratio = np.array(errors[name]) / np.array(bounds)
                cells.append(f"{np.mean(errors[name]):.3f} ({np.mean(ratio):.2f}×, worst {ratio.max():.2f}×)")
            print(f"| {amplitude} | {sigma} | {np.mean(bounds):.3f} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("final", "causal", "peers"), default=("final", "causal", "peers"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    methods: dict[str, Callable[[Case], Matrix]] = {}
    if "final" in arguments.only:
        methods["ours, final"] = ours
    if "causal" in arguments.only:
        methods["ours, causal"] = causal
    if "peers" in arguments.only:
        methods |= {"phase correlation": phase_correlation, "pystackreg": stackreg}
    with fixed_threads():
        table(methods, arguments.seeds)


if __name__ == "__main__":
    main()
