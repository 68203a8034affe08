"""Keep a worker at work: send it the runs, watch it, replace it when it dies or hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from txm_stream.callbacks.handover import LARGE
from txm_stream.callbacks.journal import LostArray, replace_arrays
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.run_log import RunLog
from txm_stream.callbacks.worker import Worker
from txm_stream.callbacks.worker_loop import BEAT_S

logger = logging.getLogger("txm_stream")

_WINDOW = 64
"""Documents sent ahead of their acknowledgement."""
_LONGEST_STEP_S = 3600.0
"""No single step may take longer, however busy the worker looks."""


class Supervisor:
    """Own the worker.

    Parameters
    ----------
    launch
        Starts a worker.
    on_report
        Called with ``(run, report)`` when a run is finished, from a thread of the supervisor.
    on_failure
        Called with ``(run, reason)`` after the last attempt; returns the run's report. May take its time.
    on_advice
        Called with ``(run uid, advice)`` as it comes.
    stuck_s
        A worker that neither proceeds nor computes for so long is hung.
    attempts
        How often a run is begun again after its worker died.
    """

    def __init__(
        self,
        launch: Callable[[], Worker],
        *,
        on_report: Callable[[RunLog, RunReport], None],
        on_failure: Callable[[RunLog, str], RunReport],
        stuck_s: float,
        on_advice: Callable[[str, Any], None] = lambda uid, advice: None,
        attempts: int = 3,
    ) -> None:
        self.launch = launch
        self.on_advice = on_advice
        self.on_report = on_report
        self.on_failure = on_failure
        self.stuck_s = stuck_s
        self.attempts = attempts
        self.worker: Worker | None = None
        self._runs: list[RunLog] = []
        self._lock = threading.Lock()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._closing = False
        self._hello = False
        self.ready = threading.Event()
        self._failures = 0
        self._progress_at = 0.0
        self._busy_at = 0.0
        self._cpu_s = 0.0
        self._launch_at = 0.0
        self._thread = threading.Thread(target=self._loop, daemon=True, name="txm-stream-supervisor")
        self._thread.start()

    # -- called by the feeder

    def add(self, run: RunLog) -> None:
        """Take a new run."""
        with self._lock:
            self._runs.append(run)

    def append(self, run: RunLog, name: str, document: dict[str, Any], in_memory: list[Any]) -> None:
        """Take a run's next document; ``in_memory`` are its arrays that are not on disk."""
        with self._lock:
            if in_memory:
                run.in_memory[len(run.documents)] = in_memory
            run.documents.append((name, document))
        self._wake()

    def end(self, run: RunLog, reason: str) -> None:
        """Have a run finished that will get no stop document."""
        with self._lock:
            run.end_reason = reason
        self._wake()

    def close(self) -> None:
        """Stop supervising and let the worker go."""
        self._closing = True
        self._wake()
        self._thread.join(30.0)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_in, b"x")

    # -- the supervising thread

    def _loop(self) -> None:
        while not self._closing:
            try:
                self._step()
            except (EOFError, OSError) as error:
                self._replace(f"the worker died ({type(error).__name__})")
            except Exception:
                logger.exception("supervisor")
                time.sleep(0.1)
        if self.worker is not None:
            self.worker.leave(10.0)
        for run in self._runs:
            if run.hold is not None:
                run.hold.release()

    def _step(self) -> None:
        if self.worker is None:
            if time.monotonic() < self._launch_at:
                time.sleep(0.05)
                return
            self._hello, self._progress_at, self._cpu_s = False, time.monotonic(), 0.0
            self._launch_at = time.monotonic() + min(2.0**self._failures, 60.0)
            self._failures += 1
            self.worker = self.launch()
        for source in wait([self.worker.connection, self._wake_out], timeout=0.5):
            if isinstance(source, int):
                os.read(self._wake_out, 65536)
            else:
                self._hear(self.worker.connection.recv())
        self._send()
        self._check()

    def _hear(self, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "log":
            logger.log(message[1], "%s", message[2])
            return
        if kind == "beat":
            if message[1] - self._cpu_s > 0.5:
                self._cpu_s = message[1]
                self._busy_at = time.monotonic()
            return
        run = next((run for run in self._runs if len(message) > 1 and run.uid == message[1]), None)
        self._progress_at = self._busy_at = time.monotonic()
        if kind == "hello":
            self._hello, self._failures = True, 0
            self.ready.set()
        elif kind == "ack" and run is not None:
            self._release(run, run.acked)
            run.acked += 1
        elif kind == "advice" and run is not None:
            self.on_advice(run.uid, message[2])
        elif kind == "done" and run is not None:
            self._finished(run, message[2])

    def _send(self) -> None:
        if self.worker is None or not self._hello:
            return
        connection = self.worker.connection
        ahead = sum(run.sent - run.acked for run in self._runs)
        measuring = any(run.kind == "measured" and not run.over for run in self._runs)
        for run in list(self._runs):
            if run.over or (run.kind != "measured" and measuring and not run.end_sent):
                continue  # what was left waits, also in mid-run, until nothing is measured
            if not run.opened:
                run.opened = True
                connection.send(("open", run.uid, str(run.folder), run.attempt, run.kind, run.profile))
            window = _WINDOW if run.kind == "measured" else 1
            while run.sent < len(run.documents) and ahead < window:
                if run.sent in run.in_memory and ahead:
                    break  # a whole frame through the pipe: only to a worker that is listening
                connection.send(("document", run.uid, *run.documents[run.sent]))
                if ahead == 0:
                    self._progress_at = self._busy_at = time.monotonic()
                run.sent += 1
                ahead += 1
            if run.end_reason is not None and run.sent == len(run.documents) and not run.end_sent:
                run.end_sent = True
                connection.send(("end", run.uid, run.end_reason))

    def _check(self) -> None:
        if self.worker is None:
            return
        if not self.worker.alive():
            raise EOFError
        now = time.monotonic()
        if not self._hello:
            if now - self._progress_at > max(self.stuck_s, 300.0):
                self._replace("the worker did not start")
        elif any(run.sent > run.acked or run.end_sent for run in self._runs if not run.over):
            idle_s, step_s = now - max(self._busy_at, self._progress_at), now - self._progress_at
            if idle_s > self.stuck_s + BEAT_S or step_s > _LONGEST_STEP_S:
                self._replace(f"the worker hung for {step_s:.0f} s")

    def _replace(self, reason: str) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.kill()
        for run in [run for run in self._runs if not run.over and (run.opened or not self._hello)]:
            logger.warning("run %s: %s; attempt %d of %d", run.uid, reason, run.attempt + 1, self.attempts + 1)
            for index in range(run.acked):
                self._release(run, index)
            run.sent = run.acked = 0
            run.opened = run.end_sent = False
            run.attempt += 1
            if run.attempt > (self.attempts if run.kind == "measured" else 1):
                run.over = True
                threading.Thread(target=self._give_up, args=(run, reason), daemon=True).start()

    def _give_up(self, run: RunLog, reason: str) -> None:
        self._finished(run, self.on_failure(run, f"{reason}, {run.attempt} times over this run"))

    def _finished(self, run: RunLog, report: RunReport) -> None:
        run.over = True
        with self._lock:
            self._runs.remove(run)
        run.documents.clear()
        self.on_report(run, report)
        if run.hold is not None:
            run.hold.release()

    def _release(self, run: RunLog, index: int) -> None:
        """Forget the arrays of an acknowledged document that were kept in memory only."""
        arrays = run.in_memory.pop(index, None)
        if arrays is None:
            return
        for array in arrays:
            run.journal.release(array)
        name, document = run.documents[index]
        lost = LostArray("the worker died, and the frame was in memory only because the disk was full")
        run.documents[index] = (name, replace_arrays(document, lambda _: lost, least_bytes=LARGE))
