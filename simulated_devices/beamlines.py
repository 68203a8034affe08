"""Simulated microscopes that are named and behave as those of three beamlines; see ``profiles/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from txm_stream.errors import BadFrameError
from txm_stream.simulated_devices.txm import SimulatedTXM

Beamline = Literal["fxi", "ssrl_6_2c", "aps_32id"]


def simulated_beamline(
    name: Beamline, shape: tuple[int, int] = (256, 256), *, energies_eV: Sequence[float], **options: Any
) -> SimulatedTXM:
    """Return the microscope of a beamline, for the plans in :mod:`txm_stream.callbacks.beamline_plans`.

    Parameters
    ----------
    name
        ``"fxi"``: camera "Andor" with five frames per event, energy "XEng" in keV; ``"ssrl_6_2c"``: three frames, and a
        pixel that grows as the energy; ``"aps_32id"``: one frame, and a camera that needs no darks.
    energies_eV
        Of the scan, in eV; the pixel at 6-2c is nominal at their mean.
    options
        Of :class:`SimulatedTXM`.

    Raises
    ------
    BadFrameError
        There is no such beamline.
    """
    if name == "fxi":
        own: dict[str, Any] = {"camera_name": "Andor", "energy_kev_name": "XEng", "chunk_size": 5}
    elif name == "ssrl_6_2c":
        own = {"chunk_size": 3, "magnified_about_eV": float(np.mean(energies_eV))}
    elif name == "aps_32id":
        own = {"chunk_size": 1, "dark_adu": 0.0}
    else:
        raise BadFrameError(f"beamline {name!r} is unknown; choose one of {', '.join(get_args(Beamline))}")
    return SimulatedTXM(shape, **(own | options))
