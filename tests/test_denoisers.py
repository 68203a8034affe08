"""Denoisers: every installed one keeps the contract; the check catches those that do not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from txm_stream.denoising import Denoiser, available_denoisers, check_denoiser, load_denoiser
from txm_stream.denoising.tv import TotalVariation
from txm_stream.errors import BadProfileError, TxmStreamError

HAVE_BM3D = importlib.util.find_spec("bm3d") is not None


@pytest.mark.parametrize("name", ["auto", *available_denoisers()])
def test_every_installed_denoiser_keeps_the_contract(name):
    if name == "bm3d" and not HAVE_BM3D:
        pytest.skip("bm3d is not installed (its licence is non-commercial)")
    denoiser = load_denoiser(name)
    assert isinstance(denoiser, Denoiser)
    check_denoiser(denoiser)


def test_the_expected_denoisers_are_there():
    assert {"tv", "wavelet", "bm3d"} <= set(available_denoisers())


def smooth(image, sigma):
    return ndimage.gaussian_filter(image, 1.2)


def changes_its_input(image, sigma):
    image[0, 0] += 1
    return smooth(image, sigma)


def random(image, sigma):
    return smooth(image, sigma) + np.float32(1e-3) * np.random.default_rng().standard_normal(
        image.shape, dtype=np.float32
    )


BAD = {
    "does nothing": (lambda image, sigma: image.copy(), "leaves an error"),
    "changes its input": (changes_its_input, "changed its input"),
    "float64": (lambda image, sigma: TotalVariation()(image, sigma).astype(np.float64), "float64, expected"),
    "crops": (lambda image, sigma: image[1:], "expected"),
    "nan": (lambda image, sigma: np.full_like(image, np.nan), "not finite"),
    "random": (lambda i, s: TotalVariation()(i, s) + 1e-3 * np.random.default_rng().random(i.shape, np.float32), "two"),
    "absolute": (lambda i, s: np.minimum(TotalVariation()(i, s), np.float32(5)), "does not scale"),
    "offset": (lambda i, s: TotalVariation()(i, s) + np.float32(0.2 * s), "changes a constant"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_denoiser_is_caught(case):
    denoiser, message = BAD[case]
    with pytest.raises(TxmStreamError, match=message):
        check_denoiser(denoiser)


def test_unknown_or_missing_denoisers_are_one_clear_line():
    with pytest.raises(BadProfileError, match=r"no denoiser 'magic'; available: .*tv"):
        load_denoiser("magic")
    if not HAVE_BM3D:
        with pytest.raises(BadProfileError, match="pip install"):
            load_denoiser("bm3d")


def test_total_variation_solves_its_problem():
    rng = np.random.default_rng(0)
    image = (np.kron(rng.random((4, 4)), np.ones((12, 12))) + 0.1 * rng.standard_normal((48, 48))).astype(np.float32)
    weight = 0.9 * 0.1

    def objective(x):
        dy, dx = np.diff(x, axis=0, append=x[-1:]), np.diff(x, axis=1, append=x[:, -1:])
        return 0.5 * ((x - image) ** 2).sum() + weight * np.sqrt(dy**2 + dx**2).sum()

    out = TotalVariation(300)(image, 0.1)
    best = objective(out)
    assert best <= objective(TotalVariation(30)(image, 0.1)) * (1 + 1e-5)
    for _ in range(20):  # the minimum of a convex function: no direction goes down
        step = ndimage.gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.5, 4))
        assert objective(out + 1e-3 * step / step.std()) > best
    np.testing.assert_array_equal(TotalVariation()(image, 0.0), image)
