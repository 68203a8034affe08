"""Inside the embedded server's process: build Tiled's application, run it, end with the process that started it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

KEY_VARIABLE = "TXM_STREAM_SERVER_KEY"
_STREAM_CACHE_BYTES = 96 * 2**20


def _serve(directory: Path, *, port: int, readable_storage: list[str], key: str) -> None:
    """Build the server and run it until the starter's end of stdin is closed or the starter is gone."""
    os.nice(5)  # where it shares a machine with the scan, the scan goes first
    (directory / "data").mkdir(parents=True, exist_ok=True)
    import uvicorn
    from tiled.catalog import from_uri as catalog_from_uri
    from tiled.config import Authentication, StreamingCacheConfig
    from tiled.server.app import build_app

    _limit_stream_cache()
    _take_large_images_fast()
    _remember_what_does_not_change()
    if _folders(directory) is None:
        _make_tables(f"sqlite+aiosqlite:///{directory / 'catalog.db'}")
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


def _remember_what_does_not_change() -> None:
    """Look at the signatures of dependencies once, and build the query of a path once: a third of a request's time.

    FastAPI does the first at each request where a dependency is overridden (Tiled overrides three).
    """
    import functools

    import tiled.catalog.adapter
    from fastapi.dependencies import utils

    look = utils.get_dependant
    known: dict[Any, Any] = {}

    def remember(**given: Any) -> Any:
        if "name" not in given:  # an endpoint, not a dependency
            return look(**given)
        key = tuple((word, tuple(value) if isinstance(value, list) else value) for word, value in given.items())
        if key not in known:
            known[key] = look(**given)
        return known[key]

    utils.get_dependant = remember
    build = functools.lru_cache(1024)(tiled.catalog.adapter.node_from_segments)
    tiled.catalog.adapter.node_from_segments = lambda segments, root_id=0: build(tuple(segments), root_id)


def _make_tables(uri: str) -> None:
    """Do what ``tiled catalog init`` does, without the seconds that another process takes to import Tiled."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import initialize_database

    async def make() -> None:
        engine = create_async_engine(uri)
        await initialize_database(engine)
        await engine.dispose()

    asyncio.run(make())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)


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
        key=os.environ.pop(KEY_VARIABLE),
    )
