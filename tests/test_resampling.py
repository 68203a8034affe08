"""Resampling: truth by Fourier shift, direction, masks, noise factor, filling, binning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from txm_stream.phantoms import fourier_shift
from txm_stream.resampling import (
    bin_image,
    field_after_shift,
    fill_invalid,
    kernel,
    shift_image,
    shift_mask,
    variance_factor,
)

RNG = np.random.default_rng(0)
SMOOTH = ndimage.gaussian_filter(RNG.standard_normal((96, 80)), 1.5, mode="wrap").astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(dy=st.floats(-6, 6), dx=st.floats(-6, 6))
def test_a_band_limited_image_is_moved_exactly(dy, dx):
    inner = (slice(12, -12), slice(12, -12))
    expected = fourier_shift(SMOOTH, (dy, dx))
    error = (shift_image(SMOOTH, (dy, dx)) - expected)[inner]
    assert np.sqrt(np.mean(error**2)) < 0.01 * SMOOTH.std()


def test_whole_pixels_are_moved_without_change_and_the_input_stays():
    image = RNG.standard_normal((40, 50)).astype(np.float32)
    kept = image.copy()
    moved = shift_image(image, (3, -2))
    np.testing.assert_allclose(moved[3:, :-2], image[:-3, 2:], atol=1e-6)
    np.testing.assert_array_equal(shift_image(image, (0, 0)), image)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9])
def test_kernel_keeps_constants_and_whole_pixels(fraction):
    assert kernel(fraction).sum() == pytest.approx(1)
    assert np.argmax(kernel(0.0)) == 3
    np.testing.assert_allclose(kernel(fraction), kernel(1 - fraction)[::-1], atol=1e-12)


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.3, 0.0), (-1.2, 2.7)])
def test_noise_factor_is_what_resampling_does_to_white_noise(shift):
    noise = RNG.standard_normal((300, 300)).astype(np.float32)
    moved = shift_image(noise, shift)[8:-8, 8:-8]
    assert variance_factor(shift) == pytest.approx(float(moved.var()), rel=0.02)
    assert 0.64 < variance_factor(shift) <= 1  # half a pixel on both axes: 0.655


def test_field_and_mask_follow_the_content():
    field = field_after_shift((40, 50), (5.0, -3.0))
    assert not field[:5].any()
    assert not field[:, -3:].any()
    assert field[5:, :47].all()  # moved by whole pixels nothing is interpolated
    assert field_after_shift((40, 50), (0.03, -0.03)).all()  # hundredths of a pixel take no row off
    half = field_after_shift((40, 50), (0.5, -0.5))
    assert half[2:-1, 1:-2].all()
    assert half.sum() == 37 * 47
    mask = np.ones((40, 50), dtype=bool)
    mask[20, 25] = False
    moved = shift_mask(mask, (2.5, -3.0))
    assert not moved[22, 22]
    assert not moved[23, 22]
    assert moved[21, 22]
    assert moved[24, 22]
    assert field_after_shift((40, 50), (0.0, 0.0)).all()


def test_outside_the_field_nothing_counts_as_measured():
    bright = np.zeros((60, 60), dtype=np.float32)
    bright[:, :3] = 100
    moved = shift_image(bright, (0.0, 8.0))
    field = field_after_shift((60, 60), (0.0, 8.0))
    assert not field[:, :8].any()
    assert np.abs(moved[:, 15:]).max() < 1


def test_invalid_pixels_are_bridged_by_their_neighbours():
    y, x = np.mgrid[:30, :30].astype(np.float32)
    mask = np.ones((30, 30), dtype=bool)
    mask[10:13, 10:13] = False
    image = np.where(mask, y + x, np.nan).astype(np.float32)
    filled = fill_invalid(image, mask)
    np.testing.assert_allclose(filled, y + x, atol=1.5)
    np.testing.assert_array_equal(filled[mask], image[mask])
    assert np.isfinite(fill_invalid(np.full((5, 5), np.nan, dtype=np.float32), np.zeros((5, 5), dtype=bool))).all()


def test_binning_averages_blocks():
    image = np.arange(35, dtype=np.float32).reshape(5, 7)
    np.testing.assert_allclose(bin_image(image, 2), [[4, 6, 8], [18, 20, 22]])
    np.testing.assert_array_equal(bin_image(image, 1), image)
