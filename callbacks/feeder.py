"""Between the RunEngine's queue and the worker: arrays go to the journal, documents to the run's log."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.callbacks.facts import EnergyReader, read_scan
from txm_stream.callbacks.handover import LARGE, BufferPool, HandedOver, lost_event
from txm_stream.callbacks.journal import Journal, LostArray, replace_arrays
from txm_stream.callbacks.orders import DOCUMENT as ORDER
from txm_stream.callbacks.orders import OrderFiles
from txm_stream.callbacks.redelivery import Redelivery
from txm_stream.callbacks.router import RunRouter
from txm_stream.callbacks.run_groups import RunGroups
from txm_stream.callbacks.run_log import RunLog
from txm_stream.callbacks.scratch import FRAMES, Hold, begin_log, left_runs, make_folder, room_problem, scratch_root
from txm_stream.callbacks.supervisor import Supervisor
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_ORDERS_EVERY_S = 0.5
_LOOK_AGAIN_S = (0.5, 2.0, 10.0, 60.0)
"""When, after the start, is looked again for what was left: a process that is being killed holds it for a moment."""
_NOT_KEPT = LostArray("the process was killed, and the frame was in memory only because the disk was full")


class Feeder:
    """Take handed-over documents from a queue on a thread of its own.

    Parameters
    ----------
    profile
        Scratch folder and limits.
    supervisor
        Gets the runs and their documents.
    pool
        Gets the buffers back.
    target
        Name of the place that results go to: what an earlier process left for it is finished first. ``""``: there is
        none, or nobody could find it again.
    on_part
        Called with ``(run, uid)`` for every further run of a scan of several.

    Notes
    -----
    ``taken_bytes`` counts what was taken off the queue; with what was put on it, it says how much waits.
    ``redelivery`` is told what became of each run's results.
    """

    def __init__(
        self,
        profile: Profile,
        supervisor: Supervisor,
        pool: BufferPool,
        *,
        target: str = "",
        on_part: Callable[[RunLog, str], None] = lambda run, uid: None,
    ) -> None:
        self.profile = profile
        self.target = target
        self.on_part = on_part
        self.supervisor = supervisor
        self.pool = pool
        self.queue: queue.SimpleQueue[HandedOver | None] = queue.SimpleQueue()
        self.taken_bytes = 0
        self.redelivery = Redelivery()
        self._groups = RunGroups(profile)
        self._router = RunRouter()
        self._orders = OrderFiles(scratch_root(profile))
        self._orders_at = 0.0
        self._runs: dict[str, RunLog] = {}
        self._may_be_left: set[Path] | None = None
        self._looks = [time.monotonic() + after for after in _LOOK_AGAIN_S]
        self._thread = threading.Thread(target=self._loop, daemon=True, name="txm-stream-feeder")
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Take what is still queued, then stop; return whether that was done in time."""
        self.queue.put(None)
        self._thread.join(timeout_s)
        self._end_scans(self._groups.close())
        for run in self._runs.values():
            self._orders.close(run.uid)
            run.close()
            self.supervisor.end(run, "the stream was closed before the run had a stop document")
        return not self._thread.is_alive()

    def _loop(self) -> None:
        self._take_over()
        while True:
            try:
                handed = self.queue.get(timeout=_ORDERS_EVERY_S)
            except queue.Empty:
                self._take_orders()
                if self._looks and not self._runs and time.monotonic() > self._looks[0]:
                    self._looks.pop(0)
                    self._take_over()
                self._offer_again()
                continue
            if handed is None:
                return
            try:
                for name, document in self._groups(handed.name, handed.document):
                    same = document is handed.document
                    self._feed(handed if same else HandedOver(name, dict(document), [], [], 0))
            except Exception as error:
                self._give_up(handed, error)
            self.taken_bytes += handed.nbytes
            self._take_orders()

    def _end_scans(self, stops: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Feed the stop documents of scans of several runs that are over."""
        for name, document in stops:
            try:
                self._feed(HandedOver(name, dict(document), [], [], 0))
            except Exception:
                logger.exception("the end of run %s", document["run_start"])

    def _take_orders(self) -> None:
        """Pass on what operators in other processes left for the open runs; end scans that no run follows any more."""
        if not self._runs or time.monotonic() < self._orders_at:
            return
        self._orders_at = time.monotonic() + _ORDERS_EVERY_S
        self._end_scans(self._groups.overdue())
        try:
            for uid, order in self._orders.take():
                self._append(self._runs[uid], ORDER, order)
        except Exception as error:
            logger.warning("orders not read: %s: %s", type(error).__name__, error)

    def _take_over(self) -> None:
        """Have the runs finished that a process left that is gone; each once."""
        if not self.target:
            return
        root, days = scratch_root(self.profile), self.profile.limits.scratch_days
        try:
            if self._may_be_left is None:
                self._may_be_left = set(root.glob("*")) if root.is_dir() else set()
            for left in left_runs(self._may_be_left, self.target, keep_days=days):
                self._may_be_left.discard(left.folder)
                logger.warning("run %s was left by a process that is gone: it is finished now", left.uid[:8])
                self.supervisor.add(RunLog.of_left(left))
        except Exception:
            logger.exception("what is left in the scratch folder is not looked at")

    def _offer_again(self) -> None:
        """Have results delivered that their server did not take, while no run goes on."""
        if self._runs:
            return
        try:
            for run in self.redelivery.due():
                self.supervisor.add(run)
        except Exception:
            logger.exception("results that wait are not looked at")

    def _feed(self, handed: HandedOver) -> None:
        if handed.name == "start" and str(handed.document["uid"]) in self._runs:
            logger.warning("run %s: its start document came again and is ignored", handed.document["uid"])
            return
        uids = self._router.route(handed.name, handed.document)
        if handed.name == "start":
            self._runs[uids[0]] = self._begin(handed.document)
        if handed.name == "descriptor":
            self._warm(handed.document)
            self._check_room(uids, handed.document)
        if handed.name == "descriptor" and not uids:
            logger.warning(
                "run %s: its start document never came, the run is ignored; replay it once it is stored",
                str(handed.document.get("run_start"))[:8],
            )
        if handed.name == ORDER and not uids:
            logger.warning("an order came after the run's last document: replay the run with it")
        stored: list[Any] = []
        for (container, key), buffer in zip(handed.slots, handed.buffers, strict=True):
            if uids:
                stored.append(self._runs[uids[0]].journal.store(container[key]))
                container[key] = stored[-1]
            if buffer is not None:
                self.pool.give(buffer)
        if handed.name == "part":
            self.on_part(self._runs[uids[0]], str(handed.document["uid"]))
        for uid in uids:
            kept = [array for array in stored if isinstance(array, np.ndarray)]
            self._append(self._runs[uid], handed.name, handed.document, kept)
            if handed.name == "stop":
                self._runs.pop(uid).close()
                self._orders.close(uid)

    def _give_up(self, handed: HandedOver, error: Exception) -> None:
        """Go on without a document; where it was an event, its run hears of the lost frame."""
        reason = f"{handed.name} not taken: {type(error).__name__}: {error}"
        logger.warning("%s", reason)
        if handed.name not in ("event", "event_page", "lost"):
            return
        lost = lost_event(handed.document, reason)
        try:
            uids = self._router.route("lost", lost)
        except KeyError:
            uids = []
        for uid in uids or list(self._runs):  # an event of nobody may be anybody's
            if uid in self._runs:
                self._append(self._runs[uid], "lost", lost)

    def _append(self, run: RunLog, name: str, document: dict[str, Any], in_memory: Sequence[Any] = ()) -> None:
        if run.kept is not None:
            try:
                run.kept.append(name, replace_arrays(document, lambda _: _NOT_KEPT, least_bytes=LARGE))
            except OSError as error:
                logger.warning("run %s cannot be taken up again after a kill (%s)", run.uid[:8], error.strerror)
                run.kept.close()
                run.kept = None
        self.supervisor.append(run, name, document, list(in_memory))

    def _begin(self, start: dict[str, Any]) -> RunLog:
        folder = make_folder(scratch_root(self.profile), str(start["uid"]))
        limits = self.profile.limits
        journal = Journal(
            folder / FRAMES,
            disk_bytes=int(limits.scratch_gb * 1e9),
            memory_bytes=limits.queue_mb * 1_000_000,
        )
        run = RunLog(str(start["uid"]), start, folder, journal, hold=Hold(folder))
        try:
            self._orders.open(run.uid, folder)
            run.kept = begin_log(folder, self.target, self.profile) if self.target else None
        except OSError as error:
            logger.warning("run %s: no orders from the command line, and no second life: %s", run.uid[:8], error)
        self.supervisor.add(run)
        return run

    def _check_room(self, uids: list[str], descriptor: dict[str, Any]) -> None:
        """Say before the first frame where the disk is too small for the scan."""
        rules = self.profile
        if not uids or descriptor.get("name") != rules.documents.primary:
            return
        run = self._runs[uids[0]]
        try:
            visits = len(read_scan(run.start, EnergyReader(rules.documents)).planned_energies_eV)
            shapes = [tuple(facts.get("shape") or ()) for facts in descriptor["data_keys"].values()]
            shape = max((shape for shape in shapes if len(shape) >= 2), key=lambda shape: shape[-2] * shape[-1])
            problem = room_problem(run.folder, shape, visits, limit_gb=rules.limits.scratch_gb)
        except Exception as error:  # a document that says too little; the descriptor itself goes on
            logger.debug("room for run %s is not known: %s", run.uid[:8], error)
            return
        if problem:
            logger.warning("run %s: %s", run.uid[:8], problem)

    def _warm(self, descriptor: dict[str, Any]) -> None:
        """Prepare buffers for the images that this descriptor announces."""
        for facts in descriptor["data_keys"].values():
            if facts.get("external") or len(facts.get("shape") or ()) < 2 or not facts.get("dtype_numpy"):
                continue
            nbytes = int(np.prod(facts["shape"])) * np.dtype(facts["dtype_numpy"]).itemsize
            if LARGE <= nbytes <= self.profile.limits.queue_mb * 125_000:
                self.pool.reserve(nbytes, 4)
