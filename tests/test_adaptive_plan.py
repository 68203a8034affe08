"""The scan that steers itself, on a real RunEngine: it ends at its target, and whatever fails, it ends in order."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from txm_stream.callbacks import EnergyAdvisor, XanesStream, adaptive_xanes
from txm_stream.callbacks.processor import RunProcessor
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo_parts import write_references
from txm_stream.judgement import judge
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Limits, Profile, Steering
from txm_stream.simulated_devices import SimulatedTXM, VirtualClock

PLANNED = [float(energy) for energy in nickel_energies(60)]


class Deaf(RunProcessor):
    """A processor whose advice stops after the sixth visit, as if its thread hung."""

    def _advise(self, advice: Any) -> None:
        if advice is not None and advice.seq <= 6:
            super()._advise(advice)


class Documents:
    """What the run emitted."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.stop: dict[str, Any] = {}
        self.primary: list[float] = []
        self.flats = 0
        self.advice: list[dict[str, Any]] = []
        self._streams: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        if name in ("start", "stop"):
            setattr(self, name, document)
        elif name == "descriptor":
            self._streams[document["uid"]] = document["name"]
        elif name == "event":
            stream = self._streams[document["descriptor"]]
            if stream == "primary":
                self.primary.append(document["data"]["energy"])
            elif stream == "flat":
                self.flats += 1
            elif stream == "advice":
                self.advice.append(document["data"])

    def sources(self) -> list[str]:
        return [row["advice_source"] for row in self.advice]


@pytest.fixture
def txm() -> SimulatedTXM:
    return make_txm()


def make_txm(size: int = 64, *, photons: float = 2000.0) -> SimulatedTXM:
    return SimulatedTXM(
        (size, size),
        chunk_size=2,
        photons=photons,
        jitter_px=1.0,
        exposure_s=0.25,
        move_time_s=3.0,
        sample_move_s=1.0,
        clock=VirtualClock(),
    )


@pytest.fixture
def stream(txm: SimulatedTXM, tmp_path: Path) -> Iterator[XanesStream]:
    with XanesStream(profile_of(txm, tmp_path), worker="thread") as made:
        yield made


def profile_of(txm: SimulatedTXM, folder: Path, **rules: Any) -> Profile:
    references = write_references(txm, folder / "references")
    rules = {"deadline_s": 20.0, "most_visits": 14} | rules
    return Profile(references=references, scratch_dir=folder / "scratch", steering=Steering(**rules))


def scan(engine: RunEngine, stream: XanesStream, plan: Any, *callbacks: Any) -> Documents:
    documents = Documents()
    tokens = [engine.subscribe(callback) for callback in (stream, documents, *callbacks)]
    try:
        engine(plan)
    finally:
        for token in tokens:
            engine.unsubscribe(token)
    return documents


def test_it_ends_at_the_target_with_a_map_that_good_and_says_why(run_engine: RunEngine, tmp_path: Path) -> None:
    txm = make_txm(128, photons=500.0)
    profile = profile_of(txm, tmp_path, target_rmse=0.03, most_visits=60)
    with XanesStream(profile, worker="thread") as stream:
        advisor = EnergyAdvisor(stream, PLANNED, judgement_s=20.0)
        done = scan(run_engine, stream, adaptive_xanes(txm, advisor, PLANNED, sample="NMC"))
        report = stream.wait(300)
    assert report is not None
    assert report.status == "final"
    assert 5 <= report.visits == len(done.primary) < 40
    assert set(done.sources()) == {"advice"}
    assert "target is 0.03" in done.stop["reason"]
    assert done.start["plan_name"] == "adaptive_xanes"
    assert Steering(**done.start["steering"]).target_rmse == 0.03
    assert report.result is not None
    verdict = judge(report.result, txm.truth())
    assert verdict.map_correlation > 0.97
    np.testing.assert_allclose(report.result.predicted_rmse, 0.03, rtol=0.35)
    assert txm.clock.now() < 0.4 * 60 * (3 + 0.5 + 2.5)
    exposures = Steering(**done.start["steering"]).flat_exposures
    assert 8 * exposures <= done.flats <= (len(set(done.primary)) + 8) * exposures


