"""Few quanta per pixel: the linearised density is unbiased, empty pixels are data, and the denoised stack is nearer."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream import denoise_counts, denoise_stack
from txm_stream.errors import BadStackError
from txm_stream.optical_density import CountsImage, working_density
from txm_stream.phantoms import make_phantom, nickel_energies

SHAPE, VISITS = (96, 112), 48


@pytest.fixture(scope="module")
def scene():
    """Clean optical density (T, y, x) and its energies."""
    energies = nickel_energies(VISITS)
    return make_phantom(SHAPE, seed=1).stack(energies), energies


def counts_of(clean, photons, seed=0, gain=1.0):
    return np.random.default_rng(seed).poisson(photons * np.exp(-clean)).astype(np.float32) / np.float32(gain)


def rms(a, b):
    return float(np.sqrt(np.nanmean((a - b) ** 2)))


@pytest.mark.parametrize("photons", [3, 20])
@pytest.mark.parametrize("repeats", [1, 4])
def test_linearised_density_is_unbiased_with_known_variance(photons, repeats):
    truth, wrong = 0.7, 0.05
    rng = np.random.default_rng(0)
    shape = (400, 500)
    image = rng.poisson(repeats * photons * np.exp(-truth), shape) / repeats / 2.0 + 10  # 2 quanta per ADU, dark 10
    sample = CountsImage(np.asarray(image - 10, dtype=np.float32), np.ones(shape, dtype=bool), repeats, 1.0)
    flat = CountsImage(np.full(shape, photons / 2.0, dtype=np.float32), np.ones(shape, dtype=bool), 1e9, 1.0)
    predicted = np.full(shape, truth + wrong, dtype=np.float32)
    found = working_density(sample, flat, predicted, electrons_per_adu=2.0, read_noise_adu=0.0)
    assert found.mask.all()
    assert found.image.mean() == pytest.approx(truth, abs=0.6 * wrong**2 + 4 * found.image.std() / np.sqrt(2e5))
    assert found.variance.mean() == pytest.approx(float(found.image.var()), rel=0.08)


def test_exposures_and_noisy_flats_are_taken_into_account():
    rng = np.random.default_rng(1)
    shape = (500, 500)
    flat = rng.poisson(40.0, shape).astype(np.float32)
    sample = rng.poisson(40.0 * 3 * np.exp(-0.5), shape).astype(np.float32)
    everywhere = np.ones(shape, dtype=bool)
    found = working_density(
        CountsImage(sample, everywhere, 1, 0.3),
        CountsImage(flat, everywhere, 1, 0.1),
        np.full(shape, 0.5, dtype=np.float32),
        electrons_per_adu=1.0,
        read_noise_adu=0.0,
    )
    assert found.image.mean() == pytest.approx(0.5, abs=0.005)
    assert found.variance.mean() == pytest.approx(float(found.image.var()), rel=0.1)


@pytest.mark.parametrize(("photons", "at_most"), [(20, 0.6), (50, 0.65), (200, 0.9)])
def test_denoised_counts_are_nearer_than_the_denoised_logarithm(scene, photons, at_most):
    clean, energies = scene
    counts = counts_of(clean, photons)
    flat = np.full(SHAPE, photons, dtype=np.float32)
    plain = denoise_stack(np.log(photons / np.maximum(counts, 0.5)), energies_eV=energies)
    found = denoise_counts(counts, flat, energies_eV=energies, flat_repeats=1e9)
    ratio = rms(found.stack, clean) / rms(plain.stack, clean)
    print(f"{photons} photons: {rms(found.stack, clean):.4f} OD, {ratio:.2f} of plain, {found.risk**0.5:.4f} predicted")
    assert ratio < at_most
    assert abs(np.mean(found.stack - clean)) < 0.25 * abs(np.mean(plain.stack - clean))
    assert 0.7 < found.risk**0.5 / rms(found.stack, clean) < 1.3


def test_gain_dark_and_bad_pixels(scene):
    clean, energies = scene
    flat = np.full(SHAPE, 100.0, dtype=np.float32)
    plain = denoise_counts(counts_of(clean, 100), flat, energies_eV=energies, flat_repeats=1e9, denoiser="tv")
    holed = counts_of(clean, 100) / 4 + 7
    holed[3, 5, 5] = np.nan
    other = denoise_counts(
        holed, flat / 4 + 7, 7.0, energies_eV=energies, electrons_per_adu=4.0, flat_repeats=1e9, denoiser="tv"
    )
    assert np.isfinite(other.stack).all()
    assert rms(other.stack, plain.stack) < 0.1 * rms(plain.stack, clean)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"counts": np.ones(SHAPE)}, "expected"),
        ({"flat": np.ones((4, 4))}, "expected"),
        ({"electrons_per_adu": 0.0}, "positive"),
        ({"flat_repeats": -1.0}, "positive"),
    ],
)
def test_bad_input_gives_one_clear_error(arguments, says):
    given = {"counts": np.ones((4, *SHAPE)), "flat": np.ones(SHAPE), **arguments}
    with pytest.raises(BadStackError, match=says):
        denoise_counts(given.pop("counts"), given.pop("flat"), **given)
