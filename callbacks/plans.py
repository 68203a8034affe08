"""Scan plans: a XANES scan in the order of the public FXI plans."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp

from txm_stream.errors import BadStackError

Flats = Literal["each", "last", "none"]
Plan = Generator[Any, Any, Any]


class XanesDevices(Protocol):
    """What a XANES plan moves and reads; :class:`~txm_stream.simulated_devices.SimulatedTXM` is one."""

    @property
    def energy(self) -> Any:
        """Energy axis in eV."""

    @property
    def camera(self) -> Any:
        """Detector; its image is the data key ``<name>_image``."""

    @property
    def sample_x(self) -> Any:
        """Stage that takes the sample out of the beam."""

    @property
    def shutter(self) -> Any:
        """Shutter for the darks."""

    @property
    def sample_in(self) -> Any:
        """Position of ``sample_x`` with the sample in the beam."""

    @property
    def sample_out(self) -> Any:
        """Position of ``sample_x`` with the sample out of the beam."""

    @property
    def shutter_open(self) -> Any:
        """Value that opens the shutter."""

    @property
    def shutter_closed(self) -> Any:
        """Value that closes the shutter."""

    @property
    def chunk_size(self) -> int:
        """Frames per event."""

    @property
    def exposure_time(self) -> float:
        """Exposure time of one frame in s."""


@dataclass(frozen=True)
class ScanDevices:
    """The devices of a beamline, named for :func:`xanes_scan`; see :class:`XanesDevices`."""

    energy: Any
    camera: Any
    sample_x: Any
    shutter: Any
    sample_in: Any = 0.0
    sample_out: Any = 5.0
    shutter_open: Any = "open"
    shutter_closed: Any = "closed"
    chunk_size: int = 1
    exposure_time: float = 0.1


def take_darks(devices: XanesDevices, n: int) -> Plan:
    """Close the shutter, take ``n`` events in stream "dark", and open it again."""
    if n < 1:
        return
    yield from bps.mv(devices.shutter, devices.shutter_closed)
    for _ in range(n):
        yield from bps.trigger_and_read([devices.camera], name="dark")
    yield from bps.mv(devices.shutter, devices.shutter_open)


def take_flat(devices: XanesDevices) -> Plan:
    """Take the sample out, one event in stream "flat" at the present energy, and put the sample back."""
    yield from bps.mv(devices.sample_x, devices.sample_out)
    yield from bps.trigger_and_read([devices.camera, devices.energy], name="flat")
    yield from bps.mv(devices.sample_x, devices.sample_in)


def put_back(devices: XanesDevices) -> Plan:
    """Open the shutter and put the sample into the beam."""
    yield from bps.mv(devices.shutter, devices.shutter_open, devices.sample_x, devices.sample_in)


def take_energy(devices: XanesDevices, energy_eV: float, *, flat: bool = True) -> Plan:
    """Make one visit: checkpoint, move to ``energy_eV``, one event in "primary", and a flat if wanted."""
    yield from bps.checkpoint()
    yield from bps.mv(devices.energy, energy_eV)
    yield from bps.mv(devices.sample_x, devices.sample_in)
    yield from bps.trigger_and_read([devices.camera, devices.energy], name="primary")
    if flat:
        yield from take_flat(devices)


def start_metadata(
    devices: XanesDevices,
    energies_eV: Sequence[float],
    *,
    plan_name: str,
    n_darks: int,
    flats: Flats,
    sample: str = "",
    exposure_time: float | None = None,
    note: str = "",
    zone_plate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the start document's keys of a XANES scan, named as FXI names them; ``eng_list`` is in eV."""
    energies = [float(energy) for energy in energies_eV]
    return {
        "plan_name": plan_name,
        "scan_type": "2D_xanes",
        "detectors": [devices.camera.name],
        "motors": [devices.energy.name],
        "eng_list": energies,
        "num_eng": len(energies),
        "num_points": len(energies),
        "num_pos": 1,
        "chunk_size": devices.chunk_size,
        "num_bkg_images": 0 if flats == "none" else devices.chunk_size,
        "num_dark_images": n_darks * devices.chunk_size,
        "exposure_time": float(devices.exposure_time if exposure_time is None else exposure_time),
        "XEng": energies[0] / 1000,
        "zone_plate": dict(zone_plate or {}),
        "sample": sample,
        "note": note,
        "flats": flats,
    }


def xanes_scan(
    devices: XanesDevices,
    energies_eV: Sequence[float],
    *,
    n_darks: int = 1,
    flats: Flats = "each",
    sample: str = "",
    exposure_time: float | None = None,
    note: str = "",
    zone_plate: Mapping[str, Any] | None = None,
    restage: bool = False,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan the energies: darks once, then at each energy the sample and a flat.

    Parameters
    ----------
    devices
        Energy axis, camera, sample stage and shutter.
    energies_eV
        Energies in eV, in the order of measurement; any order, repeats welcome.
    n_darks
        Dark events before the first energy; 0 for none.
    flats
        ``"each"``: after every sample event (FXI ``xanes_scan2``); ``"last"``: all samples first, then a flat at
        every energy (``xanes_scan``); ``"none"`` (``xanes_scan_img_only``).
    sample, note, zone_plate
        For the start document.
    exposure_time
        Exposure of one frame in s for the start document; default: what ``devices`` says.
    restage
        Unstage and stage the camera before every visit, so that one run has several files per stream; else it
        is staged once.
    md
        More metadata; wins over the rest. A simulated scan puts the path of its truth file under "truth".

    Returns
    -------
    The uid of the run.

    Raises
    ------
    BadStackError
        No energies, or ``flats`` is unknown.
    """
    energies = [float(energy) for energy in energies_eV]
    if not energies:
        raise BadStackError("a XANES scan needs at least one energy, got none")
    if flats not in ("each", "last", "none"):
        raise BadStackError(f"flats is {flats!r}; choose 'each', 'last' or 'none'")
    metadata = start_metadata(
        devices,
        energies,
        plan_name="xanes_scan",
        n_darks=n_darks,
        flats=flats,
        sample=sample,
        exposure_time=exposure_time,
        note=note,
        zone_plate=zone_plate,
    )
    metadata.update(md or {})

    def visits() -> Plan:
        yield from take_darks(devices, n_darks)
        for index, energy in enumerate(energies):
            if restage and index:
                yield from bps.unstage(devices.camera, wait=True)
                yield from bps.stage(devices.camera, wait=True)
            yield from take_energy(devices, energy, flat=flats == "each")
        if flats == "last":
            for energy in energies:
                yield from bps.checkpoint()
                yield from bps.mv(devices.energy, energy)
                yield from take_flat(devices)

    run = bpp.run_wrapper(visits(), md=metadata)
    return (yield from bpp.finalize_wrapper(bpp.stage_wrapper(run, [devices.camera]), put_back(devices)))
