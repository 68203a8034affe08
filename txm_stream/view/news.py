"""News of a live run: the page waits for them here, and this listens to Tiled, instead of asking again and again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

logger = logging.getLogger("txm_stream")

_AGAIN_S = 2.0
"""Pause after a connection that was refused or lost: no table yet, no stream cache, no server."""
_UNUSED_S = 30.0
"""A run that nobody asked about for so long is listened to no more."""
_MAX_BYTES = 1 << 26


@dataclass
class _Listener:
    """What is known of one stream; ``count`` grows with every message, ``works`` says whether it is connected."""

    count: int = 0
    works: bool = False
    asked_at: float = field(default_factory=time.monotonic)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class News:
    """Listens to the streams of Tiled nodes, each from the first question about it on.

    Parameters
    ----------
    api
        Address of Tiled's API, ending in a slash.
    headers
        Sent with the request for a stream: the key.

    Notes
    -----
    Tiled streams a write before it can be read; the caller reads again until it sees it. Where a stream cannot be had
    (the server has no stream cache), :meth:`wait` says so at once, and the caller asks from time to time, as before.
    """

    def __init__(self, api: str, headers: Mapping[str, str]) -> None:
        split = urlsplit(api)
        self._base = split._replace(scheme="wss" if split.scheme == "https" else "ws").geturl()
        self._headers = dict(headers)
        self._listeners: dict[str, _Listener] = {}

    async def wait(self, path: str, seen: int, timeout_s: float) -> tuple[int, bool]:
        """Wait until the stream of a node has said more than ``seen`` messages; return how many, and whether it works.

        Parameters
        ----------
        path
            The node's path, quoted.
        """
        listener = self._listeners.get(path)
        if listener is None:
            listener = self._listeners[path] = _Listener()
            listener.task = asyncio.create_task(self._listen(path, listener))
        listener.asked_at = time.monotonic()
        if listener.count == seen and listener.works:
            listener.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(listener.changed.wait(), timeout_s)
        return listener.count, listener.works

    async def close(self) -> None:
        """Stop listening."""
        tasks = [listener.task for listener in self._listeners.values() if listener.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listeners.clear()

    async def _listen(self, path: str, listener: _Listener) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        address = f"{self._base}stream/single/{path}?envelope_format=msgpack"
        while time.monotonic() - listener.asked_at < _UNUSED_S:
            try:
                async with connect(address, additional_headers=self._headers, max_size=_MAX_BYTES) as stream:
                    self._say(listener, works=True)
                    async for _ in stream:
                        self._say(listener, works=True)
                        if time.monotonic() - listener.asked_at > _UNUSED_S:
                            break
            except (TimeoutError, WebSocketException, OSError) as error:
                logger.debug("no stream of %s: %s", path, error)
            self._say(listener, works=False)
            await asyncio.sleep(_AGAIN_S)
        self._listeners.pop(path, None)

    def _say(self, listener: _Listener, *, works: bool) -> None:
        listener.count += 1
        listener.works = works
        listener.changed.set()
