"""Random secondary particles on a periodic field: thickness, grains and the chemistry inside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from txm_stream.arrays import Image

Chemistry = Literal["core-shell", "region"]


@dataclass(frozen=True)
class Particle:
    """Centre and radius in px, relative height, and a rough outline given by three harmonics."""

    y: float
    x: float
    radius: float
    height: float
    amplitudes: tuple[float, ...]
    phases: tuple[float, ...]


def smooth_noise(field: tuple[int, int], *, sigma_px: float, rng: np.random.Generator) -> Image:
    """Return a smooth periodic random image (y, x) with mean 0 and rms 1."""
    noise = gaussian_filter(rng.standard_normal(field, dtype=np.float32), sigma_px, mode="wrap")
    noise -= noise.mean()
    return np.asarray(noise / max(float(noise.std()), 1e-12), dtype=np.float32)


def place_particles(field: tuple[int, int], *, fill: float, rng: np.random.Generator) -> list[Particle]:
    """Place 5 to 20 particles that cover about the share ``fill`` of the field (y, x), most of them in clusters."""
    area = field[0] * field[1]
    n = int(np.clip(round(5 + np.sqrt(area) / 64), 5, 20))
    mean_radius = float(np.sqrt(fill * area / (n * np.pi)))
    particles: list[Particle] = []
    for index in range(n):
        radius = mean_radius * rng.uniform(0.7, 1.25)
        if index % 3:  # touches an earlier one, or lies partly on it
            other = particles[int(rng.integers(len(particles)))]
            angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.05)
            y = other.y + gap * (radius + other.radius) * np.sin(angle)
            x = other.x + gap * (radius + other.radius) * np.cos(angle)
        else:
            y, x = rng.uniform(0, field[0]), rng.uniform(0, field[1])
        particles.append(
            Particle(
                y=float(y % field[0]),
                x=float(x % field[1]),
                radius=radius,
                height=float(rng.uniform(0.8, 1.0)),
                amplitudes=tuple(rng.uniform(0.02, 0.08, 3)),
                phases=tuple(rng.uniform(0, 2 * np.pi, 3)),
            )
        )
    return particles


def window(particle: Particle, field: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp], Image]:
    """Return the periodic row and column indices around a particle and d (rows, columns): 0 centre, 1 outline."""
    reach = min(int(particle.radius * 1.3) + 2, min(field) // 2 - 1)
    offsets = np.arange(-reach, reach + 1)
    dy = offsets + int(particle.y) - particle.y
    dx = offsets + int(particle.x) - particle.x
    angle = np.arctan2(dy[:, None], dx[None, :])
    outline = np.full(angle.shape, particle.radius)
    for order, (amplitude, phase) in enumerate(zip(particle.amplitudes, particle.phases, strict=True), start=2):
        outline *= 1 + amplitude * np.cos(order * angle + phase)
    d = np.hypot(dy[:, None], dx[None, :]) / outline
    rows, columns = (offsets + int(particle.y)) % field[0], (offsets + int(particle.x)) % field[1]
    return rows, columns, d.astype(np.float32)


def thickness_of(d: Image, height: float) -> Image:
    """Return the thickness profile of a slightly flattened sphere; zero outside d = 1."""
    return np.asarray(height * np.maximum(1 - d**2, 0) ** 0.35, dtype=np.float32)


def grains(
    field: tuple[int, int], inside: NDArray[np.bool_], *, size_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], Image, int]:
    """Divide the field into grains (Voronoi cells).

    Returns
    -------
    label
        Grain of each pixel (y, x); -1 where not ``inside``.
    crack
        Distance to the grain boundary in px (y, x); large where not ``inside``.
    n
        Number of grains.
    """
    n = max(8, round(field[0] * field[1] / size_px**2))
    tree = cKDTree(rng.uniform(0, 1, (n, 2)) * field, boxsize=np.array(field, dtype=np.float64))
    label = np.full(field, -1, dtype=np.int32)
    crack = np.full(field, 1e3, dtype=np.float32)
    found = tree.query(np.argwhere(inside).astype(np.float64), k=2)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    label[inside] = nearest[:, 0]
    crack[inside] = 0.5 * (distance[:, 1] - distance[:, 0])
    return label, crack, n


def mix_along(progress: Image, n_states: int) -> Image:
    """Return abundances (state, ...) that run through the states in order as ``progress`` goes from 0 to 1."""
    place = np.clip(progress, 0, 1) * (n_states - 1)
    return np.stack([np.maximum(1 - np.abs(place - state), 0) for state in range(n_states)]).astype(np.float32)


def particle_chemistry(
    d: Image, label: NDArray[np.int32], n_grains: int, *, chemistry: Chemistry, n_states: int, rng: np.random.Generator
) -> Image:
    """Return the abundances (state, rows, columns) inside one particle, on the simplex.

    ``d`` is the radial coordinate of :func:`window`, ``label`` the grain of each pixel there. Core-shell: a
    smooth front whose depth and width differ from particle to particle. Region: one mix for the whole
    particle, or one per grain.
    """
    if chemistry == "core-shell":
        core, shell = rng.uniform(0.0, 0.3), rng.uniform(0.65, 1.0)
        front, width = rng.uniform(0.25, 0.95), rng.uniform(0.08, 0.2)
        progress = core + (shell - core) / (1 + np.exp(-(d - front) / width))
        return mix_along(progress.astype(np.float32), n_states)
    if rng.uniform() < 0.4:
        mix = rng.dirichlet(np.full(n_states, 0.6))
        return np.broadcast_to(mix[:, None, None], (n_states, *d.shape)).astype(np.float32)
    mixes = rng.dirichlet(np.full(n_states, 0.6), size=n_grains)
    return np.moveaxis(mixes[np.maximum(label, 0)], -1, 0).astype(np.float32)
