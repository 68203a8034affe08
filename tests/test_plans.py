"""The scan plan: order of frames, metadata, unusual energy lists, clean ends."""

from __future__ import annotations

from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from txm_stream.callbacks.plans import ScanDevices, take_energy, xanes_scan
from txm_stream.errors import BadStackError
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = [8350.0, 8250.0, 8350.0]


@pytest.fixture
def RE() -> RunEngine:
    return RunEngine({}, context_managers=[])


@pytest.fixture
def txm() -> SimulatedTXM:
    return SimulatedTXM((32, 32), chunk_size=2)


def frames(engine: RunEngine, plan: Any) -> tuple[dict[str, Any], list[tuple[str, float | None]], dict[str, Any]]:
    streams: dict[str, str] = {}
    order: list[tuple[str, float | None]] = []
    ends: dict[str, Any] = {}

    def collect(name: str, doc: dict[str, Any]) -> None:
        if name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "event":
            order.append((streams[doc["descriptor"]], doc["data"].get("energy")))
        elif name in ("start", "stop"):
            ends[name] = doc

    engine(plan, collect)
    return ends["start"], order, ends["stop"]


def test_flat_follows_its_sample(RE: RunEngine, txm: SimulatedTXM) -> None:
    _, order, stop = frames(RE, xanes_scan(txm, ENERGIES, n_darks=2))
    each = [(stream, energy) for energy in ENERGIES for stream in ("primary", "flat")]
    assert order == [("dark", None), ("dark", None), *each]
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"dark": 2, "primary": 3, "flat": 3}
    assert txm.shutter.get() == "open"
    assert txm.sample_x.position == txm.sample_in
    assert txm.truth().energies_eV.tolist() == ENERGIES


def test_flats_at_the_end_or_not_at_all(RE: RunEngine, txm: SimulatedTXM) -> None:
    _, order, _ = frames(RE, xanes_scan(txm, ENERGIES, flats="last"))
    assert order[1:] == [("primary", e) for e in ENERGIES] + [("flat", e) for e in ENERGIES]
    start, order, _ = frames(RE, xanes_scan(txm, ENERGIES, flats="none", n_darks=0))
    assert order == [("primary", e) for e in ENERGIES]
    assert start["num_bkg_images"] == 0
    assert start["num_dark_images"] == 0


def test_start_document_says_what_a_consumer_needs(RE: RunEngine, txm: SimulatedTXM) -> None:
    plan = xanes_scan(
        txm, ENERGIES, sample="NMC", exposure_time=0.3, note="first", zone_plate={"drn_nm": 30}, md={"truth": "t.npz"}
    )
    start, _, _ = frames(RE, plan)
    expected = {
        "plan_name": "xanes_scan",
        "detectors": ["camera"],
        "eng_list": ENERGIES,
        "num_eng": 3,
        "chunk_size": 2,
        "num_bkg_images": 2,
        "num_dark_images": 2,
        "exposure_time": 0.3,
        "XEng": 8.35,
        "zone_plate": {"drn_nm": 30},
        "sample": "NMC",
        "note": "first",
        "truth": "t.npz",
    }
    assert {key: start[key] for key in expected} == expected
    start, _, _ = frames(RE, xanes_scan(txm, ENERGIES))
    assert start["exposure_time"] == pytest.approx(0.1)


def test_other_devices_need_only_the_names(RE: RunEngine, txm: SimulatedTXM) -> None:
    devices = ScanDevices(energy=txm.energy, camera=txm.camera, sample_x=txm.sample_x, shutter=txm.shutter)
    start, order, _ = frames(RE, xanes_scan(devices, ENERGIES[:1]))
    assert [stream for stream, _ in order] == ["dark", "primary", "flat"]
    assert start["chunk_size"] == 1


def test_every_visit_begins_at_a_checkpoint(txm: SimulatedTXM) -> None:
    commands = [message.command for message in take_energy(txm, 8350.0, flat=False)]
    assert commands[0] == "checkpoint"
    assert commands.index("set") < commands.index("trigger") < commands.index("save")
    plan = [message.command for message in xanes_scan(txm, ENERGIES)]
    assert plan.count("stage") == plan.count("unstage") == 1
    assert plan.count("checkpoint") >= len(ENERGIES)


def test_failing_camera_ends_the_run_and_leaves_the_sample_in(RE: RunEngine, tmp_path: Any) -> None:
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    txm = SimulatedTXM((32, 32), delivery="hdf5", directory=blocked)
    stops: list[dict[str, Any]] = []
    with pytest.raises(FailedStatus):
        RE(xanes_scan(txm, ENERGIES), {"stop": [lambda name, doc: stops.append(doc)]})
    assert stops[0]["exit_status"] == "fail"
    assert txm.shutter.get() == "open"
    assert txm.microscope.sample_in


@pytest.mark.parametrize(("energies", "flats"), [([], "each"), (ENERGIES, "often")])
def test_bad_requests_are_refused(txm: SimulatedTXM, energies: list[float], flats: Any) -> None:
    with pytest.raises(BadStackError):
        list(xanes_scan(txm, energies, flats=flats))