def test_the_rules_bind_the_plan_whatever_is_advised(
    run_engine: RunEngine, txm: SimulatedTXM, stream: XanesStream
) -> None:
    rules = Steering(windows_eV=((8300.0, 8349.0), (8353.0, 8420.0)), most_visits=12, backlash_eV=4.0, flats="each")
    moves: list[float] = []
    txm.energy.subscribe(lambda value, **_: moves.append(value), event_type="readback", run=False)
    done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED, steering=rules))
    assert len(done.primary) == 12
    assert done.flats == 12 * rules.flat_exposures
    assert all(8300 <= energy <= 8349 or 8353 <= energy <= 8420 for energy in done.primary)
    assert any(move not in done.primary for move in moves)  # detours
    for before, energy in itertools.pairwise(moves):
        assert energy >= before or energy not in done.primary
    assert "12 visits" in done.stop["reason"]


def test_the_time_budget_counts_on_the_clock_of_the_devices(
    run_engine: RunEngine, txm: SimulatedTXM, stream: XanesStream
) -> None:
    rules = stream.profile.steering.model_copy(update={"most_s": 30.0, "most_visits": 100})
    done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED, steering=rules, clock=txm.clock.now))
    assert "time of 30 s is over" in done.stop["reason"]
    assert 30 <= txm.clock.now() < 45


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_without_advice_the_planned_list_is_measured(
    run_engine: RunEngine, txm: SimulatedTXM, tmp_path: Path, kind: Any
) -> None:
    profile = profile_of(txm, tmp_path, deadline_s=0.3)
    with XanesStream(profile, worker=kind, processor=Deaf) as stream:
        stream.ready(60)
        done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED))
        report = stream.wait(300)
    assert done.sources()[:7] == ["advice"] * 7
    assert done.sources()[7:9] == ["older advice"] * 2
    assert set(done.sources()[9:]) == {"planned"}
    assert all(min(abs(energy - e) for e in PLANNED) < 0.01 for energy in done.primary[9:])
    assert "no advice within 0.3 s" in done.advice[-1]["advice_reason"]
    assert report is not None
    assert report.status == "final"
    assert report.visits == len(done.primary) == 14


def test_a_killed_worker_costs_the_scan_no_frame_and_advice_comes_back(
    run_engine: RunEngine, txm: SimulatedTXM, tmp_path: Path
) -> None:
    profile = profile_of(txm, tmp_path, deadline_s=0.5, most_visits=40, flat_exposures=1)
    with XanesStream(profile) as stream:
        stream.ready(60)

        def kill(name: str, document: dict[str, Any]) -> None:
            if name == "event" and "energy" in document["data"]:
                time.sleep(0.2)
                kill.count += 1
                if kill.count == 8:
                    stream._supervisor.worker.process.kill()

        kill.count = 0
        done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED), kill)
        report = stream.wait(300)
    assert report is not None
    assert report.status == "final"
    assert report.restarts == 1
    assert report.visits == len(done.primary) == 40
    assert "planned" in done.sources()
    assert done.sources()[-1] == "advice"


def test_a_refused_energy_is_left_out_and_a_hung_camera_tried_again(
    run_engine: RunEngine, txm: SimulatedTXM, stream: XanesStream, caplog: pytest.LogCaptureFixture
) -> None:
    txm.energy.refuses = lambda energy: 8348.8 < energy < 8350.2  # the white line, which comes first
    txm.camera.hangs = 1
    done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED, n_darks=0, camera_timeout_s=1.0))
    report = stream.wait(300)
    assert not any(8348.8 < energy < 8350.2 for energy in done.primary)
    assert len(done.primary) == 14
    assert done.stop["exit_status"] == "success"
    assert report is not None
    assert report.visits == 14
    assert "refused" in caplog.text
    assert "try 2 of 3" in caplog.text


