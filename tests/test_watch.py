"""A watch beside the beamline gives what a subscribed XanesStream gives, whatever goes, comes back or is killed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky.callbacks.zmq import Publisher
from bluesky_tiled_plugins import TiledWriter
from ophyd.sim import SynSignal
from watching import (
    ENERGIES,
    Scan,
    StartWatch,
    TakeScan,
    Watching,
    ZmqProxy,
    as_new,
    assert_same_result,
    connect,
    free_port,
    publish,
    wait_for,
)

from txm_stream.callbacks.sources import find_run
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_source import TiledSource
from txm_stream.callbacks.zmq_source import ZmqSource, proxy_answers
from txm_stream.doctor import examine_source
from txm_stream.errors import NoSuchRunError
from txm_stream.profile import Limits, Profile


@pytest.fixture(scope="module")
def recorded(take_scan: TakeScan) -> Scan:
    return take_scan()


@pytest.fixture(scope="module")
def proxy() -> Iterator[ZmqProxy]:
    proxy = ZmqProxy()
    yield proxy
    proxy.kill()


@pytest.fixture(scope="module")
def publisher(proxy: ZmqProxy) -> Iterator[Publisher]:
    publisher = Publisher(f"127.0.0.1:{proxy.ports[0]}")
    yield publisher
    publisher.close()


def zmq_source(proxy: ZmqProxy) -> ZmqSource:
    return ZmqSource("127.0.0.1", proxy.ports[1])


def test_a_scan_over_0mq_gives_the_subscribed_streams_result(
    proxy: ZmqProxy, publisher: Publisher, take_scan: TakeScan, shared_server: EmbeddedServer, profile: Profile
) -> None:
    with Watching(zmq_source(proxy), profile, shared_server) as watching:
        watching.connect(publisher)
        scan = take_scan(publisher)
        report = watching.report(scan.uid)
    assert (report.status, report.reason, report.frames_lost) == ("final", "", ())
    assert report.visits == len(ENERGIES)
    assert_same_result(shared_server, scan.uid)


def test_the_doctor_tells_a_proxy_from_none(proxy: ZmqProxy) -> None:
    findings = {finding.name: finding for finding in examine_source(f"zmq://127.0.0.1:{proxy.ports[1]}")}
    assert findings["0MQ"].works
    assert "a proxy answers at 127.0.0.1" in findings["0MQ"].text
    assert not findings["Kafka"].needed
    assert not proxy_answers(f"tcp://127.0.0.1:{free_port()}", 0.5)


def lose(proxy: ZmqProxy, publisher: Publisher, watching: Watching, scan: Scan, *, first: int, last: int) -> None:
    """Publish a scan; while its events ``first`` to ``last`` of "primary" are published, there is no proxy.

    They go through a publisher of their own: one that had a proxy keeps what it can until there is one again.
    """
    before, _ = scan.split("primary", first - 1)
    lost, after = scan.split("primary", last)
    publish(publisher, before)
    wait_for(lambda: watching.heard == len(before), "the first part")
    proxy.kill()
    unheard = Publisher(f"127.0.0.1:{proxy.ports[0]}")
    publish(unheard, lost[len(before) :])
    unheard.close()
    proxy.start()
    watching.connect(publisher)
    publish(publisher, after)


def test_what_a_restarted_proxy_lost_is_reported_by_name(
    proxy: ZmqProxy, publisher: Publisher, recorded: Scan, shared_server: EmbeddedServer, profile: Profile
) -> None:
    profile = profile.model_copy(update={"results_path": ("gaps",)})
    with Watching(zmq_source(proxy), profile, shared_server) as watching:
        watching.connect(publisher)
        lose(proxy, publisher, watching, recorded, first=4, last=5)
        report = watching.report(recorded.uid)
    assert report.status == "failed"
    assert report.reason.startswith("missing frames: primary 4 (its event never came), primary 5")
    assert report.visits == len(ENERGIES) - 2
    metadata = shared_server.client()["gaps", recorded.uid].metadata
    assert (metadata["status"], metadata["reason"]) == ("failed", report.reason)


def finder(shared_server: EmbeddedServer) -> Callable[[str], Any]:
    def find(uid: str) -> Any:
        with contextlib.suppress(NoSuchRunError):
            return find_run(shared_server.client(), uid)
        return None

    return find


def test_what_a_restarted_proxy_lost_is_filled_from_tiled(
    proxy: ZmqProxy, publisher: Publisher, take_scan: TakeScan, shared_server: EmbeddedServer, profile: Profile
) -> None:
    scan = take_scan(TiledWriter(shared_server.client(), batch_size=1), seed=6)
    with Watching(zmq_source(proxy), profile, shared_server, find=finder(shared_server)) as watching:
        watching.connect(publisher)
        lose(proxy, publisher, watching, scan, first=4, last=5)
        report = watching.report(scan.uid)
    assert (report.status, report.reason, report.visits) == ("final", "", len(ENERGIES))
    assert_same_result(shared_server, scan.uid)


def test_a_run_whose_start_was_missed_is_fetched_from_tiled(
    publisher: Publisher, proxy: ZmqProxy, take_scan: TakeScan, shared_server: EmbeddedServer, profile: Profile
) -> None:
    scan = take_scan(TiledWriter(shared_server.client(), batch_size=1), seed=7)
    with Watching(zmq_source(proxy), profile, shared_server, find=finder(shared_server)) as watching:
        watching.connect(publisher)
        publish(publisher, scan.split("primary", 6)[1])
        assert watching.report(scan.uid).status == "final"
    assert_same_result(shared_server, scan.uid)


def test_what_is_no_xanes_run_is_left_out_and_a_done_run_is_not_done_again(
    run_engine: RunEngine,
    proxy: ZmqProxy,
    publisher: Publisher,
    recorded: Scan,
    shared_server: EmbeddedServer,
    profile: Profile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "txm_stream")
    profile = profile.model_copy(update={"results_path": ("direct",)})  # where the subscribed stream put its result
    with Watching(zmq_source(proxy), profile, shared_server) as watching:
        watching.connect(publisher)
        token = run_engine.subscribe(publisher)
        (other,) = run_engine(count_temperature())
        run_engine.unsubscribe(token)
        publish(publisher, recorded.documents)
        wait_for(lambda: f"run {recorded.uid[:8]} is done already" in caplog.text, "the message")
        assert f"run {other[:8]} is left out: no stream of it has an image" in caplog.text
    assert watching.watch.reports == []
    assert other not in shared_server.client()["direct"]


def count_temperature() -> Any:
    yield from bps.open_run()
    yield from bps.create("primary")
    yield from bps.read(SynSignal(name="temperature", func=lambda: 20.0))
    yield from bps.save()
    yield from bps.close_run()


# -- Tiled


def tiled_source(shared_server: EmbeddedServer, profile: Profile) -> Callable[[Watching], TiledSource]:
    def make(watching: Watching) -> TiledSource:
        watch, folder = watching.watch, watching.folder
        asked = {"wanted": watch.wanted, "interesting": watch.is_interesting}
        return TiledSource(shared_server.client(), profile, since=folder.since, resumed=folder.resumed, **asked)

    return make


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # Tiled's own
def test_runs_that_grow_in_tiled_are_followed_several_at_once(
    take_scan: TakeScan, recorded: Scan, camera_folder: Path, shared_server: EmbeddedServer, profile: Profile
) -> None:
    files = take_scan(seed=9, delivery="hdf5", directory=camera_folder)
    scans = (as_new(recorded), as_new(files))
    writer = TiledWriter(shared_server.client(), batch_size=1)
    with Watching(tiled_source(shared_server, profile), profile, shared_server) as watching:
        for entries in zip_longest(*(scan.documents for scan in scans)):
            for entry in filter(None, entries):
                writer(*entry)
        for scan in scans:
            report = watching.report(scan.uid)
            assert (report.status, report.reason, report.visits) == ("final", "", len(ENERGIES))
    for scan in scans:
        assert_same_result(shared_server, scan.uid)


# -- a process that is stopped or killed, and started again


def test_a_killed_0mq_watch_goes_on_with_the_documents_it_kept(
    proxy: ZmqProxy,
    publisher: Publisher,
    take_scan: TakeScan,
    shared_server: EmbeddedServer,
    start_watch: StartWatch,
    tmp_path: Path,
) -> None:
    scan = take_scan(seed=10)
    before, after = scan.split("primary", 4)
    source = f"zmq://127.0.0.1:{proxy.ports[1]}"
    first = start_watch(source)
    connect(publisher, lambda: any("is left out" in line for line in first.lines))
    publish(publisher, before)
    first.wait_for("visit 4 at")
    first.kill()
    second = start_watch(source, "--runs", "1")
    second.wait_for("is taken up again")
    connect(publisher, lambda: any("is left out" in line for line in second.lines))
    publish(publisher, after)
    words, answer = second.answer()
    assert words == "1 runs done: 1 final, 0 failed"
    (run,) = answer["runs"]
    assert (run["run_uid"], run["status"], run["energies"], run["frames_lost"]) == (
        scan.uid,
        "final",
        len(ENERGIES),
        [],
    )
    assert_same_result(shared_server, scan.uid)
    assert list(tmp_path.rglob("frames.bin")) == list(tmp_path.rglob("documents/*")) == []


def test_a_stopped_tiled_watch_finishes_in_order_and_reads_the_run_again(
    take_scan: TakeScan, shared_server: EmbeddedServer, start_watch: StartWatch
) -> None:
    scan = as_new(take_scan(seed=11))
    before, after = scan.split("primary", 4)
    source = f"{shared_server.uri}?api_key={shared_server.api_key}"
    writer = TiledWriter(shared_server.client(), batch_size=1)
    first = start_watch(source)
    first.wait_for("watching http")
    scan.documents[0][1]["time"] = time.time()
    for entry in before:
        writer(*entry)
    first.wait_for("visit 4 at")
    first.process.send_signal(signal.SIGTERM)
    words, answer = first.answer()
    assert words.endswith(f"run {scan.uid[:8]} was open after 4 energies and is taken up at the next start")
    assert answer == {"runs": [], "open": [scan.uid]}
    assert shared_server.client()["processed", "txm_stream", scan.uid].metadata["status"] == "final"
    second = start_watch(source, "--runs", "1")
    for entry in after:
        writer(*entry)
    words, answer = second.answer()
    assert [run["status"] for run in answer["runs"]] == ["final"]
    assert_same_result(shared_server, scan.uid)


class Recorded:
    """A source that has one run to tell of."""

    def __init__(self, scan: Scan, between: Callable[[], None]) -> None:
        self.scan = scan
        self.between = between

    def follow(self, take: Callable[[str, dict[str, Any]], None], ended: threading.Event) -> None:
        before, after = self.scan.split("primary", 4)
        for entry in before:
            take(*entry)
        self.between()
        for entry in after:
            take(*entry)
        ended.wait(300)


@pytest.mark.slow
def test_a_run_that_ends_while_its_server_is_away_is_delivered_and_done(
    take_scan: TakeScan, camera_folder: Path, tmp_path: Path
) -> None:
    scan = as_new(take_scan(seed=12))
    profile = Profile(scratch_dir=tmp_path / "scratch", limits=Limits(server_patience_s=1.0))
    with EmbeddedServer(tmp_path / "server", readable_storage=[camera_folder]) as server:
        settled: list[str] = []
        with Watching(Recorded(scan, server.kill), profile, server) as watching:
            watching.watch.on_settled = settled.append
            report = watching.report(scan.uid)
            assert report.undelivered
            assert settled == []
            server.start()
            wait_for(lambda: settled == [scan.uid], "the delivery")
            assert not watching.watch.stream.reports[scan.uid].undelivered
            assert watching.watch.is_done(scan.uid)
        node = server.client()[(*profile.results_path, scan.uid)]
        assert node.metadata["status"] == "final"
        assert node["live"]["metrics"].read()["seq"].tolist() == list(range(1, len(ENERGIES) + 1))
