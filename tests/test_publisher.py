"""The publisher against a real server: nothing lost, nothing doubled, never in the way."""

from __future__ import annotations

import errno
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from txm_stream.callbacks.batch import Batch, Variable
from txm_stream.callbacks.publisher import Publisher
from txm_stream.callbacks.spool import Spool
from txm_stream.callbacks.spooled_results import deliver_spool
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import InProcessClientError, LocalTarget, TiledTarget
from txm_stream.callbacks.tree_writer import TreeWriter
from txm_stream.errors import StorageFullError

STACK = {"noisy": Variable(("energy", "y", "x"))}
NOWHERE = TiledTarget("http://127.0.0.1:9/api/v1", "secret-of-nobody")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def root(server: EmbeddedServer) -> Any:
    return server.client()


@pytest.fixture
def target(root: Any) -> TiledTarget:
    return TiledTarget.from_client(root)


@pytest.fixture(autouse=True)
def short_client_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker process, where Tiled is imported after its retries are limited."""
    import tiled.client.utils

    monkeypatch.setattr(tiled.client.utils, "TILED_RETRY_ATTEMPTS", 1)


def frame(index: int, size: int = 32) -> np.ndarray[Any, Any]:
    return np.full((size, size), index + 1, dtype=np.float32) + np.arange(size, dtype=np.float32) / size


def visit(path: tuple[str, ...], index: int, *, size: int = 32) -> Batch:
    rows = pd.DataFrame({"seq": np.arange(1, index + 2), "energy_eV": 8300.0 + np.arange(index + 1)})
    return Batch(
        path,
        appends={("noisy", index): frame(index, size)},
        overwrites={"preview": frame(index, size), "loadings": np.full((index + 1, 8), index, np.float32)},
        tables={"metrics": rows},
        variables=STACK,
        live=True,
    )


def check(container: Any, count: int, *, size: int = 32) -> None:
    """The stack, the images and the table are exactly those of ``count`` visits."""
    expected = np.stack([frame(index, size) for index in range(count)])
    np.testing.assert_array_equal(container["noisy"].read(), expected)
    np.testing.assert_array_equal(container["preview"].read(), expected[-1])
    np.testing.assert_array_equal(container["loadings"].read(), np.full((count, 8), count - 1))
    assert container["metrics"].read()["seq"].tolist() == list(range(1, count + 1))


def test_a_scan_arrives_whole_and_is_described(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    for index in range(4):
        publisher.publish(visit(("round", "trip"), index))
        publisher.flush(20)
    publisher.publish(Batch(("round", "trip"), metadata={"status": "final", "gap": float("nan")}, close=True))
    report = publisher.close()
    assert report.complete
    assert report.delivered == 5
    tree = root["round", "trip"]
    check(tree, 4)
    assert tree["noisy"].dims == ("energy", "y", "x")
    assert tree["noisy"].chunks[0] == (1, 1, 1, 1)
    assert tree.metadata["status"] == "final"
    assert not list(tmp_path.glob("*.batch"))


def test_killed_and_restarted_server_leaves_no_gap_and_no_double(
    server: EmbeddedServer, root: Any, target: TiledTarget, tmp_path: Path
) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    for index in range(40):
        publisher.publish(visit(("crash",), index))
        time.sleep(0.05)
        if index == 12:
            server.kill()
        if index == 25:
            server.start()
    assert publisher.close().complete
    check(root["crash"], 40)


def test_absent_server_leaves_a_spool_that_is_delivered_exactly(
    root: Any, target: TiledTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    publisher = Publisher(NOWHERE, spool_dir=tmp_path, memory_mb=0.02, patience_s=0.5)
    began = time.monotonic()
    for index in range(20):
        publisher.publish(visit(("spooled",), index))
    assert time.monotonic() - began < 0.5
    publisher.publish(Batch(("spooled",), overwrites={"phase_map": np.ones((2, 8, 8))}, metadata={"status": "final"}))
    time.sleep(0.5)
    report = publisher.close()
    assert report.delivered == 0
    assert report.spooled == len(list(tmp_path.glob("*.batch"))) > 1
    assert time.monotonic() - began < 10
    content = b"".join(file.read_bytes() for file in tmp_path.glob("*.batch"))
    assert b"secret-of-nobody" not in content
    assert "secret-of-nobody" not in caplog.text + repr(NOWHERE) + str(report)

    delivered = deliver_spool(target, tmp_path)
    assert delivered.complete
    assert delivered.delivered == report.spooled
    tree = root["spooled"]
    check(tree, 20)
    assert tree.metadata["status"] == "final"
    assert not list(tmp_path.glob("*.batch"))
    assert deliver_spool(target, tmp_path).delivered == 0


def test_truncated_spool_file_is_left_with_a_warning(
    root: Any, target: TiledTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(NOWHERE, spool_dir=tmp_path, patience_s=0.0)
    for index in range(3):
        batch = visit(("cut",), index)
        batch.live = False
        publisher.publish(batch)
    assert publisher.close().spooled == 3
    last = sorted(tmp_path.glob("*.batch"))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    report = deliver_spool(target, tmp_path)
    assert (report.delivered, report.dropped) == (2, 1)
    assert "truncated" in caplog.text
    assert last.exists()
    check(root["cut"], 2)


def test_leftovers_of_a_crashed_publisher_go_first(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    first = Publisher(NOWHERE, spool_dir=tmp_path, patience_s=0.0)
    first.publish(visit(("again",), 0))
    first.close()
    second = Publisher(target, spool_dir=tmp_path)
    second.publish(visit(("again",), 1))
    assert second.close().complete
    check(root["again"], 2)


def test_spool_belongs_to_one_publisher(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(StorageFullError, match="in use"):
        Publisher(NOWHERE, spool_dir=tmp_path)
    spool.release()


def test_live_batches_merge_while_the_server_is_away(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    gate = Gate(target)
    publisher = Publisher(gate, spool_dir=tmp_path)
    for index in range(30):
        publisher.publish(visit(("merged",), index))
    assert len(publisher._pending) <= 2
    gate.open = True
    assert publisher.close().complete
    check(root["merged"], 30)


class Gate:
    """A target that cannot be reached until it is opened."""

    def __init__(self, target: TiledTarget) -> None:
        self.target = target
        self.open = False

    def connect(self) -> Any:
        if not self.open:
            raise ConnectionError("closed")
        return self.target.connect()

    def release(self, container: Any) -> None:
        self.target.release(container)


def test_frames_out_of_order_and_again(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    for index in (0, 2, 3, 1, 2):
        publisher.publish(Batch(("order",), appends={("noisy", index): frame(index)}, variables=STACK))
    publisher.publish(Batch(("order",), appends={("noisy", 1): frame(7)}, variables=STACK))
    assert publisher.close().complete
    expected = np.stack([frame(index) for index in (0, 7, 2, 3)])
    np.testing.assert_array_equal(root["order", "noisy"].read(), expected)


def test_a_missing_frame_makes_no_gap(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    for index in (0, 2):
        publisher.publish(Batch(("gap",), appends={("noisy", index): frame(index)}, variables=STACK))
    assert publisher.close().spooled == 1
    assert root["gap", "noisy"].shape == (1, 32, 32)
    report = deliver_spool(target, tmp_path)
    assert report.spooled == 1
    assert "missing" in report.errors[0]


def test_an_array_whose_answer_was_lost_is_not_made_twice(
    root: Any, target: TiledTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiled.client.container import Container

    path = ("answer-lost",)
    writer = TreeWriter(target)
    writer.write("open", visit(path, 0))
    write_array = Container.write_array

    def lose_the_answer(*given: Any, **options: Any) -> Any:
        write_array(*given, **options)
        raise ConnectionResetError("the answer is lost")

    with monkeypatch.context() as patched:
        patched.setattr(Container, "write_array", lose_the_answer)
        with pytest.raises(ConnectionResetError):
            writer.write("append", visit(path, 0))
        with pytest.raises(ConnectionResetError):
            writer.write("overwrite", visit(path, 0))
    for index in range(2):
        writer.write("append", Batch(path, appends={("noisy", index): frame(index)}, variables=STACK))
        writer.write("overwrite", visit(path, index))
    check(root[path[0]], 2)
    writer.close()


def test_a_wrong_frame_is_named_and_the_rest_goes_on(root: Any, target: TiledTarget, tmp_path: Path) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    publisher.publish(visit(("wrong",), 0))
    publisher.flush(20)
    bad = visit(("wrong",), 1)
    bad.appends = {("noisy", 1): frame(1, 16)}
    publisher.publish(bad)
    publisher.flush(20)
    publisher.publish(visit(("wrong",), 1))
    report = publisher.close()
    assert len(report.errors) == 1
    assert "frame 1 of noisy is float32 (16, 16), expected float32 (32, 32)" in report.errors[0]
    check(root["wrong"], 2)


def _within(seconds: float, happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.02)
    return happens()


def test_full_disk_drops_previews_and_keeps_every_frame(
    root: Any, target: TiledTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("txm_stream.callbacks.spool.write_batch", no_room)
    gate = Gate(target)
    publisher = Publisher(gate, spool_dir=tmp_path, memory_mb=0.02)
    publisher.publish(visit(("full",), 0))
    assert _within(10, lambda: publisher._current is not None)  # on its way: what follows has to wait
    for index in range(1, 12):
        publisher.publish(visit(("full",), index))
    assert _within(10, lambda: publisher.previews_dropped > 0)
    gate.open = True
    report = publisher.close()
    assert report.dropped == publisher.previews_dropped > 0
    assert "No space left" in report.errors[0]
    tree = root["full"]
    np.testing.assert_array_equal(tree["noisy"].read(), np.stack([frame(index) for index in range(12)]))
    assert len(tree["metrics"].read()) == 12


def test_targets_travel_and_hide_their_key(server: EmbeddedServer, root: Any) -> None:
    below = root.create_container("below")
    target = TiledTarget.from_client(below)
    assert target.path == ("below",)
    assert server.api_key not in repr(target)
    travelled = pickle.loads(pickle.dumps(target))
    again = travelled.connect()
    assert list(filter(None, again.path_parts)) == ["below"]
    travelled.release(again)
    with_key = TiledTarget(f"{server.uri}?api_key=abc")
    assert with_key.api_key == "abc"
    assert "abc" not in with_key.uri
    with pytest.raises(InProcessClientError, match='worker="thread"'):
        TiledTarget.from_client(InProcess())
    assert LocalTarget(below).connect() is below


class InProcess:
    """As much of an in-process client as tells it apart."""

    class context:
        class http_client:
            app = object()


def test_memory_of_server_stays_bounded(server: EmbeddedServer, root: Any, target: TiledTarget, tmp_path: Path) -> None:
    publisher = Publisher(target, spool_dir=tmp_path)
    assert server.pid is not None
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    for index in range(60):
        batch = visit(("memory",), index, size=512)
        batch.live = index < 59  # the last one is not merged
        publisher.publish(batch)
        if index % 10 == 9:
            publisher.flush(60)
    assert publisher.close().complete
    after = process.memory_info().rss
    print(f"\nserver: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after 60 frames of 512²")
    assert after - before < 500 * 2**20
