"""The truth of a simulated scan, to compare a result with; one ``.npz`` file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.phantoms.phantom import inside
from txm_stream.phantoms.spectra import REFERENCE_ENERGY_EV


@dataclass(frozen=True, eq=False)
class Truth:
    """What was there when the visits of a scan were measured.

    Attributes
    ----------
    edge_jump, abundances, background
        Edge jump (y, x) in OD, abundances (state, y, x), background (2, y, x) of [1, e] in OD, not shifted.
    names
        Names of the states.
    energies_eV, spectra
        Energy of each visit (T,) in eV and the spectra there (T, state) in edge-jump units.
    shifts_px
        Motion (dy, dx) of the image on the detector in each visit (T, 2) in px; registration must undo it.
    flicker
        Relative beam intensity of each visit (T,), mean over its frames.
    faults
        Fault of each visit (T,), ``""`` where there was none.
    photons, repeats
        Quanta per pixel in the open beam of a visit, all its ``repeats`` frames together.
    beam
        Relative open-beam intensity (y, x), mean 1, detector coordinates.
    electrons_per_adu, read_noise_adu, offset_adu
        The camera: quanta per ADU, read noise and dark level of one frame in ADU.
    bad_pixels
        Dead or hot pixels (y, x), detector coordinates.
    """

    edge_jump: Image
    abundances: Image
    background: Image
    names: tuple[str, ...]
    energies_eV: Vector
    spectra: Matrix
    shifts_px: Matrix
    flicker: Vector
    faults: tuple[str, ...]
    photons: float
    repeats: int
    beam: Image
    bad_pixels: Mask
    electrons_per_adu: float
    read_noise_adu: float
    offset_adu: float

    @property
    def inside(self) -> Mask:
        """Pixels inside the particles (y, x)."""
        return inside(self.edge_jump)

    def optical_density(self) -> Stack:
        """Return the noise-free, registered optical density (T, y, x) of the visits."""
        e = ((self.energies_eV - REFERENCE_ENERGY_EV) / 100).astype(np.float32)[:, None, None]
        spectra = self.spectra.astype(np.float32)
        stack = np.tensordot(spectra, self.abundances * self.edge_jump, axes=1)
        stack += self.background[0]
        stack += e * self.background[1]
        return np.asarray(stack, dtype=np.float32)

    def noise_sigma(self, mask: Mask | None = None, *, flat_visits: float = 1.0) -> Vector:
        """Return the true rms noise of the optical density of each visit (T,).

        The rms is over ``mask`` (y, x), default: the pixels inside the particles that are not bad.
        ``flat_visits`` is the number of flat events (each with as many frames as a visit) averaged into the
        flat that is used; infinite for a perfect flat. Quanta, read noise and rounding of both count; the
        dark is taken as known.
        """
        where = self.inside & ~self.bad_pixels if mask is None else mask
        read = self.repeats * (self.read_noise_adu**2 + 1 / 12) * self.electrons_per_adu**2
        flat = self.photons * self.beam[where].astype(np.float64)
        jump = (self.abundances * self.edge_jump)[:, where].astype(np.float64)
        sigma = np.empty(self.energies_eV.size)
        for visit, energy in enumerate(self.energies_eV):
            od = self.spectra[visit] @ jump + self.background[0][where]
            od = od + (energy - REFERENCE_ENERGY_EV) / 100 * self.background[1][where]
            sample = flat * self.flicker[visit] * np.exp(-od)
            variance = (1 + read / sample) / sample + (1 + read / flat) / flat / flat_visits
            sigma[visit] = np.sqrt(variance.mean())
        return sigma

    def save(self, path: str | Path) -> None:
        """Write everything to one ``.npz`` file, replacing what is there."""
        arrays: dict[str, Any] = {entry.name: np.asarray(getattr(self, entry.name)) for entry in fields(self)}
        arrays["reference_energy_eV"] = np.asarray(REFERENCE_ENERGY_EV)
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Truth:
        """Read what :meth:`save` wrote."""
        values: dict[str, Any] = {}
        with np.load(path, allow_pickle=False) as stored:
            for entry in fields(cls):
                value = stored[entry.name]
                if entry.name in ("names", "faults"):
                    values[entry.name] = tuple(str(item) for item in value)
                else:
                    values[entry.name] = value.item() if value.ndim == 0 else value
        return cls(**values)
