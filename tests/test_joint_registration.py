"""The joint step: small motions in one go, at any rank; the common offset free; growth together with shifts."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.alignment.joint import joint_step
from txm_stream.alignment.matching import taper
from txm_stream.metrics import shift_rmse_px
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.resampling import shift_image

SHAPE, FRAMES, SIGMA = (96, 112), 16, 0.02


@pytest.fixture(scope="module")
def moved():
    """Frames moved by a tenth of a pixel, and by how much."""
    phantom = make_phantom(SHAPE, seed=5)
    rng = np.random.default_rng(0)
    motion = 0.1 * rng.standard_normal((FRAMES, 2))
    clean = phantom.stack(nickel_energies(FRAMES), motion)
    return clean + np.float32(SIGMA) * rng.standard_normal(clean.shape, dtype=np.float32), motion


def step(stack, rank=4, **options):
    noise = np.full(len(stack), SIGMA)
    return joint_step(stack, noise, taper(SHAPE), options.pop("keep", np.ones(len(stack), dtype=bool)), rank, **options)


@pytest.mark.parametrize("rank", [3, 4, 6])
def test_one_step_finds_small_motions_at_any_rank_that_is_large_enough(moved, rank):
    stack, motion = moved
    found = step(stack, rank)
    before = shift_rmse_px(np.zeros_like(motion), motion)
    assert shift_rmse_px(found.moves, motion) < 0.3 * before
    error = found.moves + motion
    error -= error.mean(axis=0)
    assert 0.5 < np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(found.sigma_px**2)) < 2
    np.testing.assert_allclose(found.moves.mean(axis=0), 0, atol=1e-9)


def test_a_registered_stack_stays_and_a_common_offset_is_free(moved):
    stack, motion = moved
    registered = np.stack([shift_image(f, -m) for f, m in zip(stack, motion, strict=True)])
    again = np.stack([shift_image(f, (0.4, -0.7)) for f in registered])
    for frames in (registered, again):
        assert np.abs(step(frames).moves).max() < 0.06


def test_a_frame_without_weight_changes_nothing(moved):
    stack, _ = moved
    keep = np.ones(FRAMES, dtype=bool)
    keep[3] = False
    spoilt = stack.copy()
    spoilt[3] = 1e3
    found, alone = step(spoilt, keep=keep), step(np.delete(stack, 3, axis=0))
    np.testing.assert_allclose(found.moves[keep], alone.moves, atol=1e-6)
    assert not found.moves[3].any()
    assert np.isnan(found.sigma_px[3])


def test_growth_is_found_together_with_the_shifts(moved):
    stack, motion = moved
    pattern = np.linspace(-1, 1, FRAMES)
    growth = 0.002  # 0.1 px at the border
    grown = np.stack([shift_image(f, (0, 0), 1 - growth * p) for f, p in zip(stack, pattern, strict=True)])
    found = step(grown, pattern=pattern)
    assert found.growth == pytest.approx(growth, abs=max(4 * found.growth_sigma, 1e-4))
    assert found.growth_sigma < 0.2 * growth
    assert shift_rmse_px(found.moves, motion) < 0.3 * shift_rmse_px(np.zeros_like(motion), motion)
