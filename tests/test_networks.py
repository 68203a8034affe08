"""The networks: ahead of total variation on images they were not trained on, bounded at any contrast, reproducible."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy import ndimage

from txm_stream.denoising import denoise_images, load_denoiser, takes_sigma_map
from txm_stream.denoising.network_denoiser import NetworkDenoiser
from txm_stream.denoising.networks import make_network
from txm_stream.denoising.train import Recipe, save, train
from txm_stream.denoising.training_images import HELD_OUT_PHOTOS, PHOTOS, held_out_images
from txm_stream.errors import BadProfileError


@pytest.fixture(scope="module")
def images():
    return held_out_images()


@pytest.fixture(scope="module")
def unet():
    return load_denoiser("unet")


def errors(denoiser, images, sigma):
    """Return the rms error of every image in units of the noise."""
    out = []
    for number, image in enumerate(images.values()):
        noisy = image + np.float32(sigma) * np.random.default_rng(number).standard_normal(image.shape, dtype=np.float32)
        out.append(np.sqrt(np.mean((denoiser(noisy, sigma) - image) ** 2)) / sigma)
    return np.array(out)


@pytest.mark.parametrize(("sigma", "gain_db"), [(5, 2.0), (25, 1.5), (100, 1.5)])
def test_unet_is_ahead_of_total_variation_on_images_it_has_not_seen(images, unet, sigma, gain_db):
    mine, theirs = (errors(d, images, sigma / 255) for d in (unet, load_denoiser("tv")))
    gain = 20 * np.log10(theirs / mine).mean()
    print(f"sigma {sigma}: unet ahead of tv by {gain:.2f} dB")
    assert gain > gain_db


def test_held_out_means_held_out(images):
    assert len(images) == 10
    assert not set(HELD_OUT_PHOTOS) & set(PHOTOS)


@pytest.mark.parametrize("name", ["unet", "dncnn"])
@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01, 1e-3])
def test_it_never_makes_an_image_much_worse_however_little_noise(images, name, sigma):
    assert errors(load_denoiser(name), images, sigma / 255).max() < 1.5


def test_it_makes_use_of_a_noise_map(images, unet):
    image = images["phantom 1"]
    sigma = np.linspace(0.02, 0.3, image.shape[1], dtype=np.float32) * np.ones_like(image)
    noisy = image + sigma * np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    mapped = denoise_images(noisy[None], sigma, unet)[0]
    level = float(np.sqrt(np.mean(sigma**2)))
    assert takes_sigma_map(unet)
    assert np.mean((mapped - image) ** 2) < 0.7 * np.mean((unet(noisy, level) - image) ** 2)
    # one that takes no map gets the rms
    tv = load_denoiser("tv")
    np.testing.assert_allclose(denoise_images(noisy[None], sigma, tv)[0], tv(noisy, level), atol=1e-6)


def test_any_shape_and_several_at_once(unet):
    images = np.random.default_rng(0).standard_normal((3, 37, 53)).astype(np.float32)
    together = denoise_images(images, 1.0, unet)
    assert together.shape == images.shape
    np.testing.assert_allclose(together, np.stack([unet(image, 1.0) for image in images]), atol=1e-4)
    np.testing.assert_array_equal(unet(images[0], 0.0), images[0])


def test_weights_are_small_and_say_where_they_come_from():
    folder = files("txm_stream") / "weights"
    sizes = {name: len((folder / name).read_bytes()) for name in ("unet.npz", "dncnn.npz")}
    assert sum(sizes.values()) < 3e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for name in sizes:
        parameters = sum(p.numel() for p in make_network(name.removesuffix(".npz"), "cpu").parameters())
        assert name in card
        assert f"{parameters:,}".replace(",", " ") in card


def test_training_is_reproducible_and_its_file_can_be_used(tmp_path):
    recipe = Recipe(3, patches=2, side=32)
    first, second = (train("unet", recipe=recipe, seed=1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    save(first, tmp_path / "mine.npz")
    mine = NetworkDenoiser("unet", weights=tmp_path / "mine.npz")
    assert np.isfinite(mine(np.ones((40, 40), dtype=np.float32), 0.1)).all()


def test_wrong_weights_are_one_clear_error(tmp_path):
    np.savez(tmp_path / "other.npz", enter=np.zeros(3))
    for file in ("other.npz", "missing.npz"):
        with pytest.raises(BadProfileError, match="are not those of 'unet'"):
            NetworkDenoiser("unet", weights=tmp_path / file)


def test_large_images_go_through_in_strips_and_come_out_the_same(monkeypatch):
    from txm_stream.denoising import network_denoiser

    rng = np.random.default_rng(0)
    image = (ndimage.gaussian_filter(rng.standard_normal((700, 208)), 5) * 30).astype(np.float32)
    noisy = image + rng.standard_normal(image.shape, dtype=np.float32)
    whole = load_denoiser("unet")(noisy, 1.0)
    monkeypatch.setattr(network_denoiser, "_AT_ONCE_PIXELS", 208 * 400)
    strips = load_denoiser("unet")(noisy, 1.0)
    assert np.abs(strips - whole).max() < 0.02
    assert np.sqrt(np.mean((strips - whole) ** 2)) < 1e-3
