"""A simulated scan as frames, without RunEngine: dark, then per energy sample and flat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from txm_stream.frames import Frame
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.unmixing.references import References


def frames_of(txm: SimulatedTXM, energies_eV: Sequence[float], *, flats: str = "each") -> Iterator[Frame]:
    """Yield the frames of a scan; ``flats`` is "each", "last" or "none"."""
    microscope = txm.microscope
    clock = iter(range(10_000))

    def expose(role: Any, energy: float | None, seq: int) -> Frame:
        microscope.sample_in, microscope.shutter_open = role == "sample", role != "dark"
        return Frame(role, microscope.expose()[1], energy, seq, 1.0, float(next(clock)))

    yield expose("dark", None, 1)
    for i, energy in enumerate(energies_eV):
        microscope.move_energy(energy)
        yield expose("sample", float(energy), i + 1)
        if flats == "each":
            yield expose("flat", float(energy), i + 1)
    if flats == "last":
        for i, energy in enumerate(energies_eV):
            yield expose("flat", float(energy), i + 1)


def references_of(txm: SimulatedTXM) -> References:
    """Return the true spectra of the simulated sample as references."""
    spectra = txm.microscope.phantom.spectra
    grid = np.arange(8200.0, 8500.0, 0.25)
    return References(spectra.names, grid, spectra(grid))
