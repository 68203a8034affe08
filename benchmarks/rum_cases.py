"""Phantoms seen through white channels, and the estimators that are compared on them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.metrics import structural_similarity

from txm_stream.arrays import AnyArray, Image, Matrix, Stack
from txm_stream.denoising import load_denoiser
from txm_stream.phantoms import Phantom, make_phantom
from txm_stream.phantoms.particles import Chemistry
from txm_stream.subspace.projection import add_weighted
from txm_stream.unmixing import load_references, rum_tv
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.one_pass import Maps, invert, unmix_channels
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

    def figures(self, abundances: AnyArray) -> tuple[float, float, float, float]:
        """Return PSNR, the paper's PSNR (MAX = the largest estimate), SSIM and RMSE of abundances inside the particles.

        SSIM is the mean over states and pixels inside; outside, where there is nothing to estimate, the truth stands.
        """
        inside = self.phantom.inside
        filled = np.where(np.isfinite(abundances), abundances, 1 / len(self.truth))
        filled = np.where(inside, filled, self.truth)
        alike = [
            structural_similarity(x, truth, data_range=1.0, full=True)[1][inside].mean()
            for x, truth in zip(filled, self.truth.astype(filled.dtype), strict=True)
        ]
        psnr = self.psnr(abundances)
        papers = psnr + 20 * np.log10(filled[:, inside].max())
        return psnr, float(papers), float(np.mean(alike)), 10 ** (-psnr / 20)


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
    white = np.zeros((design.n_states, *stack.shape[1:]), dtype=np.float32)
    add_weighted(design.channels / sigma, stack, white)
    return white


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
