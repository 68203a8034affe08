"""Live and replayed runs through a real server give the same arrays, and a replayed run is found and read exactly."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from ophyd.utils import LimitError

from txm_stream.callbacks import XanesStream, replay
from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.sources import find_run, open_source, stored_documents
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.errors import NoSuchRunError, UnreachableError
from txm_stream.frames import Frame
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = [8320.0, 8333.0, 8340.0, 8346.0, 8352.0, 8360.0, 8390.0, 8420.0]
Delivery = Literal["inline", "hdf5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    return Profile(scratch_dir=folder / "scratch")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(folder / "server", readable_storage=[folder / "camera"]) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def run_engine() -> Iterator[RunEngine]:
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


Scans = dict[Delivery, tuple[str, RunReport, list[Frame]]]


@pytest.fixture(scope="module")
def scans(folder: Path, server: EmbeddedServer, run_engine: RunEngine, profile: Profile) -> Scans:
    """One scan per delivery, live through a worker process, its frames, and its raw data in Tiled."""
    done: Scans = {}
    for delivery in ("inline", "hdf5"):
        txm = SimulatedTXM((64, 48), delivery=delivery, directory=folder / "camera", chunk_size=2, photons=4000, seed=5)
        assembler, frames = FrameAssembler(profile), []
        with XanesStream(profile, tiled=server.client()) as stream:
            tokens = [
                run_engine.subscribe(stream),
                run_engine.subscribe(lambda *entry: frames.extend(assembler(*entry))),  # noqa: B023
                run_engine.subscribe(TiledWriter(server.client(), batch_size=1)),
            ]
            (uid,) = run_engine(xanes_scan(txm, ENERGIES, sample="powder", restage=delivery == "hdf5"))
            report = stream.wait(120)
        for token in tokens:
            run_engine.unsubscribe(token)
        assert report is not None
        done[delivery] = uid, report, frames
    return done


@pytest.mark.parametrize("delivery", ["inline", "hdf5"])
def test_the_live_result_is_in_tiled(delivery: Delivery, scans: Scans, server: EmbeddedServer, folder: Path) -> None:
    uid, report, frames = scans[delivery]
    assert (report.status, report.reason, report.frames_lost) == ("final", "", ())
    assert (report.visits, report.frames_seen) == (len(ENERGIES), len(frames))
    assert report.publish.complete
    assert 0 < report.latency_s_median < 30
    tree = server.client()["processed", "txm_stream", uid]
    assert tree.metadata["status"] == "final"
    assert tree.metadata["raw_uid"] == uid
    metrics = tree["live", "metrics"].read()
    assert metrics["seq"].tolist() == list(range(1, len(ENERGIES) + 1))
    assert metrics["energy_eV"].tolist() == pytest.approx(ENERGIES)
    assert np.all(np.isfinite(metrics["latency_s"]))
    assert tree["live", "noisy"].shape == (len(ENERGIES), 64, 48)
    assert list((folder / "scratch").iterdir()) == []


@pytest.mark.parametrize("delivery", ["inline", "hdf5"])
def test_stored_documents_give_the_frames_of_the_scan_exactly(
    delivery: Delivery, scans: Scans, server: EmbeddedServer, profile: Profile
) -> None:
    uid, _, live = scans[delivery]
    assembler = FrameAssembler(profile)
    run = find_run(server.client(), uid)
    stored = [frame for entry in stored_documents(run, profile) for frame in assembler(*entry)]
    assert len(stored) == len(live)
    for again, frame in zip(stored, live, strict=True):
        assert again.image.dtype == frame.image.dtype == np.uint16
        np.testing.assert_array_equal(again.image, frame.image)
        for name in ("role", "seq", "energy_eV", "exposure_s", "time", "position"):
            assert getattr(again, name) == getattr(frame, name)


@pytest.mark.parametrize("delivery", ["inline", "hdf5"])
def test_a_replay_gives_the_arrays_of_the_live_run(
    delivery: Delivery, scans: Scans, server: EmbeddedServer, profile: Profile
) -> None:
    uid, _, _ = scans[delivery]
    final = server.client()["processed", "txm_stream", uid, "final"]
    report = replay(find_run(server.client(), uid), profile=profile)
    assert (report.status, report.frames_lost, report.visits) == ("final", (), len(ENERGIES))
    assert report.result is not None
    images = report.result.images()
    assert sorted(images) == sorted(final)
    for name, image in images.items():
        np.testing.assert_array_equal(np.asarray(image), np.asarray(final[name].read()), err_msg=name)


def test_a_replay_publishes_like_a_live_run(scans: Scans, server: EmbeddedServer, profile: Profile) -> None:
    uid, _, _ = scans["inline"]
    report = replay(find_run(server.client(), uid), to=server.client(), profile=profile)
    assert report.publish.complete
    assert report.results_path == f"processed/txm_stream/{uid}"
    assert server.client()["processed", "txm_stream", uid].metadata["status"] == "final"


def test_runs_are_found_by_uid_its_beginning_scan_id_and_latest(scans: Scans, server: EmbeddedServer) -> None:
    client = server.client()
    first, last = scans["inline"][0], scans["hdf5"][0]
    assert find_run(client, first).start["uid"] == first
    assert find_run(client, first[:8]).start["uid"] == first
    assert find_run(client, "latest").start["uid"] == last
    assert find_run(client, 1).start["uid"] == first
    assert find_run(client, "2").start["uid"] == last
    with pytest.raises(NoSuchRunError, match=last[:8]):
        find_run(client, "nothing")


def test_an_aborted_run_is_final_with_its_reason(run_engine: RunEngine, profile: Profile) -> None:
    txm = SimulatedTXM((64, 48), chunk_size=2, photons=4000, seed=5)
    with XanesStream(profile, worker="thread") as stream:
        token = run_engine.subscribe(stream)
        logging.getLogger("bluesky").disabled = True
        with pytest.raises(LimitError):
            run_engine(xanes_scan(txm, [*ENERGIES[:5], 99_999.0]))
        logging.getLogger("bluesky").disabled = False
        report = stream.wait(60)
        run_engine.unsubscribe(token)
    assert report is not None
    assert report.status == "final"
    assert report.reason.startswith("run failed after 5 energies")
    assert report.result is not None
    assert report.result.noisy.shape == (5, 64, 48)


def test_a_folder_is_a_source_and_what_is_none_says_so(scans: Scans, server: EmbeddedServer, profile: Profile) -> None:
    server.stop()
    try:
        with open_source(server.directory) as client:
            report = replay(find_run(client, "latest"), profile=profile)
        assert (report.status, report.visits) == ("final", len(ENERGIES))
        with pytest.raises(UnreachableError, match="does not answer"), open_source(server.uri):
            pass
        with (
            pytest.raises(UnreachableError, match="holds no results; give an address"),
            open_source(server.directory.parent),
        ):
            pass
    finally:
        server.start()
