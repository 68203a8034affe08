"""A watch beside the beamline gives what a subscribed XanesStream gives, whatever goes, comes back or is killed."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky.callbacks.zmq import Publisher
from bluesky_tiled_plugins import TiledWriter
from ophyd.sim import SynSignal

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.sources import find_run
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_source import TiledSource
from txm_stream.callbacks.watch import Watch
from txm_stream.callbacks.watch_folder import WatchFolder
from txm_stream.callbacks.zmq_source import ZmqSource
from txm_stream.errors import NoSuchRunError
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = [8320.0, 8333.0, 8340.0, 8346.0, 8352.0, 8360.0, 8390.0, 8420.0]
Documents = list[tuple[str, dict[str, Any]]]


def scan_devices(seed: int = 5, **options: Any) -> SimulatedTXM:
    return SimulatedTXM((64, 48), chunk_size=2, photons=4000, seed=seed, **options)


@pytest.fixture(scope="module")
def engine() -> Iterator[RunEngine]:
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


@pytest.fixture(scope="module")
def server(shared_server: EmbeddedServer) -> EmbeddedServer:
    return shared_server


class Scan:
    """A scan that was taken: its documents, and where the directly subscribed stream put its result."""

    def __init__(self, uid: str, documents: Documents) -> None:
        self.uid = uid
        self.documents = documents

    def split(self, stream: str, count: int) -> tuple[Documents, Documents]:
        """Cut after the ``count``-th event of a stream."""
        uids = {
            document["uid"] for name, document in self.documents if name == "descriptor" and document["name"] == stream
        }
        places = [
            i for i, (name, document) in enumerate(self.documents) if name == "event" and document["descriptor"] in uids
        ]
        cut = places[count - 1] + 1
        return self.documents[:cut], self.documents[cut:]


@pytest.fixture(scope="module")
def take_scan(
    engine: RunEngine, server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Scan]]:
    """Take a scan with a XanesStream subscribed, which publishes below ``direct``."""
    scratch = tmp_path_factory.mktemp("direct")
    direct = Profile(results_path=("direct",), scratch_dir=scratch)
    with XanesStream(direct, tiled=server.client()) as stream:

        def take(*others: Any, seed: int = 5, devices: SimulatedTXM | None = None, **options: Any) -> Scan:
            documents: Documents = []
            callbacks = [stream, lambda *entry: documents.append(entry), *others]
            tokens = [engine.subscribe(callback) for callback in callbacks]
            (uid,) = engine(xanes_scan(devices or scan_devices(seed), ENERGIES, **options))
            for token in tokens:
                engine.unsubscribe(token)
            assert stream.wait(60, run_uid=uid) is not None
            return Scan(uid, documents)

        yield take


@pytest.fixture(scope="module")
def recorded(take_scan: Callable[..., Scan]) -> Scan:
    return take_scan()


def assert_same_result(
    server: EmbeddedServer, uid: str, *, root: tuple[str, ...] = ("processed", "txm_stream")
) -> None:
    client = server.client()
    direct, watched = client["direct", uid, "final"], client[(*root, uid, "final")]
    assert sorted(direct) == sorted(watched)
    for name in direct:
        np.testing.assert_array_equal(watched[name].read(), direct[name].read(), err_msg=name)


# -- a 0MQ proxy in a process of its own

PROXY = "import sys; from bluesky.callbacks.zmq import Proxy; Proxy(*map(int, sys.argv[1:])).start()"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ZmqProxy:
    def __init__(self) -> None:
        self.ports = free_port(), free_port()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROXY, *map(str, self.ports)])
        for port in self.ports:
            wait_for(lambda port=port: answers(port), "the proxy")  # type: ignore[misc]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(what: Callable[[], Any], name: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"{name} did not come in {timeout_s:g} s"
        time.sleep(0.05)


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


# -- a watch on a thread


class Watching:
    """A watch on a thread of this process; its worker is a process as always."""

    def __init__(
        self, source: Any, profile: Profile, server: EmbeddedServer, *, find: Any = None, keep: bool = False
    ) -> None:
        assert profile.scratch_dir is not None
        self.folder = WatchFolder(profile.scratch_dir, "source", "target", keep_documents=keep)
        self.watch = Watch(server.client(), profile, self.folder, find=find)
        self.ended = threading.Event()
        self.heard: Documents = []
        self.watch.resume()
        real = self.watch.take
        self.watch.take = lambda *entry: (self.heard.append(entry), real(*entry))  # type: ignore[assignment, func-returns-value]
        self.source = source(self) if callable(source) else source
        self.thread = threading.Thread(target=lambda: self.watch.follow(self.source, self.ended), daemon=True)
        self.thread.start()

    def report(self, uid: str) -> RunReport:
        wait_for(lambda: any(report.run_uid == uid for report in self.watch.reports), f"run {uid}")
        return next(report for report in self.watch.reports if report.run_uid == uid)

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join(20)
        self.watch.close()
        self.folder.close()
        assert not self.thread.is_alive()

    def connect(self, publisher: Publisher) -> None:
        """Publish runs without data until one is heard."""
        connect(publisher, lambda: self.heard)


def connect(publisher: Publisher, heard: Callable[[], Any]) -> None:
    def try_once() -> bool:
        uid = f"nothing-{time.monotonic_ns()}"
        publisher("start", {"uid": uid, "time": time.time()})
        publisher("stop", {"uid": f"{uid}-stop", "run_start": uid, "time": time.time(), "exit_status": "success"})
        return bool(heard())

    wait_for(try_once, "0MQ's connection")


def zmq_source(proxy: ZmqProxy) -> ZmqSource:
    return ZmqSource("127.0.0.1", proxy.ports[1])


def test_a_scan_over_0mq_gives_the_subscribed_streams_result(
    proxy: ZmqProxy, publisher: Publisher, take_scan: Callable[..., Scan], server: EmbeddedServer, profile: Profile
) -> None:
    with Watching(zmq_source(proxy), profile, server) as watching:
        watching.connect(publisher)
        scan = take_scan(publisher)
        report = watching.report(scan.uid)
    assert (report.status, report.reason, report.frames_lost) == ("final", "", ())
    assert report.visits == len(ENERGIES)
    assert_same_result(server, scan.uid)


def lose(proxy: ZmqProxy, publisher: Publisher, watching: Watching, scan: Scan, *, first: int, last: int) -> None:
    """Publish a scan; while its events ``first`` to ``last`` of "primary" are published, there is no proxy."""
    before, rest = scan.split("primary", first - 1)
    lost, after = Scan(scan.uid, scan.documents).split("primary", last)
    lost = lost[len(before) :]
    assert rest[: len(lost)] == lost
    publish(publisher, before)
    wait_for(
        lambda: (
            len([entry for entry in watching.heard if "nothing" not in str(entry[1].get("run_start", entry[1]["uid"]))])
            == len(before)
        ),
        "the first part",
    )
    proxy.kill()
    publish(publisher, lost)
    proxy.start()
    watching.heard.clear()
    watching.connect(publisher)
    publish(publisher, after)


def publish(publisher: Publisher, documents: Documents) -> None:
    for entry in documents:
        publisher(*entry)


def test_what_a_restarted_proxy_lost_is_reported_by_name(
    proxy: ZmqProxy, publisher: Publisher, recorded: Scan, server: EmbeddedServer, profile: Profile
) -> None:
    profile = profile.model_copy(update={"results_path": ("gaps",)})
    with Watching(zmq_source(proxy), profile, server) as watching:
        watching.connect(publisher)
        lose(proxy, publisher, watching, recorded, first=4, last=5)
        report = watching.report(recorded.uid)
    assert report.status == "failed"
    assert report.reason.startswith("missing frames: primary 4 (its event never came), primary 5")
    assert report.visits == len(ENERGIES) - 2
    metadata = server.client()["gaps", recorded.uid].metadata
    assert (metadata["status"], metadata["reason"]) == ("failed", report.reason)


def finder(server: EmbeddedServer) -> Callable[[str], Any]:
    def find(uid: str) -> Any:
        with contextlib.suppress(NoSuchRunError):
            return find_run(server.client(), uid)
        return None

    return find


def test_what_a_restarted_proxy_lost_is_filled_from_tiled(
    proxy: ZmqProxy, publisher: Publisher, take_scan: Callable[..., Scan], server: EmbeddedServer, profile: Profile
) -> None:
    scan = take_scan(TiledWriter(server.client(), batch_size=1), seed=6)
    with Watching(zmq_source(proxy), profile, server, find=finder(server)) as watching:
        watching.connect(publisher)
        lose(proxy, publisher, watching, scan, first=4, last=5)
        report = watching.report(scan.uid)
    assert (report.status, report.reason, report.visits) == ("final", "", len(ENERGIES))
    assert_same_result(server, scan.uid)


def test_a_run_whose_start_was_missed_is_fetched_from_tiled(
    publisher: Publisher, proxy: ZmqProxy, take_scan: Callable[..., Scan], server: EmbeddedServer, profile: Profile
) -> None:
    scan = take_scan(TiledWriter(server.client(), batch_size=1), seed=7)
    with Watching(zmq_source(proxy), profile, server, find=finder(server)) as watching:
        watching.connect(publisher)
        publish(publisher, scan.split("primary", 6)[1])
        assert watching.report(scan.uid).status == "final"
    assert_same_result(server, scan.uid)


def test_what_is_no_xanes_run_is_left_out_and_a_done_run_is_not_done_again(
    engine: RunEngine,
    proxy: ZmqProxy,
    publisher: Publisher,
    recorded: Scan,
    server: EmbeddedServer,
    profile: Profile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "txm_stream")
    profile = profile.model_copy(update={"results_path": ("direct",)})  # where the subscribed stream put its result
    with Watching(zmq_source(proxy), profile, server) as watching:
        watching.connect(publisher)
        token = engine.subscribe(publisher)
        (other,) = engine(count_temperature())
        engine.unsubscribe(token)
        publish(publisher, recorded.documents)
        wait_for(lambda: f"run {recorded.uid[:8]} is done already" in caplog.text, "the message")
        assert f"run {other[:8]} is left out: no stream of it has an image" in caplog.text
    assert watching.watch.reports == []
    assert other not in server.client()["direct"]


def count_temperature() -> Any:
    yield from bps.open_run()
    yield from bps.create("primary")
    yield from bps.read(SynSignal(name="temperature", func=lambda: 20.0))
    yield from bps.save()
    yield from bps.close_run()


# -- Tiled


def tiled_source(server: EmbeddedServer, profile: Profile) -> Callable[[Watching], TiledSource]:
    def make(watching: Watching) -> TiledSource:
        watch, folder = watching.watch, watching.folder
        asked = {"wanted": watch.wanted, "interesting": watch.is_interesting}
        return TiledSource(server.client(), profile, since=folder.since, resumed=folder.resumed, **asked)  # type: ignore[arg-type]

    return make


def test_runs_that_grow_in_tiled_are_followed_several_at_once(
    take_scan: Callable[..., Scan], recorded: Scan, camera_folder: Path, server: EmbeddedServer, profile: Profile
) -> None:
    second = take_scan(seed=8)
    with Watching(tiled_source(server, profile), profile, server) as watching:
        writer = TiledWriter(server.client(), batch_size=1)
        for pair in zip(as_new(recorded).documents, as_new(second).documents, strict=True):
            for entry in pair:
                writer(*entry)
        uids = [uid for uid in watching.watch._starts]
        for scan in (recorded, second):
            report = watching.report(f"{scan.uid}")
            assert (report.status, report.reason, report.visits) == ("final", "", len(ENERGIES)), uids
        camera = scan_devices(9, delivery="hdf5", directory=camera_folder)
        files = take_scan(TiledWriter(server.client(), batch_size=1), devices=camera)
        assert watching.report(files.uid).status == "final"
    for scan in (recorded, second, files):
        assert_same_result(server, scan.uid)


def as_new(scan: Scan) -> Scan:
    """Date the start to now: a watch follows what begins after it."""
    (name, start), *rest = scan.documents
    return Scan(scan.uid, [(name, {**start, "time": time.time()}), *rest])


# -- a process that is stopped or killed, and started again


class WatchProcess:
    def __init__(self, source: str, server: EmbeddedServer, scratch: Path, *options: str) -> None:
        profile = scratch / "profile.toml"
        profile.write_text(f'scratch_dir = "{scratch}"\n')
        target = f"{server.uri}?api_key={server.api_key}"
        command = ["watch", "--from", source, "--to", target, "--profile", str(profile), "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from txm_stream.cli import main; main()", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def wait_for(self, text: str) -> None:
        wait_for(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, text)
        assert any(text in line for line in self.lines), self.lines

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def answer(self) -> tuple[str, dict[str, Any]]:
        """Wait for its end; return its last words and the JSON object."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        assert self.process.wait(60) == 0, self.lines
        *_, words, answer = out.splitlines()
        return words, json.loads(answer)


