"""Chemical maps against their peers, on phantoms with known abundances.

    python benchmarks/bench_rum.py [--part streaming maps poisson …] [--seeds 3] [--quick]

PSNR has MAX = 1 and counts the pixels inside the particles; the peers get what they need: RUM with total variation has
λ and ρ tuned on the truth, over 15 pairs. Noise: σ₁ such that least squares reads what the paper's does (12.3 dB
core–shell, 16.8 dB per region, two states), and 3, 5 and 7 times that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

from txm_stream import Pipeline, Profile, denoise_counts
from txm_stream.arrays import AnyArray, Image, Matrix, Stack
from txm_stream.denoising import load_denoiser
from txm_stream.device import fixed_threads
from txm_stream.frames import Frame
from txm_stream.judgement import judge
from txm_stream.optical_density import CountsImage, working_density
from txm_stream.phantoms import Phantom, inside, make_phantom, nickel_energies
from txm_stream.phantoms.particles import Chemistry
from txm_stream.resampling import shift_image
from txm_stream.results import Result
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.unmixing import References, load_references, rum_pnp, rum_tv
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.least_squares import split_scale
from txm_stream.unmixing.one_pass import Maps, invert, unmix_channels
from txm_stream.unmixing.streaming import StreamingMap
from txm_stream.unmixing.vtv import strength

KINDS: tuple[Chemistry, ...] = ("core-shell", "region")
PAPER_LCF = {"core-shell": 12.3, "region": 16.8}
ENERGIES = np.linspace(8300.0, 8400.0, 969)
TUNED_LAMBDA, TUNED_RHO = (0.25, 0.5, 1.0, 2.0, 4.0), (0.03, 0.1, 0.3)
NICKEL = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "refs" / "ni_fxi"


@dataclass(frozen=True, eq=False)
class Case:
    """A phantom, its white channels (L, y, x) with unit noise times ``noise`` (y, x), and their design."""

    phantom: Phantom
    white: Stack
    design: Design
    noise: Image

    @property
    def truth(self) -> Image:
        return self.phantom.abundances

    def psnr(self, abundances: AnyArray) -> float:
        """Return the PSNR in dB inside the particles, MAX = 1; pixels without a value count as 1/L."""
        filled = np.where(np.isfinite(abundances), abundances, 1 / len(self.truth))
        return float(-10 * np.log10(np.mean((filled - self.truth)[:, self.phantom.inside] ** 2)))


def spectra_of(phantom: Phantom, energies_eV: AnyArray) -> Matrix:
    """Return the measured nickel references for two states where they are at hand, else those of the phantom."""
    if len(phantom.names) == 2 and NICKEL.is_dir():
        return load_references([NICKEL / "ref_NiO.txt", NICKEL / "ref_LiNiO2.txt"]).at(energies_eV)
    return phantom.spectra(energies_eV)


def stack_case(phantom: Phantom, sigma: float, seed: int, *, stack_too: bool = False) -> tuple[Case, Stack | None]:
    """Return a case of white noise ``sigma`` in OD, no background, 969 energies; on request its stack (T, y, x)."""
    spectra = spectra_of(phantom, ENERGIES)
    design = make_design(spectra, ENERGIES, np.full(len(ENERGIES), sigma), background="none")
    amounts = (phantom.edge_jump * phantom.abundances).astype(np.float32)
    rng = np.random.default_rng(seed + 100)
    ones = np.ones(phantom.shape, dtype=np.float32)
    if not stack_too:  # the channels hold all that the stack says
        noise = rng.standard_normal(amounts.shape, dtype=np.float32)
        white = np.tensordot(design.triangle.astype(np.float32), amounts, axes=1) + noise
        return Case(phantom, white, design, ones), None
    stack = np.tensordot(spectra.astype(np.float32), amounts, axes=1)
    for frame in stack:
        frame += np.float32(sigma) * rng.standard_normal(frame.shape, dtype=np.float32)
    return Case(phantom, channels(stack, design, sigma), design, ones), stack


def channels(stack: Stack, design: Design, sigma: float) -> Stack:
    """Return the white channels (L, y, x) of a stack: all that an estimator needs of it."""
    mixing = torch.from_numpy((design.channels.T / sigma).astype(np.float32))  # PyTorch's product reads the stack once
    return np.asarray((mixing @ torch.from_numpy(stack.reshape(len(stack), -1))).numpy()).reshape(-1, *stack.shape[1:])


def lcf(case: Case) -> tuple[Stack, Image]:
    """Return abundances and scale by exact non-negative least squares."""
    return invert(case.white, case.design.triangle)


def plus(case: Case, *, denoiser: str = "unet", refine: bool = True, draws: int = 0) -> Maps:
    """Return the maps of RUM+."""
    everywhere = np.ones(case.noise.shape, dtype=bool)
    rng = np.random.default_rng(0)
    return unmix_channels(
        case.white, case.design.triangle, case.noise, everywhere, load_denoiser(denoiser),
        draws=draws, rng=rng, refine=refine,
    )  # fmt: skip


def unit(case: Case) -> Stack:
    """Return the channels with unit noise, for estimators that know one noise level only."""
    return np.asarray(case.white / np.float32(np.median(case.noise[case.phantom.inside])), dtype=np.float32)


def tuned_rum_tv(case: Case) -> tuple[Stack, float]:
    """Return the abundances of RUM with total variation, the best of 15 (λ, ρ), and the seconds of one run."""
    triangle = case.design.triangle
    scale = case.phantom.edge_jump
    lam = strength(triangle, scale, case.phantom.inside)
    largest = float(np.linalg.eigvalsh(triangle.T @ triangle)[-1])
    best, took = case.white, 0.0
    for factor in TUNED_LAMBDA:
        for share in TUNED_RHO:
            began = time.perf_counter()
            found = rum_tv(unit(case), triangle, lam=lam * factor, rho=largest * share)
            took = time.perf_counter() - began
            if best is case.white or case.psnr(found.abundances) > case.psnr(best):
                best = found.abundances
    return best, took


def first_sigma(shape: tuple[int, int], kind: Chemistry, seed: int) -> float:
    """Return σ₁ in OD: least squares with two states reads what the paper's does."""
    phantom = make_phantom(shape, n_states=2, chemistry=kind, seed=seed)
    low, high = 1e-3, 100.0
    for _ in range(24):
        sigma = float(np.sqrt(low * high))
        case, _ = stack_case(phantom, sigma, seed)
        low, high = (sigma, high) if case.psnr(lcf(case)[0]) > PAPER_LCF[kind] else (low, sigma)
    return sigma


