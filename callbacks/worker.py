"""The worker: a process of its own by default, started afresh without the caller's main script.

It is no ``multiprocessing.Process`` on purpose: those run the caller's main script again, may not be
started from daemonic processes (as a queue server's worker is), and hear the Ctrl-C that pauses a scan.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from txm_stream.callbacks.worker_loop import serve

logger = logging.getLogger("txm_stream")

_BOOT = (
    "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[1])); "
    "sys.path[:] = c.recv(); from txm_stream.callbacks.worker_loop import main; main(c)"
)
_ENVIRONMENT = {"OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2"}
"""Two arenas: over seven scans (24 energies, 512²) a worker held 622 to 652 MB with them, 631 to 727 MB without."""
Factory = Callable[..., Any]
"""``factory(profile, target, scratch, attempt=…, path_map=…)`` → a RunProcessor; picklable."""


class Worker(Protocol):
    """What the supervisor needs of a worker."""

    connection: Connection

    def alive(self) -> bool:
        """Whether it still runs."""

    def kill(self) -> None:
        """End it, whatever it does."""

    def leave(self, timeout_s: float) -> None:
        """Let it end by itself: it does when the connection closes."""


class ProcessWorker:
    """A worker in a process: niced, two numerical threads, deaf to Ctrl-C; ``successor_lock``: see ``XanesStream``."""

    def __init__(self, settings: tuple[Any, ...], *, stuck_s: float, successor_lock: int | None = None) -> None:
        ours, theirs = socket.socketpair()
        timeout = struct.pack("@ll", int(stuck_s) + 1, 0)  # no send or receive can block the supervisor for ever
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        environment = {**_ENVIRONMENT, **os.environ}
        held = () if successor_lock is None else (successor_lock,)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *held),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        self.connection: Connection = Connection(ours.detach())
        try:
            self.connection.send(sys.path)
            self.connection.send_bytes(pickle.dumps((*settings, logger.getEffectiveLevel(), bool(held))))
        except BaseException:  # it died at once: nobody else would wait for it
            self.kill()
            raise

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def leave(self, timeout_s: float) -> None:
        """Let it end by itself: it does when the connection closes."""
        self.connection.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()


class ThreadWorker:
    """The same loop on a thread, for notebooks and tests; it cannot be killed, only abandoned."""

    def __init__(self, settings: tuple[Any, ...], *, keep: Callable[[str, Any], None]) -> None:
        self.connection, theirs = Pipe()
        self._thread = threading.Thread(
            target=_serve_thread, args=(theirs, settings, keep), daemon=True, name="txm-stream-worker"
        )
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def kill(self) -> None:
        self.connection.close()

    def leave(self, timeout_s: float) -> None:
        """Let it end by itself: it does when the connection closes."""
        self.connection.close()
        self._thread.join(timeout_s)


def _serve_thread(connection: Connection, settings: tuple[Any, ...], keep: Callable[[str, Any], None]) -> None:
    try:
        serve(connection, settings, lock=threading.Lock(), keep=keep)
    except Exception:
        logger.exception("the worker thread ended")
    finally:
        connection.close()