def test_a_killed_0mq_watch_goes_on_with_the_documents_it_kept(
    proxy: ZmqProxy, publisher: Publisher, take_scan: Callable[..., Scan], server: EmbeddedServer, tmp_path: Path
) -> None:
    scan = take_scan(seed=10)
    before, after = scan.split("primary", 4)
    source = f"zmq://127.0.0.1:{proxy.ports[1]}"
    first = WatchProcess(source, server, tmp_path)
    connect(publisher, lambda: any("is left out" in line for line in first.lines))
    publish(publisher, before)
    first.wait_for("visit 4 at")
    first.end(signal.SIGKILL)
    second = WatchProcess(source, server, tmp_path, "--runs", "1")
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
    assert_same_result(server, scan.uid)
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()].count("frames.bin") == 0


def test_a_stopped_tiled_watch_finishes_in_order_and_reads_the_run_again(
    take_scan: Callable[..., Scan], server: EmbeddedServer, tmp_path: Path
) -> None:
    scan = as_new(take_scan(seed=11))
    before, after = scan.split("primary", 4)
    source = f"{server.uri}?api_key={server.api_key}"
    writer = TiledWriter(server.client(), batch_size=1)
    first = WatchProcess(source, server, tmp_path)
    first.wait_for("watching http")
    scan.documents[0][1]["time"] = time.time()
    for entry in before:
        writer(*entry)
    first.wait_for("visit 4 at")
    first.end(signal.SIGTERM)
    words, answer = first.answer()
    assert words.endswith(f"run {scan.uid[:8]} was open after 4 energies and is taken up at the next start")
    assert answer == {"runs": [], "open": [scan.uid]}
    assert server.client()["processed", "txm_stream", scan.uid].metadata["status"] == "final"
    second = WatchProcess(source, server, tmp_path, "--runs", "1")
    for entry in after:
        writer(*entry)
    words, answer = second.answer()
    assert [run["status"] for run in answer["runs"]] == ["final"]
    assert_same_result(server, scan.uid)
