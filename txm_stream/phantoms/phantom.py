"""The phantom: what is really there, and the noise-free optical density at any energy and any shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from txm_stream.arrays import Image, Mask, Stack
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
from txm_stream.phantoms.spectra import REFERENCE_ENERGY_EV, Spectra, nickel_states

PSF_SIGMA_PX = 0.8
OPEN_OD = 0.005
"""A pixel is open beam where the optical density of everything in it stays below this."""


def inside(edge_jump: NDArray[np.floating]) -> Mask:
    """Return the pixels inside the particles: edge jump above 25 % of its 98th percentile."""
    return np.asarray(edge_jump > 0.25 * np.percentile(edge_jump, 98))


@dataclass(frozen=True, eq=False)
class Phantom:
    """A sample on a periodic field larger than the image, so that content enters when the image moves.

    The optical density at energy E is ``edge_jump * sum_l mu_l(E) X_l + b_0 + b_1 e``, e = (E - 8345 eV) / 100 eV.

    Attributes
    ----------
    shape
        Image size (y, x).
    field_jump, field_abundances, field_background
        Edge jump in OD (Y, X), abundances on the simplex (state, Y, X), background coefficients b in OD
        (2, Y, X), all float32 on the whole field.
    spectra
        The states; ``spectra(energies_eV)`` is (T, state) in edge-jump units.
    margin
        Field around the image in px; the largest shift that is possible.
    """

    shape: tuple[int, int]
    field_jump: Image
    field_abundances: Image
    field_background: Image
    spectra: Spectra
    margin: int

    def _crop(self, field: Image) -> Image:
        m = self.margin
        return field[..., m : m + self.shape[0], m : m + self.shape[1]]

    @property
    def edge_jump(self) -> Image:
        """Edge jump (y, x) in OD."""
        return self._crop(self.field_jump)

    @property
    def abundances(self) -> Image:
        """Abundances (state, y, x), non-negative, sum 1 everywhere."""
        return self._crop(self.field_abundances)

    @property
    def background(self) -> Image:
        """Background coefficients (2, y, x) of [1, e] in OD."""
        return self._crop(self.field_background)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the states."""
        return self.spectra.names

    @property
    def inside(self) -> Mask:
        """Pixels inside the particles (y, x)."""
        return inside(self.edge_jump)

    @property
    def open_beam(self) -> Mask:
        """Pixels (y, x) with nothing in them when the image is not shifted."""
        return np.asarray((self.edge_jump < OPEN_OD / 2) & (self.background[0] < OPEN_OD / 2))

    def optical_density(self, energy_eV: float, shift_px: Sequence[float] = (0.0, 0.0)) -> Image:
        """Return the noise-free optical density (y, x) at one energy in eV.

        ``shift_px`` = (dy, dx): features appear moved by +dy rows and +dx columns on the detector. The field
        is periodic and the shift is a Fourier one, so it is exact for the band-limited image.

        Raises
        ------
        BadFrameError
            The shift is larger than the margin.
        """
        dy, dx = (float(value) for value in shift_px)
        if max(abs(dy), abs(dx)) > self.margin:
            raise BadFrameError(f"shift ({dy:.1f}, {dx:.1f}) px exceeds the margin of {self.margin} px; make it larger")
        mu = self.spectra(energy_eV)[0].astype(np.float32)
        field = np.einsum("l,lyx->yx", mu, self.field_abundances)
        field *= self.field_jump
        field += self.field_background[0]
        field += np.float32((energy_eV - REFERENCE_ENERGY_EV) / 100) * self.field_background[1]
        if dy or dx:
            field = fourier_shift(field, (dy, dx))
        return np.ascontiguousarray(self._crop(field))

    def stack(self, energies_eV: ArrayLike, shifts_px: ArrayLike | None = None) -> Stack:
        """Return noise-free optical densities (T, y, x) for energies (T,) in eV and shifts (T, 2) in px."""
        energies = np.atleast_1d(np.asarray(energies_eV, dtype=np.float64))
        shifts = np.zeros((energies.size, 2)) if shifts_px is None else np.asarray(shifts_px, dtype=np.float64)
        return np.stack([self.optical_density(float(e), s) for e, s in zip(energies, shifts, strict=True)])


def fourier_shift(field: Image, shift_px: Sequence[float]) -> Image:
    """Return a periodic image (y, x) moved by ``shift_px`` = (+dy rows, +dx columns), any fraction of a pixel."""
    rows, columns = field.shape
    phase_y = np.exp(-2j * np.pi * scipy.fft.fftfreq(rows) * shift_px[0]).astype(np.complex64)
    phase_x = np.exp(-2j * np.pi * scipy.fft.rfftfreq(columns) * shift_px[1]).astype(np.complex64)
    spectrum = scipy.fft.rfft2(field)
    spectrum *= phase_y[:, None]
    spectrum *= phase_x[None, :]
    return np.asarray(scipy.fft.irfft2(spectrum, s=field.shape, overwrite_x=True), dtype=np.float32)


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
