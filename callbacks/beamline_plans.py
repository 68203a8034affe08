"""Scan plans as three beamlines run them: their streams, keys, units, order of frames and re-staged cameras.

For simulation and tests, see :func:`txm_stream.simulated_devices.simulated_beamline`; a real beamline has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp

from txm_stream.callbacks.plans import Flats, Plan, put_back
from txm_stream.errors import BadStackError

_POSITION_MM = 0.05
_FXI_PLANS: dict[Flats, str] = {"each": "xanes_scan2", "last": "xanes_scan", "none": "xanes_scan_img_only"}


def fxi_xanes(
    txm: Any,
    energies_eV: Sequence[float],
    *,
    flats: Flats = "each",
    n_positions: int = 1,
    n_passes: int = 1,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan as NSLS-II FXI does: darks, then at every energy the sample at each position and a flat.

    Parameters
    ----------
    txm
        ``simulated_beamline("fxi", …)``.
    energies_eV
        In eV; the documents have keV.
    flats
        ``"each"``: ``xanes_scan2``, with several positions ``multipos_2D_xanes_scan2``; ``"last"``: ``xanes_scan``, all
        flats at the end; ``"none"``: ``xanes_scan_img_only``.
    n_positions, n_passes
        Positions at every energy, and passes through all energies, in one run.

    Notes
    -----
    The camera is staged anew for the flats, so that a stream has several files; zone plate and axes are in the stream
    "baseline". ``plan_args["eng_list"]`` is the string "eng_list", as there.
    """
    energies_kev = _checked(energies_eV, flats)
    plan_name = _FXI_PLANS[flats] if n_positions == 1 else "multipos_2D_xanes_scan2"
    start = {
        "plan_name": plan_name,
        "plan_args": {"eng_list": "eng_list", "chunk_size": txm.chunk_size},
        "detectors": [txm.camera.name],
        "eng_list": energies_kev,
        "num_eng": len(energies_kev),
        "num_pos": n_positions,
        "repeat_num": n_passes,
        "chunk_size": txm.chunk_size,
        "num_bkg_images": 0 if flats == "none" else txm.chunk_size,
        "num_dark_images": txm.chunk_size,
        "exposure_time": float(txm.exposure_time),
        "XEng": energies_kev[0],
        "zone_plate": {"width": 30.0, "diameter": 244.0},
        "note": "",
    } | dict(md or {})

    def flat() -> Plan:
        yield from _restaged(txm.camera)
        yield from bps.mv(txm.sample_x, txm.sample_out)
        yield from bps.trigger_and_read([txm.camera, txm.energy_kev, txm.sample_x], name="flat")
        yield from bps.mv(txm.sample_x, txm.sample_in)
        yield from _restaged(txm.camera)

    def visits() -> Plan:
        yield from bps.mv(txm.shutter, txm.shutter_closed)
        yield from bps.trigger_and_read([txm.camera], name="dark")
        yield from bps.mv(txm.shutter, txm.shutter_open)
        for _ in range(n_passes):
            for energy_kev in energies_kev:
                yield from bps.checkpoint()
                yield from bps.mv(txm.energy_kev, energy_kev)
                for position in range(n_positions):
                    yield from bps.mv(txm.sample_x, txm.sample_in + position * _POSITION_MM)
                    yield from bps.trigger_and_read([txm.camera, txm.energy_kev, txm.sample_x], name="primary")
                if flats == "each":
                    yield from flat()
        if flats == "last":
            for energy_kev in energies_kev:
                yield from bps.checkpoint()
                yield from bps.mv(txm.energy_kev, energy_kev)
                yield from flat()

    axes = [txm.zone_plate, txm.energy_kev, txm.sample_x]
    return (yield from bpp.baseline_wrapper(_run(txm, visits(), start), axes, name="baseline"))


