"""A watch under test: scans with the result of a subscribed stream, sources, watches on a thread and as a process."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.callbacks.zmq import Publisher

from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.watch import Watch
from txm_stream.callbacks.watch_folder import WatchFolder
from txm_stream.profile import Profile

ENERGIES = [8320.0, 8333.0, 8340.0, 8346.0, 8352.0, 8360.0, 8390.0, 8420.0]
Documents = list[tuple[str, dict[str, Any]]]


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


TakeScan = Callable[..., Scan]


def assert_same_result(server: EmbeddedServer, uid: str) -> None:
    client = server.client()
    direct, watched = client["direct", uid, "final"], client["processed", "txm_stream", uid, "final"]
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
            wait_for(lambda port=port: answers(port), "the proxy")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_for(what: Callable[[], Any], name: str, timeout_s: float = 150.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"{name} did not come in {timeout_s:g} s"
        time.sleep(0.05)


# -- a watch on a thread


class Watching:
    """A watch on a thread of this process; its worker is a process as always."""

    def __init__(self, source: Any, profile: Profile, server: EmbeddedServer, *, find: Any = None) -> None:
        assert profile.scratch_dir is not None
        self.folder = WatchFolder(profile.scratch_dir, "source", "target", keep_documents=False)
        self.watch = Watch(server.client(), profile, self.folder, find=find)
        self.ended = threading.Event()
        self.source = source(self) if callable(source) else source
        self.heard = self.connected = 0
        self.thread = threading.Thread(target=lambda: self.watch.follow(self, self.ended), daemon=True)
        self.thread.start()

    def follow(self, take: Callable[..., None], ended: threading.Event) -> None:
        """Follow the source, and count what comes."""

        def count(name: str, document: dict[str, Any]) -> None:
            is_nothing = "nothing" in str(document.get("run_start", document["uid"]))
            self.connected += is_nothing
            self.heard += not is_nothing
            take(name, document)

        self.source.follow(count, ended)

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
        """Publish runs without data until one more is heard."""
        before = self.connected
        connect(publisher, lambda: self.connected > before)


def connect(publisher: Publisher, heard: Callable[[], Any]) -> None:
    def try_once() -> bool:
        uid = f"nothing-{time.monotonic_ns()}"
        publisher("start", {"uid": uid, "time": time.time()})
        publisher("stop", {"uid": f"{uid}-stop", "run_start": uid, "time": time.time(), "exit_status": "success"})
        return bool(heard())

    wait_for(try_once, "0MQ's connection")


def publish(publisher: Publisher, documents: Documents) -> None:
    for entry in documents:
        publisher(*entry)


def as_new(scan: Scan) -> Scan:
    """Date the start to now: a watch follows what begins after it."""
    (name, start), *rest = scan.documents
    return Scan(scan.uid, [(name, {**start, "time": time.time()}), *rest])


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

    def kill(self) -> None:
        self.process.kill()
        self._close()

    def _close(self) -> None:
        """Wait for the end of the process and of whoever writes to its pipes."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.wait(120)
        self._reader.join(60)
        self.process.stdout.close()
        self.process.stderr.close()

    def answer(self) -> tuple[str, dict[str, Any]]:
        """Wait for its end; return its last words and the JSON object."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        self._close()
        assert self.process.returncode == 0, self.lines
        *_, words, answer = out.splitlines()
        return words, json.loads(answer)


StartWatch = Callable[..., WatchProcess]
