"""A Tiled server in a process of its own: loopback only, random key, everything it stores in one folder.

For a laptop, a demo, a test. A facility runs its own Tiled with PostgreSQL and Redis.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from txm_stream.errors import UnreachableError

if TYPE_CHECKING:
    from types import TracebackType

_KEY_VARIABLE = "TXM_STREAM_SERVER_KEY"
_STREAM_CACHE_BYTES = 96 * 2**20
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
        environment = os.environ | {_KEY_VARIABLE: self.api_key, "MALLOC_ARENA_MAX": "2"}
        with (self.directory / _LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "txm_stream.callbacks.tiled_server", json.dumps(settings)],
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


# ------------------------------------------------------------------------------------ inside the server's process


def _serve(directory: Path, *, port: int, readable_storage: list[str], key: str) -> None:
    """Build the server and run it until the starter's end of stdin is closed or the starter is gone."""
    os.nice(5)  # where it shares a machine with the scan, the scan goes first
    (directory / "data").mkdir(parents=True, exist_ok=True)
    # Making the tables takes a Tiled process of its own; it runs while this one imports.
    making_tables = None if _folders(directory) is not None else _make_tables(directory)
    import uvicorn
    from tiled.catalog import from_uri as catalog_from_uri
    from tiled.config import Authentication, StreamingCacheConfig
    from tiled.server.app import build_app

    _limit_stream_cache()
    _take_large_images_fast()
    if making_tables is not None and making_tables.wait() != 0:
        raise SystemExit(f"the catalog {directory / 'catalog.db'} could not be initialised")
    _set_orphans_aside(directory)
    catalog = catalog_from_uri(
        directory / "catalog.db",
        writable_storage=[directory / "data", f"sqlite:///{directory / 'tables.db'}"],
        readable_storage=readable_storage,
        cache_config=StreamingCacheConfig(uri="memory", data_ttl=600).model_dump(),
    )
    app = build_app(catalog, authentication=Authentication(single_user_api_key=key))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            ws_per_message_deflate=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    )
    threading.Thread(target=_end_with_starter, args=(server,), daemon=True).start()
    written = directory / f".port.{os.getpid()}.part"
    written.write_text(str(listener.getsockname()[1]), encoding="ascii")
    written.rename(directory / f".port.{os.getpid()}")
    logging.getLogger("tiled").setLevel(logging.WARNING)
    server.run(sockets=[listener])


def _end_with_starter(server: Any) -> None:
    """Wait for the end of stdin or of the starting process, then end the server, in 5 s at most."""
    starter = os.getppid()
    closed = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    while not closed.wait(1.0) and os.getppid() == starter:
        pass
    server.should_exit = True
    time.sleep(5.0)
    os._exit(0)


def _limit_stream_cache() -> None:
    """Limit Tiled's in-memory stream cache in bytes; by default it counts items, whatever their size."""
    import cachetools
    from tiled.server.streaming import TTLCacheDatastore, register_datastore

    def size(item: dict[str, Any]) -> int:
        return 512 + len(item["metadata"]) + len(item.get("payload", b""))

    class BoundedDatastore(TTLCacheDatastore):  # type: ignore[misc]
        def __init__(self, settings: dict[str, Any]) -> None:
            super().__init__(settings)
            self._data_cache: Any = cachetools.TTLCache(_STREAM_CACHE_BYTES, ttl=settings["data_ttl"], getsizeof=size)

        async def set(self, node_id: Any, sequence: int, metadata: Any, payload: bytes | None = None) -> None:
            if payload is not None and len(payload) > _STREAM_CACHE_BYTES // 2:
                payload = None
            await super().set(node_id, sequence, metadata, payload)

    register_datastore("memory")(BoundedDatastore)


def _take_large_images_fast() -> None:
    """Take request bodies in large pieces, and store arrays as they are: noise does not compress (10 % at 5 ms/MB)."""
    import functools

    import tiled.adapters.zarr
    from uvicorn.protocols.http import httptools_impl

    httptools_impl.HIGH_WATER_LIMIT = 2**24  # type: ignore[attr-defined]
    tiled.adapters.zarr.create_array = functools.partial(tiled.adapters.zarr.create_array, compressors=None)


def _make_tables(directory: Path) -> subprocess.Popen[bytes]:
    command = ["-m", "tiled", "catalog", "init", "--if-not-exists", f"sqlite:///{directory / 'catalog.db'}"]
    return subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL)


def _folders(directory: Path) -> set[Path] | None:
    """Return the array folders that the catalog knows; ``None`` where there is no initialised catalog yet."""
    database = directory / "catalog.db"
    if not database.exists():
        return None
    catalog = sqlite3.connect(database)
    try:
        if not catalog.execute("select version_num from alembic_version").fetchall():
            return None
        uris = [row[0] for row in catalog.execute("select data_uri from assets where is_directory")]
    except sqlite3.OperationalError:
        return None
    finally:
        catalog.close()
    return {Path(url2pathname(urlparse(uri).path)) for uri in uris}


def _set_orphans_aside(directory: Path) -> None:
    """Move array folders that a killed server made but did not enter in its catalog; they would block their name.

    Nothing is touched where the catalog names folders that are not there (the whole folder was moved or copied).
    """
    known = _folders(directory) or set()
    if not all(folder.exists() for folder in known):
        return
    for number, marker in enumerate(list((directory / "data").rglob("zarr.json"))):
        if marker.parent not in known:
            aside = directory / "orphans" / f"{time.time_ns()}-{number}"
            aside.parent.mkdir(exist_ok=True)
            marker.parent.rename(aside)


if __name__ == "__main__":
    _settings = json.loads(sys.argv[1])
    _serve(
        Path(_settings["directory"]),
        port=_settings["port"],
        readable_storage=_settings["readable_storage"],
        key=os.environ.pop(_KEY_VARIABLE),
    )
