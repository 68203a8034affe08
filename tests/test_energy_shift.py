"""The energy shift of a scan is read off its signal, whatever the noise does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from txm_stream.phantoms import make_phantom, nickel_states
from txm_stream.resampling import shift_image
from txm_stream.subspace.scatter import signal_scatter
from txm_stream.unmixing.energy_shift import fit_energy_shift
from txm_stream.unmixing.references import References

GRID = np.arange(8150.0, 8850.0, 0.25)
SPECTRA = nickel_states(2)
REFERENCES = References(SPECTRA.names, GRID, SPECTRA(GRID))
ENERGIES = np.array([8212.0, *[8341.0] * 2, 8345.0, *[8346.0] * 8, 8349.5, *[8351.0] * 8, 8512.0, 8777.0])
SHIFT_EV = 0.13


def measured(rng, *, noise):
    """Return whitened visits (T, y, x) whose noise is up to 30 % off what they are whitened by, and their inside."""
    phantom = make_phantom((160, 160), n_states=2, chemistry="core-shell", seed=3)
    stack = np.tensordot(REFERENCES.at(ENERGIES, shift_eV=SHIFT_EV), phantom.edge_jump * phantom.abundances, axes=1)
    told = noise * rng.uniform(0.7, 1.3, len(ENERGIES))
    flat = {energy: rng.standard_normal(phantom.shape) for energy in set(ENERGIES)}
    for image, energy in zip(stack, ENERGIES, strict=True):
        seen = rng.standard_normal(phantom.shape) + 0.3 * flat[energy]  # visits of an energy share a flat
        image += noise * shift_image(seen.astype(np.float32), rng.uniform(-0.5, 0.5, 2), 1.0)
    stack[~np.isfinite(stack)] = 0.0
    return (stack / told[:, None, None]).astype(np.float32), told, phantom.inside


def fitted(white, told, scatter):
    return fit_energy_shift(REFERENCES, ENERGIES, told, lambda d: scatter(np.tensordot(d.T, white, axes=1)))


def test_noise_that_differs_between_visits_does_not_pull_the_shift():
    near, squares = [], []
    for seed in range(4):
        white, told, inside = measured(np.random.default_rng(seed), noise=0.15)
        near.append(fitted(white, told, lambda images, at=inside: signal_scatter(images, at)) - SHIFT_EV)
        squares.append(fitted(white, told, lambda images, at=inside: images[:, at] @ images[:, at].T) - SHIFT_EV)
    rms, of_squares = (float(np.sqrt(np.mean(np.square(errors)))) for errors in (near, squares))
    assert rms < 0.08
    assert of_squares > 2 * rms  # the reason why neighbours are multiplied, not pixels with themselves


def test_scatter_of_noise_is_nothing_and_that_of_the_signal_its_own():
    rng = np.random.default_rng(0)
    inside = np.zeros((120, 140), dtype=bool)
    inside[10:110, 20:120] = True
    noise = rng.standard_normal((3, 120, 140)).astype(np.float32) * np.array([1, 2, 3], dtype=np.float32)[:, None, None]
    count = signal_scatter(np.ones((1, 120, 140), dtype=np.float32), inside)[0, 0]
    assert count == pytest.approx(56 * inside.sum(), rel=0.1)  # 9² − 5² neighbours, fewer at the rim
    assert np.abs(signal_scatter(noise, inside)).max() < 5 * 9 * np.sqrt(count * 2)
    amounts = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    flat = signal_scatter(amounts[:, None, None] * np.ones((3, 120, 140), dtype=np.float32), inside)
    np.testing.assert_allclose(flat, count * np.outer(amounts, amounts), rtol=1e-5)


def test_large_images_are_summed_in_strips():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 600, 40)).astype(np.float32)
    inside = rng.random((600, 40)) < 0.7
    seen = np.where(inside, images, 0.0).astype(np.float64)
    around = np.zeros_like(seen)
    for down, across in itertools.product(range(-4, 5), repeat=2):
        if max(abs(down), abs(across)) > 2:
            padded = np.pad(seen, ((0, 0), (4, 4), (4, 4)))
            around += padded[:, 4 + down : 604 + down, 4 + across : 44 + across]
    expected = np.tensordot(seen, around, axes=([1, 2], [1, 2]))
    np.testing.assert_allclose(signal_scatter(images, inside), 0.5 * (expected + expected.T), rtol=1e-4, atol=1.0)


def test_pixels_outside_and_nan_there_say_nothing():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 64, 64)).astype(np.float32)
    inside = np.zeros((64, 64), dtype=bool)
    inside[20:40, 20:40] = True
    hidden = np.where(inside, images, np.float32(np.nan))
    np.testing.assert_array_equal(signal_scatter(images, inside), signal_scatter(hidden, inside))


def test_without_signal_no_shift():
    assert fit_energy_shift(REFERENCES, ENERGIES, np.full(len(ENERGIES), 0.1), lambda d: -np.eye(d.shape[1])) == 0
