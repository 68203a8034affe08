"""A facility's Tiled on this machine: a catalog in PostgreSQL, streams through Redis, a server of its own."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from txm_stream.callbacks.tiled_target import TiledTarget

KEY = "5ec2e7" * 8


def missing() -> str:
    """Return which Debian package is missing; empty where none is."""
    if not _postgres():
        return "postgresql"
    return "" if shutil.which("redis-server") else "redis-server"


def _postgres() -> str:
    """Return the folder of PostgreSQL's programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return os.path.dirname(found[-1]) if found else ""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Facility:
    """PostgreSQL, Redis and ``tiled serve config``; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="facility-"))
        self.folder.chmod(0o755)  # PostgreSQL does not run as root
        self.ports = {name: free_port() for name in ("postgres", "redis", "tiled")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def uri(self) -> str:
        """Address of the server's API."""
        return f"http://127.0.0.1:{self.ports['tiled']}/api/v1"

    def __enter__(self) -> Facility:
        try:
            self._start_postgres()
            redis = ["redis-server", "--port", str(self.ports["redis"]), "--save", "", "--dir", str(self.folder)]
            self._start("redis", redis, lambda: _listens(self.ports["redis"]))
            self.start_tiled()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("tiled", "redis", "postgres"):
            self.stop(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_tiled(self) -> None:
        """Start the server, for the first time or again."""
        database = f"postgresql://postgres@127.0.0.1:{self.ports['postgres']}"
        config = self.folder / "config.yml"
        config.write_text(
            f"""
authentication: {{single_user_api_key: {KEY}}}
streaming_cache: {{uri: "redis://127.0.0.1:{self.ports["redis"]}/1"}}
trees:
  - path: /
    tree: catalog
    args:
      uri: "{database}/catalog"
      writable_storage: ["{self.folder / "data"}", "{database}/storage"]
      init_if_not_exists: true
"""
        )
        command = [sys.executable, "-m", "tiled", "serve", "config", str(config), "--port", str(self.ports["tiled"])]
        self._start("tiled", command, self._answers)

    def stop(self, name: str) -> None:
        """Kill a server."""
        process = self._running.pop(name, None)
        if process is not None:
            process.terminate() if name == "postgres" else process.kill()
            process.wait(30)

    def nodes(self) -> int:
        """Return how many nodes the catalog in PostgreSQL has."""
        command = [f"{_postgres()}/psql", "-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U", "postgres"]
        query = ["-At", "-c", "select count(*) from nodes", "catalog"]
        return int(subprocess.run([*command, *query], capture_output=True, text=True, check=True).stdout)

    def redis_keys(self) -> int:
        """Return how many keys the stream cache holds."""
        command = ["redis-cli", "-p", str(self.ports["redis"]), "-n", "1", "dbsize"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    def _start_postgres(self) -> None:
        data, programs, port = self.folder / "postgres", _postgres(), str(self.ports["postgres"])
        data.mkdir()
        as_user = []
        if os.getuid() == 0:
            shutil.chown(data, "postgres", "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        subprocess.run(
            [*as_user, f"{programs}/initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._start(
            "postgres",
            [*as_user, f"{programs}/postgres", "-D", str(data), "-p", port, "-k", str(data), "-F"],
            lambda: _succeeds([f"{programs}/pg_isready", "-h", "127.0.0.1", "-p", port]),
        )
        for name in ("catalog", "storage"):
            subprocess.run([f"{programs}/createdb", "-h", "127.0.0.1", "-p", port, "-U", "postgres", name], check=True)

    def _start(self, name: str, command: list[str], ready: Callable[[], bool]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = self._running[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + 60
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        import httpx

        try:
            return bool(httpx.get(self.uri + "/", timeout=5).status_code == 200)
        except httpx.TransportError:
            return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def target_of(facility: Facility) -> TiledTarget:
    """Return where results go."""
    return TiledTarget(facility.uri, KEY)


@contextlib.contextmanager
def reading(facility: Facility) -> Iterator[Any]:
    """Open the catalog; its connections are closed at the end."""
    target = target_of(facility)
    client = target.connect()
    try:
        yield client
    finally:
        target.release(client)
