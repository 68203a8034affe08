"""A simulated transmission X-ray microscope made of ophyd devices."""

from __future__ import annotations

if __name__ != "txm_stream.simulated_devices":
    raise ImportError(
        "import this package as txm_stream.simulated_devices, not by its bare name: "
        "a second copy of every class would exist"
    )

from txm_stream.simulated_devices.beamlines import simulated_beamline
from txm_stream.simulated_devices.clock import VirtualClock
from txm_stream.simulated_devices.txm import SimulatedTXM

__all__ = ["SimulatedTXM", "VirtualClock", "simulated_beamline"]
