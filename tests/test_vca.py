"""Vertex component analysis: known spectra come back out of mixtures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.unmixing.simplex import enlarge_simplex
from txm_stream.unmixing.vca import vca, vca_references

ENERGIES = np.concatenate([np.arange(8250.0, 8330.0, 5.0), np.arange(8330.0, 8362.0, 1.0), np.arange(8365, 8460, 5.0)])
SHAPE = (48, 64)


def pure_spectra(energies_eV, n_states):
    x = np.asarray(energies_eV)[:, None] - (8342.0 + 2.5 * np.arange(n_states))
    white_line = np.array([0.9, 0.5, 0.3, 0.8])[:n_states]
    return 0.5 + np.arctan(x / 1.0) / np.pi + white_line * np.exp(-(((x - 5.0) / 2.5) ** 2))


def mixture(n_states, *, noise=0.0, seed=0):
    """Smooth abundances with pure spots, thickness, background [1, E]; stack (T, y, x), true spectra, abundances."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=SHAPE), 5) for _ in range(n_states)])
    weights = np.exp(3.5 * fields / fields.std())
    abundances = (weights / weights.sum(axis=0)).reshape(n_states, -1)
    scale = np.clip(gaussian_filter(rng.normal(size=SHAPE), 6) * 20, 0, None).ravel()
    scale = 0.2 + scale / scale.max()
    scale[: SHAPE[1] * 4] = 0.0
    truth = pure_spectra(ENERGIES, n_states)
    axis = (ENERGIES - 8345.0) / 100.0
    background = np.stack([np.ones_like(axis), axis], axis=1) @ (rng.uniform(0, 0.3, (2, scale.size)) * [[1.0], [-0.5]])
    stack = truth @ (abundances * scale) + background + noise * rng.normal(size=(len(ENERGIES), scale.size))
    return stack.reshape(-1, *SHAPE).astype(np.float32), truth, abundances


def truncate(stack, rank):
    u, s, vt = np.linalg.svd(stack.reshape(len(stack), -1), full_matrices=False)
    return u[:, :rank], (s[:rank, None] * vt[:rank]).reshape(rank, *stack.shape[1:])


@pytest.mark.parametrize("n_states", [2, 3, 4])
def test_pure_pixels_are_found_exactly(n_states):
    rng = np.random.default_rng(4)
    abundances = rng.dirichlet(np.ones(n_states), 500).T
    pure = rng.choice(500, n_states, replace=False)
    abundances[:, pure] = np.eye(n_states)
    truth = pure_spectra(ENERGIES, n_states)
    loadings, components = truncate((truth @ (abundances * rng.uniform(0.5, 2.0, 500)))[:, :, None], n_states)
    spectra, members = vca(loadings, components, n_states, rng=rng)
    assert sorted(int(m[0]) for m in members) == sorted(pure)
    cosines = (spectra / np.linalg.norm(spectra, axis=0)).T @ (truth / np.linalg.norm(truth, axis=0))
    np.testing.assert_allclose(cosines.max(axis=1), 1.0, atol=1e-9)


@pytest.mark.parametrize(("n_states", "noise"), [(2, 0.0), (2, 0.01), (3, 0.0), (3, 0.005)])
def test_references_come_out_of_a_stack(n_states, noise):
    stack, truth, abundances = mixture(n_states, noise=noise)
    assert abundances.max(axis=1).min() > 0.95
    if noise:
        loadings, components = truncate(stack, n_states + 2)
        stack = np.tensordot(loadings, components, 1)
    refs = vca_references(stack, ENERGIES, rng=np.random.default_rng(1))
    assert refs.names == tuple(f"state {j + 1}" for j in range(n_states))
    np.testing.assert_array_equal(refs.energies_eV, ENERGIES)
    error = np.sqrt(((refs.mu - truth) ** 2).mean(axis=0))
    assert error.max() < 0.06 + 8 * noise, error


def test_outliers_do_not_become_states():
    stack, truth, _ = mixture(2)
    rng = np.random.default_rng(2)
    for _ in range(5):
        stack[:, rng.integers(5, SHAPE[0]), rng.integers(SHAPE[1])] += rng.normal(0, 0.3, len(ENERGIES))
    refs = vca_references(stack, ENERGIES, n_states=2, rng=rng)
    assert np.sqrt(((refs.mu - truth) ** 2).mean(axis=0)).max() < 0.08


