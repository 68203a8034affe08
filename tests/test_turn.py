"""Rotation of components before they are denoised: finds what was mixed, lowers the true error, stays a rotation."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.denoising import denoise_components, load_denoiser
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.subspace.risk import component_risks
from txm_stream.subspace.turn import TurnedDenoiser, turn_to_least_risk, turned_denoiser

Y, X = np.mgrid[:128, :144]
STRONG = 12.0 * np.float32((Y - 60) ** 2 + (X - 80) ** 2 < 40**2) + 6.0 * np.float32((X // 18) % 2)
WEAK = 3.0 * np.float32((Y + X) % 90 < 45)
NOISE = np.random.default_rng(3).standard_normal((3, *Y.shape)).astype(np.float32)


def rotation(angle):
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=np.float32)


@pytest.mark.parametrize(("name", "within"), [("unet", 0.025), ("tv", 0.05)])
@pytest.mark.parametrize("angle", [-0.12, 0.0, 0.09])
def test_what_the_weak_component_holds_of_the_strong_one_is_found(name, within, angle):
    simple = np.stack([STRONG - STRONG.mean(), WEAK - WEAK.mean()])
    mixed = np.tensordot(rotation(angle), simple, axes=1) + NOISE[:2]
    turn = turn_to_least_risk(mixed.astype(np.float32), 1.0, load_denoiser(name))
    np.testing.assert_allclose(turn @ rotation(angle), np.eye(2), atol=within)


def test_weak_components_are_told_apart():
    other = 3.0 * np.float32((Y - X) % 70 < 35)
    simple = np.stack([STRONG - STRONG.mean(), WEAK - WEAK.mean(), other - other.mean()])
    mix = np.eye(3, dtype=np.float32)
    mix[1:, 1:] = rotation(0.6)
    noisy = (np.tensordot(mix, simple, axes=1) + NOISE).astype(np.float32)
    turn = turn_to_least_risk(noisy, 1.0, load_denoiser("unet"))
    np.testing.assert_allclose(np.abs(turn @ mix), np.eye(3), atol=0.08)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("chemistry", ["core-shell", "region"])
def test_the_true_error_of_weak_components_falls_and_is_predicted(chemistry):
    shape, unet, errors = (150, 200), load_denoiser("unet"), []
    varied = np.broadcast_to(np.linspace(0.7, 1.3, shape[1], dtype=np.float32), shape)
    for seed in range(3):
        phantom = make_phantom(shape, chemistry=chemistry, seed=seed)
        clean = phantom.stack(nickel_energies(40))
        sigma = 50 / 255 * float(np.ptp(clean))
        vectors = np.linalg.svd(clean.reshape(40, -1), full_matrices=False)[0][:, :3].astype(np.float32)
        truth = np.tensordot(vectors.T, clean, axes=1) / np.float32(sigma)
        rng = np.random.default_rng(seed)
        noisy = (truth + varied * rng.standard_normal(truth.shape)).astype(np.float32)
        turned = turned_denoiser(noisy, varied, unet)
        found = denoise_components(noisy, varied, turned)
        predicted = component_risks(noisy, found, varied, turned, rng=rng, factors=np.ones(3))
        plain = denoise_components(noisy, varied, unet)
        errors.append([*(((x - truth) ** 2).mean(axis=(1, 2)) for x in (found, plain)), predicted])
    ours, svd, predicted = np.mean(errors, axis=0)
    assert ours[0] < svd[0]
    assert ours[1:].sum() < 0.8 * svd[1:].sum(), errors
    assert 0.85 < predicted.sum() / ours.sum() < 1.15


def test_two_views_of_one_stack_are_its_mean():
    doubled = TurnedDenoiser(Halving(), rotation(0.4))
    images = NOISE[:2]
    np.testing.assert_allclose(doubled.components(images, 1.0), images / 2, atol=1e-6)
    np.testing.assert_array_equal(doubled(images[0], 1.0), images[0] / 2)


class Halving:
    """Linear and the same in every orientation: turning it changes nothing."""

    def __call__(self, image, sigma):
        return image / 2


def test_what_cannot_be_turned_stays():
    images = NOISE + 5
    np.testing.assert_array_equal(turn_to_least_risk(images[:1], 1.0, load_denoiser("unet")), np.eye(1))
    np.testing.assert_array_equal(turn_to_least_risk(images, 1.0, lambda image, sigma: image), np.eye(3))
    once = load_denoiser("unet")
    assert turned_denoiser(images[:1], 1.0, once) is once
