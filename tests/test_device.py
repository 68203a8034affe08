"""Whatever "auto" finds to compute on, the numbers are those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from txm_stream import align_stack, denoise_stack, unmix_stack
from txm_stream.denoising import load_denoiser
from txm_stream.device import compute_device
from txm_stream.errors import BadProfileError
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.resampling import shift_image

SIGMA = 0.05


@pytest.fixture(scope="module")
def measured():
    """Return energies, references and a noisy stack that jitters."""
    phantom, energies = make_phantom((96, 112), seed=2), nickel_energies(24)
    rng = np.random.default_rng(2)
    motion = rng.uniform(-2, 2, (24, 2))
    stack = np.stack([phantom.optical_density(float(e), m) for e, m in zip(energies, motion, strict=True)])
    return energies, phantom.spectra(energies), stack + SIGMA * rng.standard_normal(stack.shape)


def test_auto_is_cuda_where_there_is_one():
    found = torch.cuda.is_available()
    print("device:", compute_device("auto"))
    assert compute_device("auto") == ("cuda" if found else "cpu")
    assert compute_device("cpu") == "cpu"
    if not found:
        with pytest.raises(BadProfileError, match="finds no CUDA"):
            compute_device("cuda")


def test_arrays_give_the_same_on_any_device(measured):
    energies, references, stack = measured
    aligned = [align_stack(stack, energies_eV=energies, device=d).stack for d in ("cpu", "auto")]
    np.testing.assert_allclose(aligned[1], aligned[0], atol=1e-4)
    denoised = [denoise_stack(aligned[0], device=d).stack for d in ("cpu", "auto")]
    np.testing.assert_allclose(denoised[1], denoised[0], atol=1e-4)
    maps = [
        unmix_stack(aligned[0], references, energies_eV=energies, sigma=SIGMA, device=d).abundances
        for d in ("cpu", "auto")
    ]
    assert np.isfinite(maps[0]).mean() > 0.3
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4)


@pytest.mark.parametrize("name", ["tv", "unet", "dncnn"])
def test_denoisers_give_the_same_on_any_device(name, measured):
    image = measured[2][0].astype(np.float32)
    there = load_denoiser(name, device=compute_device("auto"))(image, SIGMA)
    np.testing.assert_allclose(there, load_denoiser(name)(image, SIGMA), atol=1e-4)


@pytest.mark.parametrize("magnification", [1.0, 1.01])
def test_moving_gives_the_same_on_any_device(magnification, measured):
    image = measured[2][0].astype(np.float32)
    there = shift_image(image, (0.3, -2.6), magnification, device=compute_device("auto"))
    np.testing.assert_allclose(there, shift_image(image, (0.3, -2.6), magnification), atol=1e-5)