def test_a_camera_that_never_answers_ends_the_run_in_order(
    run_engine: RunEngine, txm: SimulatedTXM, stream: XanesStream, quiet_bluesky: None
) -> None:
    documents = Documents()
    for callback in (stream, documents):
        run_engine.subscribe(callback)
    txm.camera.hangs = 5
    with pytest.raises(TimeoutError):
        run_engine(adaptive_xanes(txm, stream, PLANNED, n_darks=0, camera_timeout_s=0.2, tries=2))
    assert documents.stop["exit_status"] == "fail"
    assert txm.microscope.sample_in
    assert txm.shutter.get() == "open"


@pytest.mark.parametrize("then", ["resume", "abort"])
def test_it_can_be_paused_in_mid_energy(
    run_engine: RunEngine, txm: SimulatedTXM, stream: XanesStream, then: str, quiet_bluesky: None
) -> None:
    documents = Documents()

    def pause(name: str, document: dict[str, Any]) -> None:
        if name == "event" and len(documents.primary) == 6 and not pause.done:
            pause.done = True
            threading.Thread(target=run_engine.request_pause).start()
            time.sleep(0.2)

    pause.done = False
    for callback in (stream, documents, pause):
        run_engine.subscribe(callback)
    with pytest.raises(RunEngineInterrupted):
        run_engine(adaptive_xanes(txm, stream, PLANNED))
    getattr(run_engine, then)()
    report = stream.wait(300)
    assert report is not None
    assert report.status == "final"
    if then == "resume":
        assert documents.stop["exit_status"] == "success"
        assert len(documents.primary) >= 14
        assert report.visits == len(documents.primary)
    else:
        assert documents.stop["exit_status"] == "abort"
        assert report.visits == len(documents.primary) >= 6
        assert "aborted" in report.reason


def test_the_advice_is_published_and_a_replay_says_what_would_have_been_advised(
    run_engine: RunEngine, txm: SimulatedTXM, shared_server: Any, tmp_path: Path
) -> None:
    from txm_stream.callbacks.plans import xanes_scan

    profile = profile_of(txm, tmp_path)
    client = shared_server.client()
    with XanesStream(profile, worker="thread", tiled=client) as stream:
        done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED))
        report = stream.wait(300)
        plain = scan(run_engine, stream, xanes_scan(txm, PLANNED[::3]))
        unsteered = stream.wait(300)
    assert report is not None
    live = client[tuple(str(report.results_path).split("/"))]["live"]
    table, metrics = live["advice"].read(), live["metrics"].read()
    assert table["seq"].tolist() == list(range(1, 15))
    np.testing.assert_allclose(table["energy_eV"], done.primary)
    np.testing.assert_allclose(table["next_energy_eV"][:-1], done.primary[1:])
    np.testing.assert_allclose(metrics["next_energy_eV"], table["next_energy_eV"])
    assert table["reason"].str.len().min() > 10
    assert bool(table["stop"].iloc[-1])
    assert len(plain.primary) == 20
    assert unsteered is not None
    would = client[tuple(str(unsteered.results_path).split("/"))]["live"]["advice"].read()
    assert len(would) == 20
    assert "white line" in would["reason"][0] or "every scan" in would["reason"][0]


def test_an_absent_results_server_does_not_silence_the_advice(
    run_engine: RunEngine, txm: SimulatedTXM, tmp_path: Path
) -> None:
    profile = profile_of(txm, tmp_path)
    profile = profile.model_copy(update={"limits": Limits(server_patience_s=0.0)})
    nobody = TiledTarget("http://127.0.0.1:9/api/v1", "key")
    with XanesStream(profile, worker="thread", tiled=nobody) as stream:
        done = scan(run_engine, stream, adaptive_xanes(txm, stream, PLANNED))
        report = stream.wait(300)
    assert set(done.sources()) == {"advice"}
    assert len(done.primary) == 14
    assert report is not None
    assert report.status == "final"
    assert report.undelivered


def test_bad_requests_are_one_clear_line(txm: SimulatedTXM, stream: XanesStream) -> None:
    from txm_stream.errors import BadStackError

    with pytest.raises(BadStackError, match="tries is 0"):
        next(adaptive_xanes(txm, stream, PLANNED, tries=0))
