"""News of the runs: the page waits for them here, and this listens to Tiled, instead of asking again and again."""

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
        self._changed = asyncio.Event()

    async def wait(self, seen: Mapping[str, int], timeout_s: float) -> tuple[list[int], bool]:
        """Wait until one of some streams has said another number of messages than was seen.

        Parameters
        ----------
        seen
            By path of the node, quoted; the first one is waited for only where its stream works.

        Returns
        -------
        How many messages each has said, and whether the first stream works.
        """
        listeners = [self._listener(path) for path in seen]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while listeners[0].works and [listener.count for listener in listeners] == list(seen.values()):
                    self._changed.clear()
                    await self._changed.wait()
        return [listener.count for listener in listeners], listeners[0].works

    def _listener(self, path: str) -> _Listener:
        listener = self._listeners.get(path)
        if listener is None:
            listener = self._listeners[path] = _Listener()
            listener.task = asyncio.create_task(self._listen(path, listener))
        listener.asked_at = time.monotonic()
        return listener

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
        self._changed.set()
