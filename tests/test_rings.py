"""Least squares in rings: exact without noise, weighted by what each ring leaves, with an honest covariance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from txm_stream.alignment.matching import taper
from txm_stream.alignment.rings import Rings

SHAPE = (64, 80)


def fit(rings, images, target, **options):
    columns, one = rings.transform(images), rings.transform(target[None])
    inner, pull = rings.gram(columns, columns), rings.gram(columns, one)[:, :, 0]
    return rings.fit(inner, pull, rings.gram(one, one)[:, 0, 0], **options)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return np.stack([ndimage.gaussian_filter(rng.standard_normal(SHAPE), s) for s in (1, 2, 3)]).astype(np.float32)


def test_inner_products_are_those_of_the_windowed_images(images):
    window = taper(SHAPE)
    rings = Rings(window)
    transforms = rings.transform(images)
    direct = np.einsum("ayx,byx,yx->ab", images, images, window) * window.size
    np.testing.assert_allclose(rings.gram(transforms, transforms).sum(axis=0), direct, rtol=1e-4)


def test_coefficients_are_exact_without_noise(images):
    found = fit(Rings(taper(SHAPE)), images, 2 * images[0] - 3 * images[1] + 0.5 * images[2])
    np.testing.assert_allclose(found.values, [2, -3, 0.5], rtol=1e-4)


def test_a_smooth_disturbance_costs_little_and_the_covariance_says_how_much(images):
    """What no column explains lies at low frequencies: plain least squares follows it, weighted does not."""
    rings = Rings(taper(SHAPE))
    errors = {0: [], 2: []}
    said = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        smooth = 40 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 6)
        target = 20 * images[0] + smooth + rng.standard_normal(SHAPE)
        for reweighted, values in errors.items():
            found = fit(rings, images[:1], target.astype(np.float32), reweighted=reweighted)
            values.append(found.values[0] - 20)
        said.append(found.covariance[0, 0])
    rms = {key: float(np.sqrt(np.mean(np.square(values)))) for key, values in errors.items()}
    print(rms, np.sqrt(np.mean(said)))
    assert rms[2] < 0.5 * rms[0]
    assert 0.7 < np.sqrt(np.mean(said)) / rms[2] < 1.4
