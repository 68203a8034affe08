"""The simulated microscope in a real RunEngine: frames, documents, files, truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd.utils import LimitError

from txm_stream.callbacks.plans import xanes_scan
from txm_stream.errors import BadFrameError
from txm_stream.phantoms import Truth, make_phantom
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = [8300.0, 8345.0, 8345.0, 8340.0]
SHAPE = (48, 64)


@pytest.fixture
def RE() -> RunEngine:
    return RunEngine({}, context_managers=[])


def run(engine: RunEngine, plan: Any) -> list[tuple[str, dict[str, Any]]]:
    documents: list[tuple[str, dict[str, Any]]] = []
    engine(plan, lambda name, doc: documents.append((name, doc)))
    return documents


def events(documents: list[tuple[str, dict[str, Any]]], stream: str) -> list[dict[str, Any]]:
    uids = [doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream]
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] in uids]


def images(documents: list[tuple[str, dict[str, Any]]], stream: str) -> np.ndarray:
    return np.array([event["data"]["camera_image"] for event in events(documents, stream)])


def from_files(documents: list[tuple[str, dict[str, Any]]], stream: str) -> np.ndarray:
    resources = {doc["uid"]: doc for name, doc in documents if name == "resource"}
    datums = {doc["datum_id"]: doc for name, doc in documents if name == "datum"}
    frames = []
    for event in events(documents, stream):
        datum = datums[event["data"]["camera_image"]]
        resource = resources[datum["resource"]]
        assert resource["spec"] == "AD_HDF5"
        n, point = resource["resource_kwargs"]["frame_per_point"], datum["datum_kwargs"]["point_number"]
        with h5py.File(Path(resource["root"]) / resource["resource_path"], "r", swmr=True) as file:
            frames.append(file["/entry/data/data"][n * point : n * (point + 1)])
    return np.array(frames)


def test_inline_frames_show_the_sample_at_the_true_shift(RE: RunEngine) -> None:
    txm = SimulatedTXM(SHAPE, photons=2e4, seed=3, flicker=0.0)
    documents = run(RE, xanes_scan(txm, ENERGIES))
    truth = txm.truth()
    sample, flat, dark = images(documents, "primary"), images(documents, "flat"), images(documents, "dark")
    assert sample.shape == (4, 5, *SHAPE)
    assert sample.dtype == np.uint16
    assert dark.shape == (1, 5, *SHAPE)
    level = dark[0].mean(axis=0)
    good = ~truth.bad_pixels
    for visit, energy in enumerate(ENERGIES):
        counts = sample[visit].mean(axis=0) - level
        open_beam = flat[visit].mean(axis=0) - level
        measured = np.log(np.maximum(open_beam, 1) / np.maximum(counts, 1))
        at_shift = txm.microscope.phantom.optical_density(energy, truth.shifts_px[visit])
        error = (measured - at_shift)[good]
        assert error.std() < 0.02
        assert abs(np.median(error)) < 0.005
        assert (measured - truth.optical_density()[visit])[good].std() > 2 * error.std()  # it had moved
    assert truth.energies_eV.tolist() == ENERGIES
    assert np.abs(np.diff(truth.shifts_px, axis=0)).min() > 0  # every move draws anew, a repeat too


def test_both_deliveries_and_both_file_layouts_give_the_same_frames(tmp_path: Path) -> None:
    inline = SimulatedTXM(SHAPE, seed=5)
    documents = run(RunEngine({}, context_managers=[]), xanes_scan(inline, ENERGIES))
    again = run(RunEngine({}, context_managers=[]), xanes_scan(SimulatedTXM(SHAPE, seed=5), ENERGIES))
    other = run(RunEngine({}, context_managers=[]), xanes_scan(SimulatedTXM(SHAPE, seed=6), ENERGIES))
    for shared, restage in ((False, False), (True, False), (False, True)):
        txm = SimulatedTXM(SHAPE, seed=5, delivery="hdf5", directory=tmp_path, shared_file=shared)
        filed = run(RunEngine({}, context_managers=[]), xanes_scan(txm, ENERGIES, restage=restage))
        for stream in ("primary", "flat", "dark"):
            expected = images(documents, stream)
            assert np.array_equal(expected, images(again, stream))
            assert not np.array_equal(expected, images(other, stream))
            assert np.array_equal(expected, from_files(filed, stream))
        n_files = sum(name == "resource" for name, _ in filed)
        assert n_files == (1 if shared else 9 if restage else 3)
        assert np.array_equal(txm.truth().shifts_px, inline.truth().shifts_px)


def test_hdf5_documents_become_stream_documents(RE: RunEngine, tmp_path: Path) -> None:
    from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

    txm = SimulatedTXM(SHAPE, delivery="hdf5", directory=tmp_path)
    documents = run(RE, xanes_scan(txm, ENERGIES))
    descriptors = [doc for name, doc in documents if name == "descriptor"]
    key = descriptors[1]["data_keys"]["camera_image"]
    assert (key["external"], key["dtype"], key["dtype_numpy"]) == ("FILESTORE:", "array", "<u2")
    assert list(key["shape"]) == [5, *SHAPE]
    normalizer = RunNormalizer()
    modern: list[tuple[str, dict[str, Any]]] = []
    normalizer.subscribe(lambda name, doc: modern.append((name, doc)))
    for name, doc in documents:
        getattr(normalizer, name)(doc)
    stream_resources = [doc for name, doc in modern if name == "stream_resource"]
    stream_datums = [doc for name, doc in modern if name == "stream_datum"]
    assert len(stream_resources) == 3
    assert len(stream_datums) == 9
    assert {doc["mimetype"] for doc in stream_resources} == {"application/x-hdf5"}
    primary = next(doc["uid"] for doc in descriptors if doc["name"] == "primary")
    mine = [doc for doc in stream_datums if doc["descriptor"] == primary]
    assert [doc["indices"]["start"] for doc in mine] == [0, 1, 2, 3]
    resource = next(doc for doc in stream_resources if doc["uid"] == mine[0]["stream_resource"])
    assert resource["parameters"]["multiplier"] == 5
    with h5py.File(unquote(urlparse(resource["uri"]).path), "r") as file:
        stored = file[resource["parameters"]["dataset"]][()]
    assert np.array_equal(stored.reshape(4, 5, *SHAPE), from_files(documents, "primary"))


def test_file_can_be_read_while_it_grows(RE: RunEngine, tmp_path: Path) -> None:
    txm = SimulatedTXM(SHAPE, delivery="hdf5", directory=tmp_path)
    resources: list[dict[str, Any]] = []
    seen: list[int] = []

    def look(name: str, doc: dict[str, Any]) -> None:
        if name == "resource":
            resources.append(doc)
        if name == "event":
            path = Path(resources[-1]["root"]) / resources[-1]["resource_path"]
            with h5py.File(path, "r", libver="latest", swmr=True) as file:
                seen.append(len(file["/entry/data/data"]))

    RE(xanes_scan(txm, ENERGIES, n_darks=0, flats="none"), look)
    assert seen == [5, 10, 15, 20]


def test_exposures_take_their_time_without_blocking_the_run_engine(RE: RunEngine) -> None:
    txm = SimulatedTXM((32, 32), exposure_s=0.02, chunk_size=5, move_time_s=0.05)
    status = txm.camera.trigger()
    assert not status.done
    status.wait(5)
    start = time.monotonic()
    run(RE, xanes_scan(txm, ENERGIES, n_darks=1, flats="each"))
    took = time.monotonic() - start
    assert took >= 9 * 0.1 + 4 * 0.05
    assert took < 3 * (9 * 0.1 + 4 * 0.05) + 1


def test_energy_in_ev_and_kev_is_one_axis(RE: RunEngine) -> None:
    txm = SimulatedTXM((32, 32), move_time_s=0.01, settle_time_s=0.01)
    RE(bps.mv(txm.energy, 8350.0))
    assert txm.energy_kev.position == pytest.approx(8.35)
    zone_plate = txm.zone_plate.position
    first = txm.microscope.shift_px
    RE(bps.mv(txm.energy_kev, 8.34))
    assert txm.energy.position == pytest.approx(8340.0, abs=1e-6)
    assert zone_plate - txm.zone_plate.position == pytest.approx(50.9)
    assert txm.microscope.shift_px != first
    with pytest.raises(LimitError):
        RE(bps.mv(txm.energy, 8.35))


def test_no_move_no_shift(RE: RunEngine) -> None:
    txm = SimulatedTXM((32, 32))

    def plan() -> Any:
        yield from bps.mv(txm.energy, 8350.0)
        for _ in range(2):
            yield from bps.trigger_and_read([txm.camera, txm.energy])

    run(RE, bpp.run_wrapper(plan()))
    shifts = txm.truth().shifts_px
    assert np.array_equal(shifts[0], shifts[1])
    assert np.any(shifts[0] != 0)


def test_faults_come_on_demand_and_the_truth_knows(RE: RunEngine, tmp_path: Path) -> None:
    txm = SimulatedTXM(SHAPE, seed=1)
    txm.fault(1, "dark")
    txm.fault(2, "saturated")
    with pytest.raises(BadFrameError, match="choose one of dark, saturated"):
        txm.fault(3, "fire")
    documents = run(RE, xanes_scan(txm, ENERGIES))
    frames = images(documents, "primary")
    good = ~txm.truth().bad_pixels
    assert frames[1][:, good].mean() == pytest.approx(100, abs=0.5)
    assert frames[2].min() == 65535
    assert frames[0][:, good].mean() > 150
    txm.save_truth(tmp_path / "truth.npz")
    assert Truth.load(tmp_path / "truth.npz").faults == ("", "dark", "saturated", "")


def test_camera_says_what_is_wrong(RE: RunEngine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a directory"):
        SimulatedTXM((32, 32), delivery="hdf5")
    txm = SimulatedTXM((32, 32), delivery="hdf5", directory=tmp_path)
    with pytest.raises(RuntimeError, match="not staged"):
        txm.camera.trigger()
    with pytest.raises(RuntimeError, match="trigger it first"):
        txm.camera.read()
    with pytest.raises(ValueError, match="'open' or 'closed'"):
        txm.shutter.set("ajar")
    with pytest.raises(BadFrameError, match="needs 80"):
        SimulatedTXM(phantom=make_phantom((32, 32)), jitter_px=20)
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    txm = SimulatedTXM((32, 32), delivery="hdf5", directory=blocked)
    with pytest.raises(FailedStatus):
        RE(xanes_scan(txm, ENERGIES))


def test_stronger_beam_does_not_saturate() -> None:
    txm = SimulatedTXM((64, 64), photons=5e5)
    txm.microscope.sample_in = False
    _, frames = txm.microscope.expose()
    assert frames[:, ~txm.truth().bad_pixels].max() < 60000