def maps_part(seeds: int, *, quick: bool) -> None:
    """RUM+ against least squares and tuned RUM-TV: both kinds, two to five states, four noise levels."""
    for shape in ((150, 200),) if quick else ((150, 200), (379, 520)):
        print(f"\n## Abundances, {shape[0]} × {shape[1]}, 969 energies, {seeds} seeds: PSNR dB (and SSIM of RUM+)")
        print(
            "| kind | states | σ | LCF | RUM-TV, tuned | one pass TV | one pass UNet | RUM+ | SSIM | − LCF | − RUM-TV |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for kind in KINDS:
            sigmas = [first_sigma(shape, kind, seed) for seed in range(seeds)]
            for n_states in (2, 3, 4, 5):
                for times in (1, 3, 5, 7):
                    rows = []
                    for seed in range(seeds):
                        phantom = make_phantom(shape, n_states=n_states, chemistry=kind, seed=seed)
                        case, _ = stack_case(phantom, times * sigmas[seed], seed)
                        found = plus(case).abundances
                        one = plus(case, refine=False).abundances
                        fast = plus(case, denoiser="tv", refine=False).abundances
                        tuned = tuned_rum_tv(case)[0]
                        ssim = structural_similarity(
                            np.nan_to_num(found, nan=1 / n_states)[0], case.truth[0], data_range=1.0
                        )
                        rows.append([case.psnr(x) for x in (lcf(case)[0], tuned, fast, one, found)] + [ssim])
                    mean = np.mean(rows, axis=0)
                    print(
                        f"| {kind} | {n_states} | {times} | " + " | ".join(f"{m:.2f}" for m in mean)
                        + f" | {mean[4] - mean[0]:+.1f} | {mean[4] - mean[1]:+.2f} |",
                        flush=True,
                    )  # fmt: skip


def counts_case(phantom: Phantom, photons: float, seed: int) -> Case:
    """Return a case of Poisson counts at 80 energies, linear background fitted, linearised about the denoised stack."""
    energies = nickel_energies(80)
    rng = np.random.default_rng(seed)
    counts = rng.poisson(photons * np.exp(-phantom.stack(energies))).astype(np.float32)
    flat = np.full(phantom.shape, photons, dtype=np.float32)
    model = denoise_counts(counts, flat, flat_repeats=1e6, energies_eV=energies).stack
    seen = np.ones(counts.shape, dtype=bool)
    beam = CountsImage(flat, seen[0], 1e6, 1.0)
    density = working_density(
        CountsImage(counts, seen, 1.0, 1.0), beam, model, electrons_per_adu=1.0, read_noise_adu=0.0
    )
    level = np.sqrt(density.variance.mean(axis=(1, 2)))
    design = make_design(phantom.spectra(energies), energies, level)
    whitened = density.image / level[:, None, None]
    white = np.tensordot(design.channels.T.astype(np.float32), whitened.astype(np.float32), axes=1)
    relative = np.sqrt((density.variance / level[:, None, None] ** 2).mean(axis=0)).astype(np.float32)
    return Case(phantom, white, design, relative)


def poisson_part(seeds: int) -> None:
    """Poisson counts: RUM+ against least squares with background and tuned RUM-TV."""
    print("\n## Poisson counts, 80 energies, linear background fitted, 150 × 200: PSNR dB, mean over both kinds")
    print("| states | photons | least squares | RUM-TV, tuned | RUM+ | − LCF | − RUM-TV |")
    print("|---|---|---|---|---|---|---|")
    for n_states in (2, 3):
        for photons in (40.0, 400.0):
            rows = []
            for kind in KINDS:
                for seed in range(seeds):
                    phantom = make_phantom((150, 200), n_states=n_states, chemistry=kind, seed=seed)
                    case = counts_case(phantom, photons, seed)
                    tuned = tuned_rum_tv(case)[0]
                    rows.append([case.psnr(x) for x in (lcf(case)[0], tuned, plus(case).abundances)])
            mean = np.mean(rows, axis=0)
            print(
                f"| {n_states} | {photons:.0f} | " + " | ".join(f"{m:.2f}" for m in mean)
                + f" | {mean[2] - mean[0]:+.1f} | {mean[2] - mean[1]:+.2f} |",
                flush=True,
            )  # fmt: skip


def calibration_part(seeds: int) -> None:
    """Predicted over true error, and how many pixels the 68 % interval covers."""
    print("\n## Predicted over true RMSE; coverage of 68 % intervals (0.05 < x < 0.95), 150 × 200")
    print("| kind | states | σ | true RMSE | predicted/true | coverage |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        sigmas = [first_sigma((150, 200), kind, seed) for seed in range(seeds)]
        for n_states in (2, 3):
            for times in (0.1, 0.3, 1, 3, 7):
                rows = []
                for seed in range(seeds):
                    phantom = make_phantom((150, 200), n_states=n_states, chemistry=kind, seed=seed)
                    case, _ = stack_case(phantom, times * sigmas[seed], seed)
                    maps = plus(case, draws=4)
                    true = 10 ** (-case.psnr(maps.abundances) / 20)
                    telling = phantom.inside & (case.truth > 0.05) & (case.truth < 0.95) & np.isfinite(maps.sigma)
                    covered = (np.abs(maps.abundances - case.truth) < maps.sigma)[telling].mean()
                    rows.append((true, maps.predicted_rmse / true, covered))
                mean = np.mean(rows, axis=0)
                print(f"| {kind} | {n_states} | {times} | {mean[0]:.4f} | {mean[1]:.2f} | {mean[2]:.2f} |", flush=True)


def frames_of(txm: SimulatedTXM, energies_eV: Iterable[float]) -> Iterable[Frame]:
    """Yield dark, then sample and flat per energy."""
    microscope = txm.microscope
    order = [("dark", None, 1)]
    order += [(role, float(e), i + 1) for i, e in enumerate(energies_eV) for role in ("sample", "flat")]
    for role, energy, seq in order:
        microscope.sample_in, microscope.shutter_open = role == "sample", role != "dark"
        if energy is not None:
            microscope.move_energy(energy)
        yield Frame(role, microscope.expose()[1], energy, seq, 1.0, float(seq))  # type: ignore[arg-type]


def faults_part(seeds: int) -> None:
    """Counts, jitter, flicker and references that are off by 0.3 eV, all through the pipeline."""
    print("\n## References off by 0.3 eV, flicker 3 %, jitter 2 px, 500 photons, 256², 60 energies")
    print("| kind | seed | shift found eV | registration px | RMSE | predicted/true | coverage |")
    print("|---|---|---|---|---|---|---|")
    grid = np.arange(8200.0, 8500.0, 0.25)
    for kind in KINDS:
        for seed in range(seeds):
            txm = SimulatedTXM((256, 256), chemistry=kind, flicker=0.03, jitter_px=2.0, photons=500.0, seed=seed)
            spectra = txm.microscope.phantom.spectra
            references = References(spectra.names, grid + 0.3, spectra(grid))
            with Pipeline(Profile(), references=references) as pipeline:
                for frame in frames_of(txm, nickel_energies(60)):
                    pipeline.keep(frame)
                result = pipeline.finish()
                verdict = judge(result, txm.truth())
                shift = result.provenance["energy_shift_eV"]
                print(
                    f"| {kind} | {seed} | {shift:+.3f} | {verdict.shift_rmse_px:.3f} | {verdict.abundance_rmse:.4f} | "
                    f"{result.predicted_rmse / verdict.abundance_rmse:.2f} | {coverage(result, txm):.2f} |",
                    flush=True,
                )


def coverage(result: Result, txm: SimulatedTXM) -> float:
    """Return the share of telling pixels whose true abundance lies within ± σ of the map."""
    truth = txm.truth()
    assert result.phase_map is not None
    assert result.phase_sigma is not None
    offset = np.mean(result.shifts_px + truth.shifts_px, axis=0)
    moved = np.stack([shift_image(image, offset) for image in truth.abundances])
    telling = inside(shift_image(truth.edge_jump, offset)) & np.isfinite(result.phase_sigma).all(axis=0)
    chosen = telling & (moved > 0.05) & (moved < 0.95)
    return float((np.abs(result.phase_map - moved) < result.phase_sigma)[chosen].mean())


def timed(step: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least seconds of a few runs, and the last answer."""
    best, answer = np.inf, None
    for _ in range(repeats):
        began = time.perf_counter()
        answer = step()
        best = min(best, time.perf_counter() - began)
    return best, answer


def speed_part() -> None:
    """Seconds for 379 × 520 × 969, from the stack to the map, against RUM-TV with 100 iterations; RUM with BM3D."""
    print("\n## Seconds, 379 × 520 × 969, two states, core–shell, σ₁; channels from the stack included")
    sigma = first_sigma((150, 200), "core-shell", 0)
    phantom = make_phantom((379, 520), seed=0)
    case, stack = stack_case(phantom, sigma, 0, stack_too=True)
    assert stack is not None
    triangle = case.design.triangle
    lam = strength(triangle, phantom.edge_jump, phantom.inside)
    rho = 0.1 * float(np.linalg.eigvalsh(triangle.T @ triangle)[-1])

    def fresh() -> Case:
        return Case(phantom, channels(stack, case.design, sigma), case.design, case.noise)

    steps: dict[str, Callable[[], AnyArray]] = {
        "RUM-TV, 100 iterations": lambda: rum_tv(fresh().white, triangle, lam=lam, rho=rho).abundances,
        "channels alone": lambda: fresh().white,
        "least squares": lambda: lcf(fresh())[0],
        "one pass, total variation": lambda: plus(fresh(), denoiser="tv", refine=False).abundances,
        "one pass, UNet": lambda: plus(fresh(), refine=False).abundances,
        "RUM+": lambda: plus(fresh()).abundances,
    }
    reference = 0.0
    print("| method | s | faster than RUM-TV | PSNR dB |")
    print("|---|---|---|---|")
    for name, step in steps.items():
        took, found = timed(step)
        reference = reference or took
        quality = f"{case.psnr(found):.2f}" if name != "channels alone" else ""
        print(f"| {name} | {took:.2f} | {reference / took:.1f}× | {quality} |", flush=True)

    print("\n96 × 128, RUM-PnP with BM3D, 30 iterations, a few settings:")
    phantom = make_phantom((96, 128), seed=0)
    case, _ = stack_case(phantom, sigma, 0)
    took_ours, ours = timed(lambda: plus(case).abundances)
    bm3d = load_denoiser("bm3d")
    for told in (0.03, 0.06, 0.12):
        began = time.perf_counter()
        found = rum_pnp(case.white, case.design.triangle, bm3d, lam=rho * told**2, rho=rho, iterations=30)
        took = time.perf_counter() - began
        print(f"told {told}: {case.psnr(found.abundances):.2f} dB in {took:.1f} s", flush=True)
    print(f"RUM+: {case.psnr(ours):.2f} dB in {took_ours:.2f} s")


def public_part() -> None:
    """Least squares against public solvers on the same pixels: SciPy's NNLS, and FCLS of PySptools."""
    from pysptools.abundance_maps.amaps import FCLS
    from scipy.optimize import nnls

    print("\n## Public solvers, 150 × 200 × 969, three states, RMSE of abundances inside and µs per pixel")
    phantom = make_phantom((150, 200), n_states=3, seed=0)
    sigma = first_sigma((150, 200), "core-shell", 0)
    case, stack = stack_case(phantom, sigma, 0, stack_too=True)
    assert stack is not None
    chosen = np.flatnonzero(phantom.inside.ravel())[::20][:300]
    pixels = stack.reshape(len(stack), -1)[:, chosen].T.astype(np.float64)
    truth = case.truth.reshape(3, -1)[:, chosen]
    spectra = spectra_of(phantom, ENERGIES)

    def rmse(abundances: AnyArray) -> float:
        return float(np.sqrt(np.mean((abundances - truth) ** 2)))

    took, found = timed(lambda: lcf(Case(phantom, channels(stack, case.design, sigma), case.design, case.noise))[0])
    mine = took / phantom.edge_jump.size
    print(f"ours: {rmse(found.reshape(3, -1)[:, chosen]):.4f}, {1e6 * mine:.2f} µs")
    took, each = timed(lambda: np.stack([nnls(spectra, y)[0] for y in pixels], axis=1), 1)
    theirs = took / len(pixels)
    print(f"scipy.optimize.nnls: {rmse(split_scale(each)[0]):.4f}, {1e6 * theirs:.0f} µs, ours {theirs / mine:.0f}×")
    scale = phantom.edge_jump.ravel()[chosen][:, None]  # FCLS has no scale: it is given the true one
    took, each = timed(lambda: FCLS(pixels / scale, spectra.T.copy()), 1)
    theirs = took / len(pixels)
    print(f"pysptools FCLS, true scale given: {rmse(each.T):.4f}, {1e6 * theirs:.0f} µs, ours {theirs / mine:.0f}×")


def streaming_part() -> None:
    """Milliseconds per visit of the growing map at 1024², and how far it is behind the converged one."""
    energies = nickel_energies(64)
    print("\n## Growing map, 1024², visits 60 to 64, two warm iterations")
    for n_states in (2, 5):
        phantom = make_phantom((1024, 1024), n_states=n_states, seed=0)
        spectra, rng, sigma = phantom.spectra(energies), np.random.default_rng(0), 0.1
        growing = StreamingMap(phantom.shape, n_states, centre_eV=8350.0)
        took = []
        for t, energy in enumerate(energies):
            image = phantom.optical_density(float(energy))
            image += np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
            began = time.perf_counter()
            growing.add(image, spectra[t], float(energy), sigma)
            if t > 40:
                abundances, _ = growing.update()
            took.append(time.perf_counter() - began)
        errors = []
        for maps in (abundances, growing.update(300)[0]):
            errors.append(np.sqrt(np.mean((maps - phantom.abundances)[:, phantom.inside] ** 2)))
        behind = 20 * np.log10(errors[0] / errors[1])
        print(f"{n_states} states: {1e3 * np.median(took[-5:]):.0f} ms, {behind:.3f} dB behind", flush=True)


PARTS = ("streaming", "maps", "poisson", "calibration", "faults", "speed", "public")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small images only")
    arguments = parser.parse_args()
    with fixed_threads():
        if "streaming" in arguments.part:
            streaming_part()
        if "maps" in arguments.part:
            maps_part(arguments.seeds, quick=arguments.quick)
        if "poisson" in arguments.part:
            poisson_part(arguments.seeds)
        if "calibration" in arguments.part:
            calibration_part(arguments.seeds)
        if "faults" in arguments.part:
            faults_part(arguments.seeds)
        if "speed" in arguments.part:
            speed_part()
        if "public" in arguments.part:
            public_part()


if __name__ == "__main__":
    main()
