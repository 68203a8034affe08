"""A Tiled server in a process of its own: loopback only, random key, everything it stores in one folder.

For a laptop, a demo, a test. A facility runs its own Tiled with PostgreSQL and Redis.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from txm_stream.callbacks.server_process import KEY_VARIABLE
from txm_stream.errors import UnreachableError

if TYPE_CHECKING:
    from types import TracebackType

_LOG_NAME = "server.log"


class EmbeddedServer:
    """Run Tiled on 127.0.0.1 from a folder; a context manager.

    Catalog and tables are SQLite (DuckDB crashes under two writers), arrays are files, the cache of the
    websocket streams lives in memory and is limited in bytes. The server ends with the process that started
    it, also when that process is killed, and does not see Ctrl-C: undelivered results can still be published.

    Parameters
    ----------
    directory
        Folder of the server; what an earlier server stored there is served again.
    port
        TCP port; 0 takes a free one.
    api_key
        The single user's key; by default a random one. It reaches the server through its environment, never
        through the command line.
    readable_storage
        Folders from which files may be registered, for example those of the camera.
    start_timeout_s
        How long to wait until the server answers.

    Raises
    ------
    UnreachableError
        The server did not come up; the message names its log file and ends with that file's last line.

    Examples
    --------
    >>> with EmbeddedServer("results") as server:  # doctest: +SKIP
    ...     client = server.client()
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        port: int = 0,
        api_key: str | None = None,
        readable_storage: Iterable[str | Path] = (),
        start_timeout_s: float = 120.0,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.port = port
        self.api_key = api_key or secrets.token_hex(32)
        self.readable_storage = tuple(str(Path(folder).resolve()) for folder in readable_storage)
        self.start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Any] = []
        self.start()

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.directory)!r}, uri={self.uri!r}, running={self.running})"

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """Address of the API, without the key."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def client(self) -> Any:
        """Return a Tiled client at the root of the tree; it survives :meth:`restart` and is closed by :meth:`stop`."""
        from tiled.client import from_uri

        client = from_uri(self.uri, api_key=self.api_key)
        self._clients.append(client)
        return client

    def start(self) -> None:
        """Start the server, if it is not running, and wait until it answers."""
        if self.running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "directory": str(self.directory),
            "port": self.port,
            "readable_storage": list(self.readable_storage),
        }
        environment = os.environ | {KEY_VARIABLE: self.api_key, "MALLOC_ARENA_MAX": "2"}
        with (self.directory / _LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "txm_stream.callbacks.server_process", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._wait_until_it_answers(self._process)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server; what it stored stays."""
        while self._clients:
            self._clients.pop().context.http_client.close()
        self._end(timeout_s)

    def _end(self, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _close(process.stdin)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process.stdin)

    def restart(self) -> None:
        """Start again with the same folder, port and key."""
        self._end(10.0)
        self.start()

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        import httpx

        port_file = self.directory / f".port.{process.pid}"
        deadline = time.monotonic() + self.start_timeout_s
        try:
            with httpx.Client(trust_env=False, timeout=1.0) as http:
                while time.monotonic() < deadline and process.poll() is None:
                    time.sleep(0.05)
                    if not port_file.exists():
                        continue
                    self.port = int(port_file.read_text(encoding="ascii"))
                    try:
                        if http.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200:
                            return
                    except httpx.TransportError:
                        continue
        finally:
            port_file.unlink(missing_ok=True)
        ended = process.poll()
        self.kill()
        why = f"ended with status {ended}" if ended is not None else f"did not answer in {self.start_timeout_s:g} s"
        log = self.directory / _LOG_NAME
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UnreachableError(
            f"the embedded Tiled server {why}; see {log} (last line: {lines[-1] if lines else 'none'}); "
            "check that the port is free and the folder writable"
        )


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()
