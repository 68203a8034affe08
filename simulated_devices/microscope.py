"""The physics behind the simulated devices: where everything stands, and what the camera would see."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from txm_stream.arrays import Image
from txm_stream.errors import BadFrameError
from txm_stream.phantoms import Detector, Jitter, Phantom, Truth, draw_flicker, magnified_density
from txm_stream.phantoms.detector import SATURATION_ADU

Role = Literal["sample", "flat", "dark"]
Fault = Literal["dark", "saturated"]


@dataclass(frozen=True)
class Visit:
    """One sample exposure: energy in eV, shift (dy, dx) in px, mean relative beam intensity, fault or ``""``."""

    energy_eV: float
    shift_px: tuple[float, float]
    flicker: float
    fault: str


@dataclass(eq=False)
class Microscope:
    """State of the microscope; the devices change it, the camera exposes with it.

    ``photons`` are quanta per pixel in the open beam, all ``chunk_size`` frames of an event together. Every
    draw depends only on ``seed``, the number of energy moves and the number of exposures so far, so the same
    plan gives the same frames. Memory grows by one :class:`Visit` per sample exposure. ``magnified_about_eV``: a pixel
    on the sample grows as the energy and is nominal there; ``None``: the magnification is held.
    """

    phantom: Phantom
    detector: Detector
    jitter: Jitter
    photons: float
    chunk_size: int
    flicker: float
    seed: int
    energy_eV: float
    magnified_about_eV: float | None = None
    sample_in: bool = True
    shutter_open: bool = True
    faults: dict[int, Fault] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    shift_px: tuple[float, float] = (0.0, 0.0)
    _moves: int = 0
    _exposures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def move_energy(self, energy_eV: float) -> None:
        """Go to an energy in eV; every move, also one to the same energy, shifts the image anew."""
        with self._lock:
            self.energy_eV = float(energy_eV)
            self.shift_px = self.jitter.shift(self._moves)
            self._moves += 1

    def add_fault(self, visit: int, kind: Fault) -> None:
        """Let a visit (from 0) go wrong: ``"dark"`` is a beam dump, ``"saturated"`` an overexposed camera."""
        if kind not in get_args(Fault):
            raise BadFrameError(f"fault {kind!r} is unknown; choose one of {', '.join(get_args(Fault))}")
        self.faults[visit] = kind

    def role(self) -> Role:
        """Return what an exposure would be now."""
        if not self.shutter_open:
            return "dark"
        return "sample" if self.sample_in else "flat"

    def expose(self, *, frames: int | None = None, exposure: float = 1.0) -> tuple[Role, NDArray[np.uint16]]:
        """Take one event: return its role and its counts in ADU, uint16 (frames, y, x).

        ``frames``: other than ``chunk_size``; ``exposure`` of a frame over the nominal one.
        """
        count = self.chunk_size if frames is None else frames
        with self._lock:
            role = self.role()
            rng = np.random.default_rng([self.seed, 31, self._exposures])
            self._exposures += 1
            fault = self.faults.get(len(self.visits), "") if role == "sample" else ""
            intensity = draw_flicker(self.flicker, rng=rng, repeats=count)
            energy, shift = self.energy_eV, self.shift_px
            if role == "sample":
                self.visits.append(Visit(energy, shift, float(intensity.mean()), fault))
        transmission = np.exp(-self._density(energy, shift)) if role == "sample" else None
        photons = self.photons * exposure * count / self.chunk_size
        counts = self.detector.expose(
            transmission,
            photons=0.0 if role == "dark" or fault == "dark" else photons,
            rng=rng,
            repeats=count,
            intensity=intensity,
        )
        if fault == "saturated":
            counts[:] = SATURATION_ADU
        return role, counts

    def _density(self, energy_eV: float, shift_px: tuple[float, float]) -> Image:
        if self.magnified_about_eV is None:
            return self.phantom.optical_density(energy_eV, shift_px)
        return magnified_density(self.phantom, energy_eV, shift_px, pixel=energy_eV / self.magnified_about_eV)

    def truth(self) -> Truth:
        """Return the truth of the visits so far."""
        with self._lock:
            visits = tuple(self.visits)
        energies = np.array([visit.energy_eV for visit in visits], dtype=np.float64)
        return Truth(
            edge_jump=self.phantom.edge_jump.copy(),
            abundances=self.phantom.abundances.copy(),
            background=self.phantom.background.copy(),
            names=self.phantom.names,
            energies_eV=energies,
            spectra=self.phantom.spectra(energies),
            shifts_px=np.array([visit.shift_px for visit in visits], dtype=np.float64).reshape(-1, 2),
            flicker=np.array([visit.flicker for visit in visits], dtype=np.float64),
            faults=tuple(visit.fault for visit in visits),
            photons=float(self.photons),
            repeats=self.chunk_size,
            beam=self.detector.beam,
            bad_pixels=self.detector.dead | self.detector.hot,
            electrons_per_adu=self.detector.electrons_per_adu,
            read_noise_adu=self.detector.read_noise_adu,
            offset_adu=self.detector.offset_adu,
        )
