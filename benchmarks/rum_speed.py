"""Seconds: against the published iteration, against public solvers, and per visit of a growing map."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from rum_cases import (
    ENERGIES,
    Case,
    channels,
    first_sigma,
    lcf,
    plus,
    spectra_of,
    stack_case,
)

from txm_stream.arrays import AnyArray
from txm_stream.denoising import load_denoiser
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing import rum_pnp, rum_tv
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.least_squares import split_scale
from txm_stream.unmixing.one_pass import invert
from txm_stream.unmixing.streaming import StreamingMap
from txm_stream.unmixing.vtv import strength


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
    for every in (1, 12):
        energies = ENERGIES[::every]
        print(f"\n## Public solvers, 150 × 200 × {len(energies)}, RMSE of abundances inside and µs per pixel")
        print(
            "Ours starts from the stack (T, y, x) in single precision, SciPy from the same, pixel by pixel, and from\n"
            "pixels that lie ready in double precision, FCLS from these. Ours uses all cores, SciPy and FCLS know one."
        )
        print(
            "| states | background | ours | | SciPy's NNLS | from the stack | pixels ready | ours faster "
            "| FCLS, true scale given | | ours faster |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for background in ("none", "linear"):
            for n_states in (2, 3, 5):
                print(_public_line(n_states, background, every), flush=True)


def _public_line(n_states: int, background: Literal["none", "linear"], every: int) -> str:
    """Return a line of the table, at every so manieth of the energies."""
    from pysptools.abundance_maps.amaps import FCLS
    from scipy.optimize import nnls

    energies = ENERGIES[::every]
    axis = (energies - energies.mean()) / np.ptp(energies)
    sigma = first_sigma((150, 200), "core-shell", 0) / np.sqrt(every)
    phantom = make_phantom((150, 200), n_states=n_states, seed=0)
    _, whole = stack_case(phantom, sigma, 0, stack_too=True)
    assert whole is not None
    stack, spectra = np.ascontiguousarray(whole[::every]), spectra_of(phantom, ENERGIES)[::every]
    free = np.zeros((len(energies), 0))
    if background == "linear":  # of either sign, so that SciPy takes each column twice
        free = np.column_stack([np.ones_like(axis), axis])
        stack += (0.2 + 0.1 * axis[:, None, None]).astype(np.float32)
    design = make_design(spectra, energies, np.full(len(energies), sigma), background=background)
    inside = np.flatnonzero(phantom.inside.ravel())
    chosen = inside[len(inside) // 2 :][:300]  # neighbours, which share lines of the cache
    flat = stack.reshape(len(stack), -1)
    pixels = np.ascontiguousarray(flat[:, chosen].T, dtype=np.float64)
    truth = phantom.abundances.reshape(n_states, -1)[:, chosen]
    columns = np.ascontiguousarray(np.hstack([spectra, free, -free]))

    mine = theirs = ready = np.inf
    for _ in range(20):  # in turns: what else the machine does meets all of them
        took, found = timed(lambda: invert(channels(stack, design, sigma), design.triangle)[0], 5)
        mine = min(mine, took / phantom.edge_jump.size)
        took, each = timed(lambda: np.stack([nnls(columns, flat[:, k])[0] for k in chosen], axis=1), 1)
        theirs = min(theirs, took / len(chosen))
        took, _ = timed(lambda: np.stack([nnls(columns, y)[0] for y in pixels], axis=1), 1)
        ready = min(ready, took / len(chosen))
    ours, fitted = found.reshape(n_states, -1)[:, chosen], split_scale(each[:n_states])[0]
    line = f"| {n_states} | {background} | {_rmse(ours, truth):.4f} | {1e6 * mine:.3f} "
    line += f"| {_rmse(fitted, truth):.4f} | {1e6 * theirs:.1f} | {1e6 * ready:.1f} "
    line += f"| {theirs / mine:.0f}×, {ready / mine:.0f}× "
    if background == "linear":  # FCLS knows neither background nor scale
        return line + "| | | |"
    scaled = pixels / phantom.edge_jump.ravel()[chosen][:, None]
    took, each = timed(lambda: FCLS(scaled, spectra.T.copy()), 1)
    theirs = took / len(chosen)
    return line + f"| {_rmse(each.T, truth):.4f} | {1e6 * theirs:.0f} | {theirs / mine:.0f}× |"


def _rmse(abundances: AnyArray, truth: AnyArray) -> float:
    return float(np.sqrt(np.mean((abundances - truth) ** 2)))


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
