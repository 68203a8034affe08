"""The compiled loops give what plain implementations give, however their rows are split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from txm_stream.denoising.tv import _on_device, total_variation
from txm_stream.denoising.tv_loops import step
from txm_stream.errors import BadReferenceError
from txm_stream.row_threads import over_rows
from txm_stream.subspace.projection import add_weighted
from txm_stream.subspace.projection_loop import add
from txm_stream.unmixing.least_squares import nonnegative
from txm_stream.unmixing.nonnegative_loop import MAX_STATES, fit


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (33, 40), (300, 301)])
@pytest.mark.parametrize("iterations", [0, 1, 2, 25])
def test_total_variation_is_that_of_the_plain_steps(shape, iterations):
    image = (5 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    plain = _on_device(image, 0.9, iterations, device="cpu")
    np.testing.assert_allclose(total_variation(image, 0.9, iterations)[0], plain, atol=2e-5)


def test_total_variation_goes_on_from_a_dual_solution():
    image = (5 * np.random.default_rng(1).standard_normal((64, 80))).astype(np.float32)
    solution, dual = total_variation(image, 0.9, 400)
    again, _ = total_variation(image, 0.9, 2, dual=dual)
    np.testing.assert_allclose(again, solution, atol=1e-3)
    assert np.abs(total_variation(image, 0.9, 2)[0] - solution).max() > 0.1


def test_rows_may_be_split_anywhere():
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((40, 33)).astype(np.float32) for _ in range(5)]

    def steps(*cuts):
        out = [np.full((40, 33), np.nan, np.float32) for _ in range(2)]
        for first, last in zip((0, *cuts), (*cuts, 40), strict=True):
            step(*arrays, *out, np.float32(0.4), first, last)
        return out

    for cuts in ((1,), (39,), (13, 14, 30)):
        np.testing.assert_array_equal(steps(*cuts), steps())


def test_large_images_are_split_and_errors_come_through():
    seen = []
    over_rows(lambda first, last: seen.append((first, last)), (1000, 1000))
    assert sorted(first for first, _ in seen)[0] == 0
    assert sum(last - first for first, last in seen) == 1000
    with pytest.raises(ZeroDivisionError):
        over_rows(lambda first, last: 1 / 0, (1000, 1000))


@settings(max_examples=60, deadline=None)
@given(
    n_states=st.integers(1, MAX_STATES),
    seed=st.integers(0, 2**32 - 1),
    alike=st.floats(0, 0.99),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_nonnegative_is_that_of_scipy(n_states, seed, alike, kind):
    rng = np.random.default_rng(seed)
    references = alike + (1 - alike) * rng.standard_normal((20, n_states))
    triangle = np.linalg.qr(references)[1]
    white = rng.standard_normal((n_states, 30)).astype(kind)
    found = nonnegative(white, triangle)
    assert found.dtype == kind
    assert (found >= 0).all()
    for pixel in range(white.shape[1]):
        best = nnls(triangle, white[:, pixel].astype(np.float64))[1]
        residual = np.linalg.norm(white[:, pixel] - triangle @ found[:, pixel].astype(np.float64))
        assert residual == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_pixels_that_fit_several_supports_alike_are_settled():
    """States that are the same, states of zero, and channels exactly on the border."""
    triangle = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    white = np.array([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    out = nonnegative(white, triangle)
    for pixel in range(4):
        best = nnls(triangle, white[:, pixel])[1]
        assert np.linalg.norm(white[:, pixel] - triangle @ out[:, pixel]) == pytest.approx(best, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 998))
def test_nonnegative_is_bitwise_equal_however_pixels_are_split(cut):
    rng = np.random.default_rng(3)
    triangle, white = rng.standard_normal((3, 3)), rng.standard_normal((3, 999)).astype(np.float32)
    table = np.zeros((8, MAX_STATES, MAX_STATES))
    table[:, :3, :3] = rng.standard_normal((8, 3, 3))
    where = rng.random(999) < 0.7
    whole, split = np.full_like(white, -1.0), np.full_like(white, -1.0)
    fit(white, triangle, table, where, whole, 0, 999)
    fit(white, triangle, table, where, split, 0, cut)
    fit(white, triangle, table, where, split, cut, 999)
    np.testing.assert_array_equal(whole, split)
    np.testing.assert_array_equal(whole[:, ~where], -1.0)


def test_pixels_that_are_not_finite_or_not_wanted_are_zero():
    white = np.array([[1.0, np.nan, np.inf, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found = nonnegative(white, np.eye(2), where=np.array([True, True, True, False]))
    np.testing.assert_array_equal(found, [[1, 0, 0, 0], [1, 0, 0, 0]])
    with pytest.raises(BadReferenceError, match="up to 6 states, got 7"):
        nonnegative(np.zeros((7, 1)), np.eye(7))


@pytest.mark.parametrize("n_frames", [1, 7, 8, 19])
@pytest.mark.parametrize("n_sums", [1, 2, 4, 7])
def test_weighted_sums_are_added(n_frames, n_sums):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((n_frames, 90, 101)).astype(np.float32)
    basis = rng.standard_normal((n_frames, n_sums))
    sums = rng.standard_normal((n_sums, 90, 101)).astype(np.float32)
    expected = sums + np.tensordot(basis.T, frames.astype(np.float64), axes=1)
    add_weighted(basis, frames, sums)
    np.testing.assert_allclose(sums, expected, atol=5e-6)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 19_999))
def test_weighted_sums_are_bitwise_equal_however_pixels_are_split(cut):
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((19, 20_000)).astype(np.float32)
    weights = rng.standard_normal((7, 19)).astype(np.float32)
    whole, split = np.zeros((7, 20_000), np.float32), np.zeros((7, 20_000), np.float32)
    add(weights, frames, whole, 0, 20_000)
    add(weights, frames, split, 0, cut)
    add(weights, frames, split, cut, 20_000)
    np.testing.assert_array_equal(whole, split)
