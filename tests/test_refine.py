"""Rank and vectors from spectra that are smooth in energy; the refined subspace is nearer to the truth and says so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from txm_stream import denoise_stack
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.subspace.gram import SmoothedGram
from txm_stream.subspace.rank import leading_basis, parallel_analysis
from txm_stream.subspace.refine import refine_basis, smooth_loads

VISITS = 96


@pytest.fixture(scope="module")
def noisy():
    """Clean and noisy stack, energies, and σ: so much noise that the subspace is most of the error."""
    phantom = make_phantom((96, 112), seed=0)
    energies = nickel_energies(VISITS)
    clean = phantom.stack(energies)
    sigma = 0.4 * float(np.ptp(clean))
    stack = clean + np.float32(sigma) * np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    return clean, stack, energies, sigma


def error(found, clean) -> float:
    return float(np.mean((found.stack - clean) ** 2))


def test_smooth_loads_lose_noise_and_rough_ones_keep_what_they_have():
    rng = np.random.default_rng(0)
    smooth = 12 * np.sin(np.linspace(0, 6, 200))[:, None]
    rough = 12 * rng.standard_normal((200, 1))
    for truth, most, least in ((smooth, 0.25, 0.0), (rough, 1.05, 0.9)):
        mse, freedom = [], []
        for _ in range(20):
            out, left = smooth_loads(truth + rng.standard_normal(truth.shape))
            mse.append(min(np.mean((out - truth) ** 2), np.mean((out + truth) ** 2)))
            freedom.append(left)
        print(f"mse {np.mean(mse):.3f}, said {np.mean(freedom):.3f}")
        assert least < np.mean(mse) < most
        assert 0.6 < np.mean(freedom) / np.mean(mse) < 1.7


def test_subspace_is_nearer_to_the_truth_and_the_risk_says_so(noisy):
    clean, stack, energies, sigma = noisy
    found = denoise_stack(stack, energies_eV=energies, denoiser="tv", rank=3)
    flat = clean.reshape(VISITS, -1)
    vectors = np.linalg.svd(flat, full_matrices=False)[0][:, :3]
    raw = np.linalg.svd(stack.reshape(VISITS, -1), full_matrices=False)[0][:, :3]
    mine = np.linalg.svd(found.loadings, full_matrices=False)[0]
    miss = [float(np.sum((vectors - v @ (v.T @ vectors)) ** 2)) for v in (mine, raw)]
    print(f"missed of the true subspace: {miss[0]:.3f}, SVD of the raw stack {miss[1]:.3f}")
    assert miss[0] < 0.5 * miss[1]
    assert 0.7 < found.risk / error(found, clean) < 1.4
    assert found.sigma == pytest.approx(sigma, rel=0.01)


def test_order_of_the_frames_does_not_matter_if_their_energies_are_given(noisy):
    clean, stack, energies, _ = noisy
    order = np.random.default_rng(1).permutation(VISITS)
    straight = denoise_stack(stack, energies_eV=energies, denoiser="tv", rank=3)
    mixed = denoise_stack(stack[order], energies_eV=energies[order], denoiser="tv", rank=3)
    np.testing.assert_allclose(mixed.stack, straight.stack[order], atol=0.02 * straight.sigma)
    unknown = denoise_stack(stack[order], denoiser="tv", rank=3)
    assert error(straight, clean) < error(unknown, clean[order])


def test_visits_without_weight_stay_out_and_few_visits_change_nothing(noisy):
    _, stack, energies, sigma = noisy
    white = stack / np.float32(sigma)
    basis = np.linalg.svd(white.reshape(VISITS, -1), full_matrices=False)[0][:, :2]
    basis[7] = 0
    images = np.tensordot(basis.T.astype(np.float32), white, axes=1)
    field = np.ones(images.shape[1:], dtype=bool)
    refined = refine_basis(lambda t: white[t], basis, images, field, energies_eV=energies, noise=1.0)
    assert not refined.basis[7].any()
    np.testing.assert_allclose(refined.basis.T @ refined.basis, np.eye(2), atol=1e-6)
    assert 0 < refined.freedom <= 2
    few = refine_basis(lambda t: white[t], basis[:6], images, field, energies_eV=None, noise=1.0)
    np.testing.assert_array_equal(few.basis, basis[:6])


def spectrum_of(stack, sigma):
    gram = SmoothedGram(stack.shape[1:])
    for t, frame in enumerate(stack):
        gram.partial_fit(t, frame, np.ones(frame.shape, dtype=bool), sigma)
    return gram.spectrum()


def hidden_component(strength, temporal, seed=0, shape=(96, 112)):
    """Return a stack in unit noise with a strong smooth component and one of ``strength`` that runs as ``temporal``."""
    rng = np.random.default_rng(seed)
    first, second = (ndimage.gaussian_filter(rng.standard_normal(shape), 4, mode="wrap") for _ in range(2))
    stack = rng.standard_normal((VISITS, *shape))
    stack += 50 * np.linspace(0.5, 1, VISITS)[:, None, None] * first / first.std()
    return (stack + strength * temporal[:, None, None] * second / second.std()).astype(np.float32)


def test_a_component_that_parallel_analysis_misses_is_found_if_it_is_smooth_in_energy():
    wave = np.sin(np.linspace(0, 5, VISITS))
    everything = np.ones(VISITS, dtype=bool)
    found, plain, false = 0, 0, 0
    for seed in range(12):
        spectrum = spectrum_of(hidden_component(0.017, wave, seed), 1.0)
        basis = leading_basis(spectrum, 1.0, everything, at_least=1)
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)
        found += basis.shape[1] == 2
        plain += parallel_analysis(spectrum, 1.0, at_least=1) == 2
        spectrum = spectrum_of(hidden_component(0.0, wave, seed), 1.0)
        false += leading_basis(spectrum, 1.0, everything, at_least=1).shape[1] > 1
    print(f"of 12: found {found}, by parallel analysis of the full spectrum {plain}, false {false}")
    assert found >= plain + 4
    assert false <= 2  # one in six is expected


def test_a_component_that_is_rough_in_energy_counts_where_it_is_clear():
    everything = np.ones(VISITS, dtype=bool)
    single = np.zeros(VISITS)
    single[31] = 1
    basis = leading_basis(spectrum_of(hidden_component(5.0, single), 1.0), 1.0, everything, at_least=1)
    assert 2 <= basis.shape[1] <= 3  # its smooth part may count once more
    assert np.linalg.norm(basis[31]) > 0.9


def test_visits_may_come_in_any_order_and_rejected_ones_stay_out():
    wave = np.sin(np.linspace(0, 5, VISITS))
    stack = hidden_component(0.4, wave)
    order = np.random.default_rng(3).permutation(VISITS)
    energies = nickel_energies(VISITS)
    keep = np.ones(VISITS, dtype=bool)
    straight = leading_basis(spectrum_of(stack, 1.0), 1.0, keep, energies_eV=energies)
    mixed = leading_basis(spectrum_of(stack[order], 1.0), 1.0, keep, energies_eV=energies[order])
    np.testing.assert_allclose(np.abs(straight[order].T @ mixed), np.eye(2), atol=0.02)
    keep[5] = False
    stack[5] = 0
    basis = leading_basis(spectrum_of(stack, 1.0), 1.0, keep, energies_eV=energies)
    assert not basis[5].any()
    few = leading_basis(spectrum_of(stack[:10], 1.0), 1.0, keep[:10], at_least=2)
    assert few.shape == (10, 2)
    assert leading_basis(spectrum_of(stack[:1], 1.0), 1.0, keep[:1]).shape == (1, 1)
