"""The phantom: what is really there, and the noise-free optical density at any energy and any shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from txm_stream.arrays import Image, Mask, Stack
from txm_stream.errors import BadFrameError
from txm_stream.phantoms.spectra import REFERENCE_ENERGY_EV, Spectra

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
