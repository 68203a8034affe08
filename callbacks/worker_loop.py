"""Inside the worker: take documents over a connection, process their runs, answer; until the connection closes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.scratch import CUT, Hold, RunKind, keep_results_only, unheard_documents
from txm_stream.callbacks.spooled_results import SpooledResults
from txm_stream.callbacks.tiled_target import keep_retries_short
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

BEAT_S = 1.0
_HEAVY = (
    "dask.array",
    "dask.dataframe",
    "tiled.client",
    "tiled.client.array",
    "tiled.client.dataframe",
    "txm_stream.denoising.tv_loops",
    "txm_stream.pipeline",
    "txm_stream.subspace.projection_loop",
    "txm_stream.unmixing.nonnegative_loop",
    "txm_stream.callbacks.publisher",
    "txm_stream.callbacks.results_tree",
)


def main(connection: Connection) -> None:
    """Run a worker process until its connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    profile, target, factory, path_map, level, has_successor = pickle.loads(connection.recv_bytes())
    lock = threading.Lock()
    logger.setLevel(level)
    logger.addHandler(_Forward(connection, lock))
    logger.propagate = False
    import torch

    torch.set_num_threads(2)
    keep_retries_short()
    for module in _HEAVY:  # before the first frame, not when it comes
        import_module(module)
    try:
        serve(connection, (profile, target, factory, path_map), lock=lock, keep=None, has_successor=has_successor)
    except Exception:
        logger.exception("the worker process ends")
        sys.exit(1)


def _give_memory_back() -> None:
    """Free a run's stacks: they hang on cycles of few objects, which Python is in no hurry to find."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class _OpenRun:
    """A run on the worker; ``heard`` counts its documents."""

    processor: Any
    folder: Path
    hold: Hold
    kind: RunKind
    heard: int = 0

    def finish_alone(self) -> None:
        """Finish it with the documents that are logged but were never sent; what was left goes to the next process."""
        if self.kind != "measured":
            return
        for name, document in unheard_documents(self.folder, self.heard):
            self.processor(name, document)
        self.clear_up(self.processor.end(CUT))

    def clear_up(self, report: RunReport) -> None:
        """Remove what is not needed any more."""
        if report.undelivered:
            keep_results_only(self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def serve(
    connection: Connection,
    settings: tuple[Any, ...],
    *,
    lock: threading.Lock,
    keep: Callable[[str, Any], None] | None,
    has_successor: bool = False,
) -> None:
    """Process what comes over the connection until it closes; then finish the runs that are still open.

    With a successor open runs are left to it as they are.

    Notes
    -----
    In: ``("open", uid, folder, attempt, kind, profile or None)``, ``("document", uid, name, document)``,
    ``("end", uid, reason)``.
    Out: ``("hello",)``, ``("beat", cpu_s)`` every second, ``("ack", uid)`` per document, ``("advice", uid, advice)``,
    ``("done", uid, report)``, ``("log", level, text)``.
    """
    profile, target, factory, path_map = settings
    runs: dict[str, _OpenRun] = {}
    ended = threading.Event()

    def send(*message: Any) -> bool:
        with lock:
            try:
                connection.send(message)
            except OSError:  # the RunEngine's process is gone; what is open is finished all the same
                return False
        return True

    def beat() -> None:
        while not ended.wait(BEAT_S):
            send("beat", time.process_time())

    def open_run(uid: str, folder: Path, attempt: int, kind: RunKind, own_profile: Profile | None) -> None:
        hold = Hold(folder)
        if folder.exists() and not hold.held:
            return  # another process has taken it over
        if kind == "results":
            processor: Any = SpooledResults(target, folder)
        else:
            more = {} if kind == "measured" else {"live": False}
            processor = factory(own_profile or profile, target, folder, attempt=attempt, path_map=path_map, **more)
            processor.on_advice = functools.partial(send, "advice", uid)
        runs[uid] = _OpenRun(processor, folder, hold, kind)

    def report(uid: str) -> None:
        run = runs[uid]
        outcome: RunReport | None = run.processor.report
        if outcome is None:
            return
        del runs[uid]
        if keep is not None and run.kind != "results":
            keep(uid, outcome.result)
        if not send("done", uid, replace(outcome, result=None)):
            run.clear_up(outcome)
        run.hold.release()
        del run, outcome
        _give_memory_back()

    threading.Thread(target=beat, daemon=True, name="txm-stream-beat").start()
    send("hello")
    try:
        while True:
            try:
                pause = 0.0
                while not connection.poll(pause):
                    busy = [run.processor.idle() for run in runs.values()]
                    pause = 0.0 if any(busy) else 0.5
                message = connection.recv()
            except (EOFError, OSError):
                break
            kind, uid = message[0], message[1]
            if kind == "open":
                open_run(uid, Path(message[2]), *message[3:])
            elif kind == "document" and uid in runs:
                runs[uid].heard += 1
                runs[uid].processor(message[2], message[3])
                report(uid)
            elif kind == "end" and uid in runs:
                runs[uid].processor.end(message[2])
                report(uid)
            if kind == "document":
                send("ack", uid)
        for run in [] if has_successor else list(runs.values()):  # nobody is left to hear it
            run.finish_alone()
    finally:
        ended.set()


class _Forward(logging.Handler):
    """Send log records to the RunEngine's process, where the user's logging is."""

    def __init__(self, connection: Connection, lock: threading.Lock) -> None:
        super().__init__()
        self._connection = connection
        self._send_lock = lock

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        with self._send_lock:
            try:
                self._connection.send(("log", record.levelno, text))
            except OSError:
                print(text, file=sys.stderr)
