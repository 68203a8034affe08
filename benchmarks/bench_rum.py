"""Chemical maps against their peers, on phantoms with known abundances.

    python benchmarks/bench_rum.py [--part streaming maps poisson …] [--seeds 9] [--quick]

PSNR has MAX = 1 and counts the pixels inside the particles; the peers get what they need: RUM with total variation has
λ and ρ tuned on the truth, over 15 pairs. Noise: σ₁ such that least squares reads what the paper's does (12.3 dB
core–shell, 16.8 dB per region, two states), and 3, 5 and 7 times that. Single samples differ by a dB from each other:
where RUM-TV needs minutes to be tuned (more than two states, large images, counts) there are three seeds at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from measured_maps import measured_part
from rum_cases import (
    KINDS,
    Case,
    first_sigma,
    lcf,
    plus,
    stack_case,
    tuned_rum_tv,
)
from rum_speed import public_part, speed_part, streaming_part

from txm_stream import Pipeline, Profile, denoise_counts
from txm_stream.arrays import AnyArray
from txm_stream.device import fixed_threads
from txm_stream.frames import Frame
from txm_stream.judgement import judge
from txm_stream.optical_density import CountsImage, working_density
from txm_stream.phantoms import Phantom, inside, make_phantom, nickel_energies
from txm_stream.resampling import shift_image
from txm_stream.results import Result
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.unmixing import References
from txm_stream.unmixing.design import make_design

FEW = 3


def maps_part(seeds: int, *, quick: bool) -> None:
    """RUM+ against least squares and tuned RUM-TV: both kinds, two to five states, four noise levels."""
    for shape in ((150, 200),) if quick else ((150, 200), (379, 520)):
        print(f"\n## Abundances, {shape[0]} × {shape[1]}, 969 energies: PSNR dB (the paper's PSNR), SSIM, RMSE")
        print(
            "| kind | states | σ | seeds | LCF | RUM-TV, tuned | one pass TV | one pass UNet | RUM+ | − LCF "
            "| − RUM-TV (least) |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for kind in KINDS:
            many = seeds if shape == (150, 200) else min(seeds, FEW)
            sigmas = [first_sigma(shape, kind, seed) for seed in range(many)]
            for n_states in (2, 3, 4, 5):
                count = many if n_states == 2 else min(seeds, FEW)
                for times in (1, 3, 5, 7):
                    rows = []
                    for seed in range(count):
                        phantom = make_phantom(shape, n_states=n_states, chemistry=kind, seed=seed)
                        case, _ = stack_case(phantom, times * sigmas[seed], seed)
                        rows.append([case.figures(x) for x in _contenders(case)])
                    mean = np.mean(rows, axis=0)
                    cells = [f"{p:.2f} ({q:.2f}), {s:.3f}, {r:.4f}" for p, q, s, r in mean]
                    psnr = np.array(rows)[:, :, 0]
                    leads = psnr[:, 4] - psnr[:, 1]
                    print(
                        f"| {kind} | {n_states} | {times} | {count} | " + " | ".join(cells)
                        + f" | {np.mean(psnr[:, 4] - psnr[:, 0]):+.1f} "
                        + f"| {leads.mean():+.2f} ± {leads.std():.2f} ({leads.min():+.2f}) |",
                        flush=True,
                    )  # fmt: skip


def _contenders(case: Case) -> list[AnyArray]:
    """Return the maps of least squares, tuned RUM-TV, one pass of either denoiser, RUM+."""
    return [
        lcf(case)[0],
        tuned_rum_tv(case)[0],
        plus(case, denoiser="tv", refine=False).abundances,
        plus(case, refine=False).abundances,
        plus(case).abundances,
    ]


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
        yield Frame(role, microscope.expose()[1], energy, seq, 1.0, float(seq))


def faults_part(seeds: int) -> None:
    """Counts, jitter, flicker and references that are off by 0.3 eV, all through the pipeline."""
    print("\n## References off by 0.3 eV, flicker 3 %, jitter 2 px, 500 photons, 256², 60 energies")
    print("RMSE of the pixels that have a map (their share beside it): that is what is predicted.")
    print("| kind | seed | shift found eV | registration px | RMSE | share with a map | predicted/true | coverage |")
    print("|---|---|---|---|---|---|---|---|")
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
                    f"| {kind} | {seed} | {shift:+.3f} | {verdict.shift_rmse_px:.3f} | {verdict.mapped_rmse:.4f} "
                    f"| {verdict.map_coverage:.4f} | {result.predicted_rmse / verdict.mapped_rmse:.2f} "
                    f"| {coverage(result, txm):.2f} |",
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


PARTS = ("streaming", "maps", "poisson", "calibration", "faults", "measured", "speed", "public")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("out/bench_rum"), help="folder for pictures")
    parser.add_argument("--quick", action="store_true", help="small images only")
    arguments = parser.parse_args()
    with fixed_threads():
        if "streaming" in arguments.part:
            streaming_part()
        if "maps" in arguments.part:
            maps_part(arguments.seeds, quick=arguments.quick)
        if "poisson" in arguments.part:
            poisson_part(min(arguments.seeds, FEW))
        if "calibration" in arguments.part:
            calibration_part(arguments.seeds)
        if "faults" in arguments.part:
            faults_part(arguments.seeds)
        if "measured" in arguments.part:
            measured_part(arguments.output)
        if "speed" in arguments.part:
            speed_part()
        if "public" in arguments.part:
            public_part()


if __name__ == "__main__":
    main()
