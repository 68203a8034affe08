"""Documents from a 0MQ proxy (``bluesky.callbacks.zmq``)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

from bluesky.callbacks.zmq import RemoteDispatcher

logger = logging.getLogger("txm_stream")

_ANSWER_S = 3.0


class ZmqSource:
    """What a 0MQ proxy sends; a proxy that goes and comes back is found again.

    Parameters
    ----------
    host, port
        Where the proxy sends to its subscribers.
    prefix
        Only publishers with this prefix are heard; empty: all.

    Notes
    -----
    0MQ keeps nothing: what is published while the proxy, or this process, is away is lost. Documents are pickled:
    a proxy must be trusted as much as the code that is run here.
    """

    def __init__(self, host: str, port: int, *, prefix: str = "") -> None:
        self.address = f"tcp://{host}:{port}"
        self.prefix = prefix

    def follow(self, take: Callable[[str, dict[str, Any]], None], ended: threading.Event) -> None:
        """Hand every document to ``take`` as it comes, until ``ended`` is set."""
        if not proxy_answers(self.address):
            logger.warning("no 0MQ proxy answers at %s yet; waiting for it", self.address)
        dispatcher = RemoteDispatcher(self.address, prefix=self.prefix.encode())
        dispatcher.subscribe(lambda name, document: take(name, document))
        stopper = threading.Thread(target=_stop_when, args=(ended, dispatcher.loop), daemon=True)
        stopper.start()
        try:
            dispatcher.start()
        except asyncio.CancelledError:
            return


def proxy_answers(address: str, timeout_s: float = _ANSWER_S) -> bool:
    """Return whether something that speaks 0MQ answers at an address (``tcp://host:port``)."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        with socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
            socket.connect(address)
            answered = bool(monitor.poll(int(timeout_s * 1000)))
            socket.disable_monitor()
    return answered


def _stop_when(ended: threading.Event, loop: asyncio.AbstractEventLoop) -> None:
    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    ended.wait()
    if not loop.is_closed():
        loop.call_soon_threadsafe(cancel)
