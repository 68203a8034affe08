"""A simulated stack whose pixel on the sample grows with energy: the zone plate moves, the detector does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from txm_stream.phantoms import make_phantom


def growing_scan(*, growth=1.0, drift_px=6.0, sigma=10.0, span_eV=400.0, seed=2, shape=(192, 256)):
    """Return a stack whose pixel on the sample grows with energy, with its drift and jitter (T, 2) and energies."""
    energies = np.linspace(8200, 8200 + span_eV, 24)
    phantom = make_phantom(shape, seed=seed, margin=64)
    rng = np.random.default_rng(seed)
    motion = rng.uniform(-1, 1, (24, 2)) + np.linspace(-0.5, 0.5, 24)[:, None] * np.array([drift_px, -drift_px])
    relative = energies / energies.mean() - 1
    whole = replace(phantom, shape=phantom.field_jump.shape, margin=0)
    centre = (np.array(shape)[:, None, None] - 1) / 2
    stack = []
    for energy, shift, part in zip(energies, motion, relative, strict=True):
        on_sample = (np.indices(shape) - centre - shift[:, None, None]) * (1 + growth * part)
        field = whole.optical_density(float(energy))
        stack.append(ndimage.map_coordinates(field, on_sample + centre + phantom.margin, order=5, mode="wrap"))
    stack = np.stack(stack)
    stack += np.float32(sigma / 255 * np.ptp(stack)) * rng.standard_normal(stack.shape, dtype=np.float32)
    return stack, motion, energies, relative
