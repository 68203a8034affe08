"""Optical density: Poisson truth, gain measurement, bad pixels, errors."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.errors import BadFrameError, BadStackError, NoFlatError
from txm_stream.optical_density import bad_pixels, counts_above_dark, electrons_per_adu, optical_density

GAIN, READ, DARK = 0.5, 2.0, 100.0


def exposure(mean_electrons, shape, rng, repeats=None):
    shape = shape if repeats is None else (repeats, *shape)
    return DARK + rng.poisson(mean_electrons, shape) / GAIN + READ * rng.standard_normal(shape)


@pytest.mark.parametrize("transmission", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("photons", [200, 2000])
def test_value_and_variance_are_those_of_poisson_counts(photons, transmission):
    rng = np.random.default_rng(0)
    shape = (300, 300)
    sample = exposure(0.6 * photons * transmission, shape, rng)
    flat = exposure(photons, shape, rng)
    out = optical_density(
        sample, flat, DARK, exposure_s=0.3, flat_exposure_s=0.5, electrons_per_adu=GAIN, read_noise_adu=READ
    )
    assert out.mask.all()
    truth = -np.log(transmission)
    spread = float(out.image.std())
    assert float(out.image.mean()) == pytest.approx(truth, abs=max(0.02 * spread, 6 * spread / 300))
    assert float(out.variance.mean()) == pytest.approx(spread**2, rel=0.06 if photons * transmission > 100 else 0.15)


def test_the_bias_of_the_logarithm_is_removed():
    rng = np.random.default_rng(1)
    sample = rng.poisson(40, (500, 500)).astype(float)
    out = optical_density(sample, np.full((500, 500), 1e6), saturation_adu=np.inf)
    plain = -np.log(sample / 1e6)
    truth = -np.log(40 / 1e6)
    assert abs(plain.mean() - truth) > 0.01
    assert abs(out.image.mean() - truth) < 0.003


def test_pixels_that_say_nothing_are_nan():
    flat = np.full((40, 40), 1000.0)
    sample = np.full((40, 40), 500.0)
    sample[1, 1], sample[2, 2], sample[3, 3] = np.nan, 0.0, 65535.0
    flat[4, 4], flat[5, 5] = 0.0, np.inf
    out = optical_density(sample, flat)
    wrong = np.eye(40, dtype=bool) & (np.arange(40) >= 1) & (np.arange(40) <= 5)
    np.testing.assert_array_equal(out.mask, ~wrong)
    assert np.isnan(out.image[wrong]).all()
    assert np.isnan(out.variance[wrong]).all()
    np.testing.assert_allclose(out.image[~wrong], np.log(2), atol=1e-3)
    assert out.image.dtype == np.float32


def test_a_flat_serves_a_whole_stack():
    stack = np.stack([np.full((40, 40), 500.0), np.full((40, 40), 250.0)])
    out = optical_density(stack, np.full((40, 40), 1000.0))
    np.testing.assert_allclose(out.image.mean(axis=(1, 2)), np.log([2, 4]), atol=2e-3)


def test_missing_or_unfitting_flats_are_one_clear_line():
    with pytest.raises(NoFlatError, match="needs a flat field"):
        optical_density(np.ones((4, 4)), None)
    with pytest.raises(BadStackError, match="must agree"):
        optical_density(np.ones((4, 4)), np.ones((4, 5)))
    with pytest.raises(BadFrameError, match="camera ROI"):
        counts_above_dark(np.ones((4, 4)), np.ones((5, 4), np.float32), None, exposure_s=1, saturation_adu=9)
    with pytest.raises(BadFrameError, match="expected numbers"):
        counts_above_dark(np.array([["a"]]), None, None, exposure_s=1, saturation_adu=9)


@pytest.mark.parametrize("flicker", [1.0, 1.3])
def test_gain_is_measured_from_two_repeats_of_a_scene(flicker):
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:256, :256] / 60
    scene = 800 * (1.2 + np.sin(x) * np.cos(y))
    repeats = np.stack([exposure(scene, scene.shape, rng), exposure(flicker * scene, scene.shape, rng)])
    repeats[:, 10:14, 10:14] = 65535  # a hot patch
    assert electrons_per_adu(repeats, DARK, READ) == pytest.approx(GAIN, rel=0.05)


def test_gain_is_unknown_where_repeats_cannot_tell():
    assert electrons_per_adu(np.ones((1, 64, 64)), 0.0, 0.0) is None
    assert electrons_per_adu(np.ones((2, 64, 64)), 0.0, 0.0) is None
    assert electrons_per_adu(np.ones((2, 20, 20)), 0.0, 0.0) is None
    assert electrons_per_adu(np.ones((64, 64)), 0.0, 0.0) is None


def test_hot_and_dead_pixels_are_found():
    rng = np.random.default_rng(3)
    dark = (DARK + rng.standard_normal((64, 64))).astype(np.float32)
    dark[5, 6] += 200
    flat = exposure(2000, (64, 64), rng).astype(np.float32)
    flat[20, 30] = DARK + 3
    counts = counts_above_dark(flat, dark, None, exposure_s=1.0, saturation_adu=np.inf)
    bad = bad_pixels(dark, counts)
    assert bad is not None
    assert bad[5, 6]
    assert bad[20, 30]
    assert bad.sum() < 6
    assert bad_pixels(None, None) is None
    assert not counts_above_dark(flat, dark, bad, exposure_s=1.0, saturation_adu=np.inf).mask[5, 6]


def test_repeats_are_averaged_and_saturation_in_one_counts():
    image = np.stack([np.full((8, 8), 10.0), np.full((8, 8), 14.0)])
    image[1, 2, 3] = 70000
    counts = counts_above_dark(image, None, None, exposure_s=0.2, saturation_adu=65535)
    assert counts.repeats == 2
    assert counts.counts[0, 0] == 12
    assert not counts.mask[2, 3]
