"""A stack whose pixel on the sample grows with energy while the sample drifts: the zone plate moves, not the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image, Matrix, Stack, Vector
from txm_stream.phantoms.make import make_phantom
from txm_stream.phantoms.phantom import Phantom


@dataclass(frozen=True, eq=False)
class GrowingScan:
    """A simulated stack and how it really moves.

    ``stack`` (T, y, x) noisy optical density; ``energies_eV`` (T,); ``motion_px`` (T, 2): where the middle of the
    sample is on the detector; ``relative`` (T,) = E/Ē − 1: a pixel is larger on the sample by 1 + growth · relative.
    """

    stack: Stack
    energies_eV: Vector
    motion_px: Matrix
    relative: Vector
    growth: float

    def placement_error_px(self, shifts_px: Matrix, magnification: Vector) -> float:
        """Return by how much frames that are moved so miss each other, rms over frames, the field and both axes, px."""
        shape = self.stack.shape[1:]
        points = np.stack(np.meshgrid(*(n * np.linspace(-0.5, 0.5, 9) for n in shape), indexing="ij"))
        places = []
        for t, part in enumerate(self.relative):
            on_detector = points / (1 + self.growth * part) + self.motion_px[t][:, None, None]
            places.append(magnification[t] * on_detector + shifts_px[t][:, None, None])
        errors = np.stack(places)
        errors -= errors.mean(axis=0)  # what all frames share is free
        return float(np.sqrt(np.mean(errors**2)))


def magnified_density(phantom: Phantom, energy_eV: float, shift_px: Sequence[float], *, pixel: float) -> Image:
    """Return the noise-free optical density (y, x) at one energy, with a pixel that is ``pixel`` times as large.

    ``shift_px`` (dy, dx) on the detector; the image shrinks about its middle. Spline interpolation of fifth order.
    """
    rows, columns = phantom.field_jump.shape
    whole = replace(phantom, shape=(rows, columns), margin=0)
    centre = (np.array(phantom.shape)[:, None, None] - 1) / 2
    shift = np.asarray(shift_px, dtype=np.float64)[:, None, None]
    on_sample = (np.indices(phantom.shape) - centre - shift) * pixel + centre + phantom.margin
    return np.asarray(ndimage.map_coordinates(whole.optical_density(energy_eV), on_sample, order=5, mode="wrap"))


def growing_scan(
    *,
    growth: float = 1.0,
    drift_px: float = 6.0,
    sigma: float = 10.0,
    span_eV: float = 400.0,
    seed: int = 2,
    shape: tuple[int, int] = (192, 256),
    visits: int = 24,
) -> GrowingScan:
    """Simulate it: uniform jitter of ± 1 px on a linear drift of ``drift_px`` along both axes.

    Parameters
    ----------
    growth
        1: a pixel grows as the energy, by 5 % over the default ``span_eV``; 0: not at all.
    sigma
        White noise in 1/255 of the range of the stack.
    """
    energies = np.linspace(8200, 8200 + span_eV, visits)
    phantom = make_phantom(shape, seed=seed, margin=64)
    rng = np.random.default_rng(seed)
    drift = np.linspace(-0.5, 0.5, visits)[:, None] * np.array([drift_px, -drift_px])
    motion = rng.uniform(-1, 1, (visits, 2)) + drift
    relative = energies / energies.mean() - 1
    frames = [
        magnified_density(phantom, float(energy), shift, pixel=1 + growth * part)
        for energy, shift, part in zip(energies, motion, relative, strict=True)
    ]
    stack = np.stack(frames)
    stack += np.float32(sigma / 255 * np.ptp(stack)) * rng.standard_normal(stack.shape, dtype=np.float32)
    return GrowingScan(stack, energies, motion, relative, growth)
