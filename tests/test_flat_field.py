"""Pooled flats: less noise, and real changes of the illumination are kept."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.flat_field import DynamicFlatField

SHAPE = (96, 112)


def make_flats(n: int, moving: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 100.0
    pattern = 1 + 0.3 * np.sin(5 * x) + 0.05 * rng.standard_normal(SHAPE)
    truth = np.stack(
        [(1 + 0.02 * np.sin(i)) * 400 * pattern * (1 + moving * np.sin(i / 3) * np.cos(6 * y)) for i in range(n)]
    )
    return truth, rng.poisson(truth).astype(np.float32)


@pytest.mark.parametrize("moving", [0.0, 0.05])
def test_recovers_flats_with_little_noise(moving: float) -> None:
    truth, noisy = make_flats(30, moving, np.random.default_rng(1))
    mask = np.ones(SHAPE, dtype=bool)
    pooled = DynamicFlatField(lambda i: noisy[i], 30, mask, 1 / 20)
    error = np.mean([np.mean((pooled.flat(i) / truth[i] - 1) ** 2) for i in range(30)])
    single = np.mean((noisy / truth - 1) ** 2)
    print(f"pattern change {moving}: {pooled.n_patterns} eigen-flats, error variance {error / single:.3f} of one flat")
    assert pooled.n_patterns == (1 if moving else 0)
    assert error < 1.6 * pooled.variance_share * single


@pytest.mark.parametrize("moving", [0.0, 0.05])
def test_a_flat_that_comes_later_is_given_the_same_pattern(moving: float) -> None:
    truth, noisy = make_flats(32, moving, np.random.default_rng(2))
    mask = np.ones(SHAPE, dtype=bool)
    mask[:4] = False
    pooled = DynamicFlatField(lambda i: noisy[i], 30, np.ones(SHAPE, dtype=bool), 1 / 20)
    for later in (30, 31):
        error = np.mean((pooled.like(noisy[later], mask) / truth[later] - 1)[mask] ** 2)
        assert error < 2 * pooled.variance_share * np.mean((noisy[later] / truth[later] - 1) ** 2)
