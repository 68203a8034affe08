"""Incremental SVD: any split of the frames gives the batch answer, and the bound on the error is the error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txm_stream.errors import BadStackError
from txm_stream.subspace import IncrementalSVD

SHAPE = (24, 31)


def low_rank_stack(frames, rank, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    stack = rng.standard_normal((frames, rank)) * 3.0 ** -np.arange(rank) @ rng.standard_normal((rank, 24 * 31))
    return (stack + noise * rng.standard_normal(stack.shape)).reshape(frames, *SHAPE).astype(np.float32)


def fitted(stack, **options):
    svd = IncrementalSVD(SHAPE, **options)
    for frame in stack:
        svd.partial_fit(frame)
    return svd


def rebuilt(svd):
    return np.tensordot(svd.loadings * svd.singular_values, svd.components, axes=1)


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(1, 40), rank=st.integers(1, 5), block=st.integers(1, 12), looks=st.sets(st.integers(0, 39)))
def test_a_stack_of_low_rank_is_exact_however_it_is_split(frames, rank, block, looks):
    stack = low_rank_stack(frames, rank)
    svd = IncrementalSVD(SHAPE, rank=6, block=block)
    for t, frame in enumerate(stack):
        svd.partial_fit(frame)
        if t in looks:  # looking takes in an incomplete block
            assert len(svd.singular_values) <= min(t + 1, rank)
    batch = np.linalg.svd(stack.reshape(frames, -1), compute_uv=False)[: len(svd.singular_values)]
    np.testing.assert_allclose(svd.singular_values, batch, rtol=1e-4, atol=1e-4 * batch[0])
    np.testing.assert_allclose(rebuilt(svd), stack, atol=1e-4 * np.abs(stack).max())
    assert svd.relative_error < 1e-4


@pytest.mark.parametrize("block", [1, 5, 8])
def test_the_bound_is_the_error_and_close_to_the_best_possible(block):
    stack = low_rank_stack(60, 4, noise=0.2)
    svd = fitted(stack, rank=10, block=block)
    error = np.linalg.norm(rebuilt(svd) - stack) / np.linalg.norm(stack)
    best = np.linalg.svd(stack.reshape(60, -1), compute_uv=False)
    best = np.sqrt((best[10:] ** 2).sum() / (best**2).sum())
    assert svd.relative_error == pytest.approx(error, rel=1e-3)
    assert best <= error * 1.001
    assert error < 1.1 * best


def test_components_stay_orthonormal_over_hundreds_of_blocks():
    svd = fitted(low_rank_stack(400, 5, noise=0.05), rank=8, block=2)
    flat = svd.components.reshape(len(svd.components), -1).astype(np.float64)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-5)
    np.testing.assert_allclose(svd.loadings.T @ svd.loadings, np.eye(len(flat)), atol=1e-5)
    assert len(svd) == 400


def test_memory_does_not_grow_with_the_frames():
    svd = fitted(low_rank_stack(100, 5, noise=0.1), rank=4, block=8)
    assert svd.components.shape == (4, *SHAPE)
    assert svd.loadings.shape == (100, 4)


def test_nothing_yet_and_nothing_but_zeros():
    assert IncrementalSVD(SHAPE).relative_error == 0
    empty = fitted(np.zeros((5, *SHAPE), dtype=np.float32))
    assert empty.components.shape == (0, *SHAPE)
    assert empty.loadings.shape == (5, 0)
    assert empty.relative_error == 0


@pytest.mark.parametrize("frame", [np.zeros((24, 30)), np.full(SHAPE, np.nan)])
def test_a_bad_frame_is_refused(frame):
    with pytest.raises(BadStackError, match="expected finite numbers of shape"):
        IncrementalSVD(SHAPE).partial_fit(frame)