def test_a_trail_of_pixels_thrown_out_by_noise_is_no_vertex():
    """Two in a thousand pixels trail away from the third state, further out than any pure one; so does noise."""
    rng = np.random.default_rng(5)
    truth = pure_spectra(ENERGIES, 3)
    share = np.clip(rng.uniform(-0.1, 1.1, 20_000), 0, 1)
    side = rng.integers(0, 2, share.size)
    abundances = np.zeros((3, share.size))
    abundances[2], abundances[side, np.arange(share.size)] = share, 1 - share
    abundances += 0.03 * rng.standard_normal(abundances.shape)
    trail = rng.choice(share.size, 40, replace=False)
    abundances[:, trail] = np.array([0.35, -0.55, 1.2])[:, None] + 0.1 * rng.standard_normal((3, trail.size))
    abundances /= abundances.sum(axis=0)
    loadings, components = truncate((truth @ abundances)[:, :, None], 3)
    spectra, members = vca(loadings, components, 3, rng=rng, nearest=0.005)
    found = np.stack([abundances[:, m].mean(axis=1) for m in members])
    nearest = np.abs(found[:, None] - np.eye(3)).max(axis=2).min(axis=1)
    assert nearest.max() < 0.1, found
    np.testing.assert_allclose(spectra, truth @ found.T, atol=1e-6)


def test_order_repeats_mask_and_missing_pixels():
    stack, truth, _ = mixture(2)
    stack[3, :, :6] = np.nan
    stack[:, :, -6:] *= 5.0 * np.random.default_rng(0).random((len(ENERGIES), 1, 6))
    mask = np.ones(SHAPE, bool)
    mask[:, -6:] = False
    order = np.random.default_rng(1).permutation([*range(len(ENERGIES)), 20, 21])
    refs = vca_references(stack[order], ENERGIES[order], mask=mask, rng=np.random.default_rng(0))
    assert len(refs.names) == 2
    np.testing.assert_array_equal(refs.energies_eV, ENERGIES)
    assert np.sqrt(((refs.mu - truth) ** 2).mean(axis=0)).max() < 0.06


def test_peaks_without_a_step_are_normalised_to_their_maximum():
    energies = np.linspace(700.0, 730.0, 120)
    peaks = np.exp(-(((energies[:, None] - np.array([708.0, 709.8])) / 1.0) ** 2))
    rng = np.random.default_rng(0)
    share = np.clip(np.linspace(-0.2, 1.2, 3000), 0, 1)
    stack = (0.3 * peaks) @ np.stack([share, 1 - share]) * rng.uniform(0.5, 1.5, 3000) + 0.2
    refs = vca_references(stack.reshape(120, 50, 60), energies, n_states=2, rng=rng)
    np.testing.assert_allclose(refs.mu.max(axis=0), 1.0)
    np.testing.assert_allclose(refs.mu, peaks, atol=0.03)


def test_the_same_seed_gives_the_same_answer():
    stack, _, _ = mixture(3)
    first, second = (vca_references(stack, ENERGIES, rng=np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first.mu, second.mu)


def test_stacks_without_chemistry_are_refused():
    with pytest.raises(BadReferenceError, match="background"):
        vca_references(np.zeros((20, 9, 9)), np.linspace(8300, 8400, 20), rng=np.random.default_rng(0))
    with pytest.raises(BadStackError, match="5 energies"):
        vca_references(np.zeros((4, 9, 9)), np.arange(5.0), rng=np.random.default_rng(0))
    with pytest.raises(BadStackError, match="at least 6"):
        vca_references(np.zeros((4, 9, 9)), np.arange(4.0), rng=np.random.default_rng(0))
    with pytest.raises(BadReferenceError, match="3 states from 2 components"):
        vca(np.eye(5)[:, :2], np.ones((2, 9)), 3, rng=np.random.default_rng(0))


@pytest.mark.skipif(
    not (Path(__file__).resolve().parents[1] / "../shared/data").is_dir(), reason="measured data are not here"
)
def test_measured_iron_l_edge():
    """Ferrous (708 eV) and ferric (709.9 eV) iron in hydrothermal particles."""
    from txm_stream.io import read_stack

    measured = read_stack(Path(__file__).resolve().parents[1] / "../shared/data/als11022_stxm_Fe_L23_71214078.h5")
    loadings, components = truncate(-np.log(measured.frames), 6)
    stack = np.tensordot(loadings, components, 1)
    refs = vca_references(stack, measured.energies_eV, n_states=2, rng=np.random.default_rng(0))
    peaks = refs.energies_eV[refs.mu.argmax(axis=0)]
    np.testing.assert_allclose(peaks, [708.0, 709.9], atol=0.4)
    assert len(vca_references(stack, measured.energies_eV, rng=np.random.default_rng(0)).names) >= 2


def test_the_simplex_grows_until_no_exchange_helps():
    rng = np.random.default_rng(3)
    points = np.concatenate([np.ones((1, 40)), rng.standard_normal((2, 40))])

    def volume(vertices):
        return abs(np.linalg.det(points[:, list(vertices)]))

    best = max(volume(trio) for trio in combinations(range(40), 3))
    for start in ([0, 1, 2], [5, 9, 30], [39, 17, 3]):
        grown = enlarge_simplex(points, start)
        assert volume(grown) >= volume(start)
        assert volume(grown) > 0.9 * best
        for k in range(3):
            exchanged = [[*grown[:k], other, *grown[k + 1 :]] for other in range(40)]
            assert max(volume(trio) for trio in exchanged) <= volume(grown) * (1 + 1e-6)
