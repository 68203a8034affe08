"""Denoisers: every installed one keeps the contract; the check catches those that do not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from txm_stream.denoising import Denoiser, available_denoisers, check_denoiser, load_denoiser
from txm_stream.denoising.tv import TotalVariation
from txm_stream.errors import BadProfileError, TxmStreamError
from txm_stream.phantoms import make_phantom

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


class Several:
    """Total variation with a method of one's own for several images."""

    def __init__(self, name, method):
        setattr(self, name, method)

    def __call__(self, image, sigma):
        return TotalVariation()(image, sigma)


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("many", lambda images, sigma: images[:1], "finite float32"),
        ("many", lambda images, sigma: images.copy(), "image by image"),
        ("components", lambda images, sigma: images.copy(), "larger error"),
    ],
)
def test_bad_methods_for_several_images_are_caught(name, method, message):
    with pytest.raises(TxmStreamError, match=message):
        check_denoiser(Several(name, method))


def components_of(phantom, sigma, rng):
    """Return the three strongest components (3, y, x) of 40 frames, clean and with noise ``sigma``."""
    energies = np.linspace(8320.0, 8370.0, 40)
    spectra = phantom.spectra(energies)
    clean = np.tensordot(spectra, phantom.edge_jump * phantom.abundances, axes=1)
    basis = np.linalg.svd(clean.reshape(40, -1), full_matrices=False)[0][:, :3]
    images = np.tensordot(basis.T, clean, axes=1).astype(np.float32)
    return images, images + np.float32(sigma) * rng.standard_normal(images.shape, dtype=np.float32)


def test_the_strongest_component_helps_to_find_the_weaker_ones():
    unet, rng = load_denoiser("unet"), np.random.default_rng(0)
    alone, guided, misled = [], [], []
    for seed, chemistry in [(s, c) for s in (200, 201, 202) for c in ("core-shell", "region")]:
        phantom = make_phantom((128, 160), n_states=3, chemistry=chemistry, seed=seed)
        for sigma in (0.1, 0.3):
            clean, noisy = components_of(phantom, sigma, rng)
            found = unet.components(noisy, sigma)
            assert np.array_equal(found[0], unet(noisy[0], sigma))
            other = np.concatenate([found[:1, ::-1, ::-1], noisy[1:]])  # edges elsewhere
            for errors, images in (
                (alone, unet.many(noisy, sigma)),
                (guided, found),
                (misled, unet.components(other, sigma)),
            ):
                errors.append(np.mean((images - clean)[1:] ** 2))
    better, worse = (np.mean(np.divide(x, alone)) for x in (guided, misled))
    print(f"error² of the weak components over that without a guide: {better:.3f}, by a wrong guide {worse:.3f}")
    assert better < 0.97
    assert worse < 1.05


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
