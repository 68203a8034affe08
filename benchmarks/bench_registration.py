"""Registration of changing contrast against its bound and its peers, on phantoms with known motion.

    python benchmarks/bench_registration.py [--seeds 3] [--only final causal peers growing scans measured]

Errors are rms over visits and axes in px, common offset removed; the bound is that of Cramér and Rao for a template
that is known without noise, from the clean frames in the field that all frames share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from registration_of_scans import scans

from txm_stream import align_stack, optical_density
from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.matching import gradient
from txm_stream.arrays import Matrix, Stack
from txm_stream.device import fixed_threads
from txm_stream.metrics import shift_rmse_px
from txm_stream.phantoms import Phantom, growing_scan, make_phantom, nickel_energies

SHAPE = (192, 256)
VISITS = 35
PARTS = ("final", "causal", "peers", "growing", "scans", "measured")
SSRL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ssrl_6-2c_txm_NCA_NiK_repeats.h5"


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
            phantom = make_phantom(SHAPE, chemistry=chemistry, seed=seed)
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


def growing(seeds: int) -> None:
    """Print the error for 20 px drift, 5 % magnification, and particles that leave the field, at σ = 10."""
    print("\n20 px drift, 5 % magnification, σ = 10 (<= 0.15 px)")
    print("| seed | proportional | fitted | growth |")
    print("|---|---|---|---|")
    for seed in range(seeds):
        scan = growing_scan(drift_px=20.0, seed=seed)
        cells = []
        for mode in ("proportional", "fitted"):
            found = align_stack(scan.stack, energies_eV=scan.energies_eV, magnification=mode)
            cells.append(f"{scan.placement_error_px(found.shifts_px, found.magnification):.3f} px")
        print(f"| {seed} | " + " | ".join(cells) + f" | {found.growth:.4f} ± {found.growth_sigma:.4f} |", flush=True)


def repeats() -> None:
    """Print what is found on measured repeats at two energies: (−21, −9) px at the centre, growth .19 to .36 %."""
    if not SSRL.exists():
        print("\nthe measured repeats are not here")
        return
    import h5py

    frames, energies = [], []
    with h5py.File(SSRL) as file:
        for energy in (8324.0, 8354.0):
            group = file[f"{energy}eV"]
            flat = group["flat"][:].mean(axis=0)
            for sample in group["sample"]:
                density = optical_density(
                    sample, flat, exposure_s=0.5, flat_exposure_s=0.3, electrons_per_adu=7.1, read_noise_adu=3.5
                )
                frames.append(density.image)
                energies.append(energy)
    found = align_stack(np.stack(frames), energies_eV=energies, magnification="fitted")
    first, second = found.shifts_px[:3], found.shifts_px[3:]
    y, x = (second.mean(axis=0) - first.mean(axis=0)).round(2)
    scale = abs(found.magnification[3] / found.magnification[0] - 1)
    spread = [float(np.abs(s - s.mean(axis=0)).max()) for s in (first, second)]
    print(f"\nSSRL 6-2c, 8354 against 8324 eV: ({y}, {x}) px (−21, −9), growth {100 * scale:.2f} % (0.19 to 0.36)")
    print(f"within 8324 eV {spread[0]:.2f} px, within 8354 eV {spread[1]:.2f} px of their means")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
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
        if methods:
            table(methods, arguments.seeds)
        if "growing" in arguments.only:
            growing(arguments.seeds)
        if "scans" in arguments.only:
            scans(arguments.seeds)
        if "measured" in arguments.only:
            repeats()


if __name__ == "__main__":
    main()
