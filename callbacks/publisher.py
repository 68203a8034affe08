"""The single writer of a run's results: batches in, Tiled out, on its own thread; nothing lost, nothing doubled."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from txm_stream.callbacks.batch import Batch
from txm_stream.callbacks.courier import Courier
from txm_stream.callbacks.spool import Spool, read_or_leave
from txm_stream.callbacks.tiled_target import Target

_DISK_PAUSE_S = 10.0


@dataclass(frozen=True)
class PublishReport:
    """What became of the batches.

    ``delivered`` counts published batches (or spool files) that are in Tiled, ``spooled`` the files left in the spool,
    ``dropped`` previews given up because memory and disk were full, and damaged spool files.
    """

    delivered: int = 0
    spooled: int = 0
    dropped: int = 0
    errors: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything is in Tiled."""
        return not self.spooled and not self.dropped and not self.errors

    def __add__(self, other: PublishReport) -> PublishReport:
        """Of several spools."""
        return PublishReport(
            self.delivered + other.delivered,
            self.spooled + other.spooled,
            self.dropped + other.dropped,
            self.errors + other.errors,
        )


class Publisher:
    """Delivers batches in order from a thread of its own; survives an absent, restarted or failing server.

    Parameters
    ----------
    target
        Container below which the batches' paths lie.
    spool_dir
        Folder of this publisher alone; used when memory is short, and for what is undelivered at the end. What an
        earlier publisher left there is delivered first.
    memory_mb
        Undelivered arrays beyond this wait on disk.
    patience_s
        After :meth:`close`: how long an absent server is waited for.

    Notes
    -----
    While one batch is being written, later live batches of the same container are merged: frames are all kept, images
    and tables are replaced by the newest, so that a reader always finds images and table of one version. Memory is at
    most ``memory_mb`` plus one batch, unless the disk is full too: then previews are dropped first (counted in
    ``previews_dropped``), and frames and final results stay in memory.
    """

    def __init__(self, target: Target, *, spool_dir: Path, memory_mb: float = 256, patience_s: float = 60.0) -> None:
        self.previews_dropped = 0
        self.delivered = 0
        self._spool = Spool(Path(spool_dir))
        self._courier = Courier(target, patience_s)
        self._memory = int(memory_mb * 2**20)
        self._leftovers = self._spool.files()
        self._first_order = self._spool.next_order()
        self._order = self._first_order + 1
        self._pending: list[Batch] = []
        self._storing: Batch | None = None
        self._current: Batch | None = None
        self._changed = threading.Condition()
        self._closing: float | None = None
        self._ended = False
        self._patience_s = patience_s
        self._disk_full_until = 0.0
        self._report: PublishReport | None = None
        self._deliverer = threading.Thread(target=self._deliver, name="txm-publisher", daemon=True)
        self._storekeeper = threading.Thread(target=self._keep_store, name="txm-publisher-spool", daemon=True)
        self._deliverer.start()
        self._storekeeper.start()

    @property
    def errors(self) -> tuple[str, ...]:
        """What went wrong so far, each kind once."""
        return tuple(self._courier.errors)

    def publish(self, batch: Batch) -> None:
        """Take a batch over. Never blocks and never raises; after :meth:`close` the batch is refused with an error."""
        with self._changed:
            if self._closing is not None:
                self._courier.note("/".join(batch.path), "published after close and lost")
                return
            if batch.live:
                for earlier in reversed(self._pending):
                    if not earlier.live:
                        break
                    if earlier.path == batch.path:
                        earlier.merge(batch)
                        self._changed.notify_all()
                        return
            batch.order = (self._order, 1)
            self._order += 1
            self._pending.append(batch)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything published so far is delivered; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and self._current is None, timeout_s)

    def close(self, timeout: float | None = None) -> PublishReport:
        """Deliver everything; leave in the spool what an absent server does not take; return what became of it.

        ``timeout`` is the patience with an absent server in s (default: ``patience_s``, counted from here or from the
        last success). A server that answers is given all the time it needs.
        """
        with self._changed:
            if self._closing is None:
                self._closing = time.monotonic()
                self._patience_s = self._courier.patience_s if timeout is None else timeout
                self._changed.notify_all()
        self._deliverer.join()
        self._storekeeper.join()
        if self._report is None:
            self._report = self._leave_rest()
        return self._report

    def _deliver(self) -> None:
        leftovers = [batch for file in self._leftovers if (batch := read_or_leave(file)) is not None]
        with self._changed:
            self._pending[:0] = leftovers
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready() or (self._closing is not None and not self._pending))
                if not self._pending:
                    break
                batch = self._current = self._pending.pop(0)
            delivered = self._courier.carry(batch, self._pause)
            with self._changed:
                self._current = None
                if not delivered:
                    self._pending.insert(0, batch)
                    break
                self.delivered += batch.count
                self._changed.notify_all()
            self._discard(batch)
        self._courier.writer.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _ready(self) -> bool:
        return bool(self._pending) and self._pending[0] is not self._storing

    def _pause(self, delay_s: float, absent_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing is not None, delay_s)
            if self._closing is None:
                return True
            waited = min(absent_s, time.monotonic() - self._closing)
            if waited >= self._patience_s:
                return False
        time.sleep(min(delay_s, max(self._patience_s - waited, 0.01)))
        return True

    def _discard(self, batch: Batch) -> None:
        try:
            self._spool.discard(batch)
        except OSError as error:
            self._courier.note("a delivered spool file cannot be deleted", error)

    def _keep_store(self) -> None:
        """Move undelivered arrays to disk, oldest first, whenever they exceed the memory allowed."""
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._place_to_store() is not None, 1.0)
                batch = self._storing = self._next_to_store()
            if batch is None:
                continue
            try:
                stored = self._spool.store(batch)
            except Exception as error:
                self._no_room(batch, error)
            else:
                with self._changed:
                    batch.appends, batch.overwrites, batch.file = stored.appends, stored.overwrites, stored.file
                    self._storing = None
                    self._changed.notify_all()

    def _place_to_store(self) -> int | None:
        if time.monotonic() < self._disk_full_until or sum(batch.nbytes for batch in self._pending) <= self._memory:
            return None
        storable = (place for place, batch in enumerate(self._pending) if batch.appends or not batch.live)
        return next((place for place in storable if self._pending[place].nbytes), None)

    def _next_to_store(self) -> Batch | None:
        place = self._place_to_store()
        if place is None:
            return None
        batch = self._pending[place]
        if batch.live:  # only its frames: images and tables may still be merged
            frames = batch.split_frames()
            batch.order = (batch.order[0], batch.order[1] + 1)
            self._pending.insert(place, frames)
            return frames
        return batch

    def _no_room(self, batch: Batch, error: Exception) -> None:
        self._courier.note("the spool cannot be written", error)
        with self._changed:
            self._disk_full_until = time.monotonic() + _DISK_PAUSE_S
            self._storing = None
            for waiting in self._pending:
                if waiting.live:
                    self.previews_dropped += len(waiting.overwrites)
                    waiting.overwrites = {}
            self._changed.notify_all()

    def _leave_rest(self) -> PublishReport:
        """Write what is undelivered to the spool: what was set aside, then the rest in order."""
        early = [*self._courier.aside, *self._courier.writer.frames_waiting()]
        for number, batch in enumerate(early):
            batch.order = (self._first_order, number)
        spooled = 0
        for batch in (*early, *self._pending):
            try:
                if batch.file is None:
                    self._spool.store(batch)
                spooled += 1
            except Exception as error:
                self._courier.note("/".join(batch.path), f"lost, the spool cannot be written: {error}")
        self._spool.release()
        return PublishReport(self.delivered, spooled, self.previews_dropped, self.errors)
