"""Make a random phantom: particles, their chemistry, everything else that absorbs, all slightly blurred."""

from __future__ import annotations

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from txm_stream.arrays import Image, Mask
from txm_stream.errors import BadFrameError
from txm_stream.phantoms.particles import (
    Chemistry,
    grains,
    particle_chemistry,
    place_particles,
    smooth_noise,
    thickness_of,
    window,
)
from txm_stream.phantoms.phantom import Phantom
from txm_stream.phantoms.spectra import REFERENCE_ENERGY_EV, nickel_states

PSF_SIGMA_PX = 0.8


def make_phantom(
    shape: tuple[int, int],
    *,
    n_states: int = 2,
    chemistry: Chemistry = "core-shell",
    seed: int = 0,
    max_jump: float = 0.8,
    margin: int = 24,
) -> Phantom:
    """Make a random sample of agglomerated, cracked, rough particles on a thin film.

    Parameters
    ----------
    shape
        Image size (y, x) in px, at least 32 each.
    n_states
        Chemical states, 2 to 5.
    chemistry
        ``"core-shell"``: smooth radial gradients; ``"region"``: one mix per particle or per grain.
    seed
        Same seed, same sample.
    max_jump
        Largest edge jump in OD. Inside the particles the non-edge absorption is 0.2 to 0.5 OD more.
    margin
        Field around the image in px; at least 24, more where larger shifts are wanted.

    Notes
    -----
    Usually a quarter of the pixels stays open beam, at least 15 %. Cost: about 2 s at 1024 x 1024.
    """
    if min(shape) < 32 or margin < 24:
        raise BadFrameError(f"shape {shape} and margin {margin} px: at least 32 and 24 px are needed for a phantom")
    spectra = nickel_states(n_states)
    field = (scipy.fft.next_fast_len(shape[0] + 2 * margin), scipy.fft.next_fast_len(shape[1] + 2 * margin))
    crop = (slice(margin, margin + shape[0]), slice(margin, margin + shape[1]))
    for attempt in range(50):
        rng = np.random.default_rng([seed, attempt])
        fill = min(0.6, 0.5 + 0.01 * attempt)
        particles = place_particles(field, fill=fill, rng=rng)
        covered = np.zeros(field, dtype=bool)
        for particle in particles:
            rows, columns, d = window(particle, field)
            covered[np.ix_(rows, columns)] |= d < 1
        if 0.3 < covered[crop].mean() < 0.62:
            break

    scale = float(np.mean([particle.radius for particle in particles]))
    label, crack, n_grains = grains(field, covered, size_px=max(6.0, 0.45 * scale), rng=rng)
    powered = np.zeros(field, dtype=np.float32)
    weight = np.zeros(field, dtype=np.float32)
    mixed = np.zeros((n_states, *field), dtype=np.float32)
    for particle in particles:
        rows, columns, d = window(particle, field)
        where = np.ix_(rows, columns)
        mine = thickness_of(d, particle.height)
        states = particle_chemistry(d, label[where], n_grains, chemistry=chemistry, n_states=n_states, rng=rng)
        powered[where] += mine**4
        weight[where] += mine
        for state in range(n_states):
            mixed[state][where] += mine * states[state]
    thickness = np.sqrt(np.sqrt(powered))  # where two particles overlap, 1.2 times one of them
    thickness *= 1 + 0.05 * smooth_noise(field, sigma_px=max(2.0, 0.06 * scale), rng=rng)
    thickness *= 1 - 0.5 * np.exp(-((crack / 0.9) ** 2))  # cracks between the grains

    mixed *= np.divide(thickness, weight, out=np.zeros_like(weight), where=weight > 0)
    for state in range(n_states):
        mixed[state] = gaussian_filter(mixed[state], PSF_SIGMA_PX, mode="wrap")
    np.maximum(mixed, 0, out=mixed)
    jump = mixed.sum(axis=0)
    peak = float(jump[crop].max())
    abundances = (mixed + np.float32(1e-6 * peak)) / (jump + np.float32(1e-6 * peak * n_states))
    jump *= np.float32(max_jump / peak)

    background = _background(jump, covered, crop, scale=scale, rng=rng)
    return Phantom(shape, jump, abundances, background, spectra, margin)


def _background(
    jump: Image, covered: Mask, crop: tuple[slice, slice], *, scale: float, rng: np.random.Generator
) -> Image:
    """Return coefficients (2, Y, X) of [1, e]: other elements in the particles, and a film on part of the rest."""
    field = jump.shape
    relative = jump / max(float(jump[crop].max()), 1e-12)
    absorbing = 0.52 * (1 - np.exp(-2.2 * relative))
    film = smooth_noise((field[0], field[1]), sigma_px=max(4.0, 0.4 * scale), rng=rng)
    edge = np.quantile(film[crop][~covered[crop]], 0.65)  # 35 % of the free area is under the film
    absorbing += 0.05 * np.clip(2 * (film - edge), 0, 1)
    absorbing = gaussian_filter(absorbing, PSF_SIGMA_PX, mode="wrap")
    slope = -3 * 100 / REFERENCE_ENERGY_EV  # absorption falls as E**-3
    return np.stack([absorbing, slope * absorbing]).astype(np.float32)