def fxi_xanes_3d(
    txm: Any,
    energies_eV: Sequence[float],
    *,
    n_projections: int = 10,
    note: str = "",
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan as NSLS-II FXI does in three dimensions (``xanes_3D``): at every energy a run ``fly_scan`` of its own.

    Parameters
    ----------
    txm
        ``simulated_beamline("fxi", …)``. Its sample is flat: every projection shows the same.
    n_projections
        Frames of one run, a multiple of ``txm.chunk_size``, so many in each event.
    note
        Common to the runs: their notes are ``<note>_energy=<keV>``, which is all that says that they belong together.
    """
    energies_kev = _checked(energies_eV, "each")
    if n_projections < 1 or n_projections % txm.chunk_size:
        raise BadStackError(f"n_projections is {n_projections}; choose a multiple of {txm.chunk_size}")
    axes = [txm.zone_plate, txm.energy_kev, txm.sample_x]

    def fly_scan(energy_kev: float) -> Plan:
        yield from bps.mv(txm.shutter, txm.shutter_closed)
        yield from bps.trigger_and_read([txm.camera], name="dark")
        yield from bps.mv(txm.shutter, txm.shutter_open)
        for _ in range(n_projections // txm.chunk_size):
            yield from bps.trigger_and_read([txm.camera, txm.sample_x], name="primary")
        yield from bps.mv(txm.sample_x, txm.sample_out)
        yield from bps.trigger_and_read([txm.camera, txm.sample_x], name="flat")
        yield from bps.mv(txm.sample_x, txm.sample_in)

    for energy_kev in energies_kev:
        yield from bps.mv(txm.energy_kev, energy_kev)
        start = {
            "plan_name": "fly_scan",
            "plan_args": {"exposure_time": float(txm.exposure_time), "relative_rot_angle": 180, "rs": 4},
            "detectors": [txm.camera.name],
            "XEng": energy_kev,
            "num_bkg_images": txm.chunk_size,
            "num_dark_images": txm.chunk_size,
            "exposure_time": float(txm.exposure_time),
            "note": f"{note}_energy={energy_kev}",
        }
        run = _run(txm, fly_scan(energy_kev), start | dict(md or {}))
        yield from bpp.baseline_wrapper(run, axes, name="baseline")


def ssrl_xanes(
    txm: Any,
    energies_eV: Sequence[float],
    *,
    n_flats: int = 10,
    flat_exposure: float = 0.6,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan as SSRL 6-2c does: three sample frames and ten shorter flats at every energy, in alternating order.

    Parameters
    ----------
    txm
        ``simulated_beamline("ssrl_6_2c", …)``.
    n_flats, flat_exposure
        Frames of a flat, and their exposure over that of a sample frame.

    Notes
    -----
    Frames per event and exposure differ between the streams; both are in their descriptors.
    """
    energies = _checked(energies_eV, "each", factor=1.0)
    frames, exposure_s = txm.chunk_size, float(txm.exposure_time)
    start = {"plan_name": "ssrl_xanes", "detectors": [txm.camera.name], "eng_list": energies} | dict(md or {})

    def configured(count: int, seconds: float) -> Plan:
        yield from bps.mv(txm.camera.chunk_size, count, txm.camera.exposure_time, seconds)

    def sample() -> Plan:
        yield from bps.mv(txm.sample_x, txm.sample_in)
        yield from configured(frames, exposure_s)
        yield from bps.trigger_and_read([txm.camera, txm.energy, txm.zone_plate], name="primary")

    def flat() -> Plan:
        yield from bps.mv(txm.sample_x, txm.sample_out)
        yield from configured(n_flats, flat_exposure * exposure_s)
        yield from bps.trigger_and_read([txm.camera, txm.energy], name="flat")

    def visits() -> Plan:
        yield from bps.mv(txm.shutter, txm.shutter_closed)
        yield from configured(frames, exposure_s)
        yield from bps.trigger_and_read([txm.camera], name="dark")
        yield from bps.mv(txm.shutter, txm.shutter_open)
        for index, energy in enumerate(energies):
            yield from bps.checkpoint()
            yield from bps.mv(txm.energy, energy)
            for part in (sample, flat) if index % 2 == 0 else (flat, sample):
                yield from part()

    def as_before() -> Plan:
        yield from configured(frames, exposure_s)
        yield from put_back(txm)

    return (yield from bpp.finalize_wrapper(_run(txm, visits(), start), as_before()))


def aps_xanes(txm: Any, energies_eV: Sequence[float], *, md: Mapping[str, Any] | None = None) -> Plan:
    """Scan as APS 32-ID does: a sample frame, then a flat at every energy; no darks; read-backs of all axes.

    Parameters
    ----------
    txm
        ``simulated_beamline("aps_32id", …)``.
    """
    energies = _checked(energies_eV, "each", factor=1.0)
    start = {"plan_name": "aps_xanes", "detectors": [txm.camera.name], "num_eng": len(energies)} | dict(md or {})
    read = [txm.camera, txm.energy, txm.zone_plate, txm.sample_x]

    def visits() -> Plan:
        for energy in energies:
            yield from bps.checkpoint()
            yield from bps.mv(txm.energy, energy)
            yield from bps.mv(txm.sample_x, txm.sample_in)
            yield from bps.trigger_and_read(read, name="primary")
            yield from bps.mv(txm.sample_x, txm.sample_out)
            yield from bps.trigger_and_read(read, name="flat")

    return (yield from _run(txm, visits(), start))


def _checked(energies_eV: Sequence[float], flats: Flats, *, factor: float = 1e-3) -> list[float]:
    if not len(energies_eV):
        raise BadStackError("a XANES scan needs at least one energy, got none")
    if flats not in _FXI_PLANS:
        raise BadStackError(f"flats is {flats!r}; choose 'each', 'last' or 'none'")
    return [float(energy) * factor for energy in energies_eV]


def _restaged(camera: Any) -> Plan:
    yield from bps.unstage(camera, wait=True)
    yield from bps.stage(camera, wait=True)


def _run(txm: Any, visits: Plan, start: Mapping[str, Any]) -> Plan:
    run = bpp.run_wrapper(visits, md=dict(start))
    return (yield from bpp.finalize_wrapper(bpp.stage_wrapper(run, [txm.camera]), put_back(txm)))
