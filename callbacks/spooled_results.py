"""Results that could not be delivered when their run ended, as a run that only has to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from txm_stream.callbacks.batch import Batch
from txm_stream.callbacks.courier import Courier
from txm_stream.callbacks.publisher import PublishReport
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.spool import Spool, read_or_leave
from txm_stream.callbacks.tiled_target import Target
from txm_stream.errors import StorageFullError, UnreachableError

logger = logging.getLogger("txm_stream")

_PATIENCE_S = 2.0


class SpooledResults:
    """Deliver what waits in a run's folder; see :class:`.RunProcessor` for the methods."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.report: RunReport | None = None

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document: there is none."""

    def idle(self) -> bool:
        """Nothing to do meanwhile."""
        return False

    def end(self, reason: str = "") -> RunReport:
        """Deliver; what a server does not take waits on."""
        publish = PublishReport()
        for folder in sorted({file.parent for file in self.folder.rglob("*.batch")}):
            try:
                publish += deliver_spool(self.target, folder, patience_s=_PATIENCE_S)
            except StorageFullError as error:
                logger.warning("%s", error)
        delivered = not any(self.folder.rglob("*.batch"))
        logger.info("results in %s: %s", self.folder, "delivered" if delivered else "they wait on")
        self.report = RunReport(self.folder.name, "final", publish=publish, undelivered=not delivered)
        return self.report


def deliver_spool(target: Target, spool_dir: Path, *, patience_s: float = 60.0) -> PublishReport:
    """Deliver what an earlier publisher left in its spool, in order and exactly once; delete what was delivered.

    A truncated or damaged file is left where it is, with a warning.

    Raises
    ------
    StorageFullError
        The spool is in use by a publisher.
    """

    def pause(delay_s: float, absent_s: float) -> bool:
        time.sleep(min(delay_s, max(patience_s - absent_s, 0.01)))
        return absent_s < patience_s

    spool = Spool(Path(spool_dir))
    courier = Courier(target, patience_s)
    delivered = dropped = set_aside = 0
    done: list[Batch] = []
    files = spool.files()
    try:
        for file in files:
            batch = read_or_leave(file)
            if batch is None:
                dropped += 1
                continue
            if not courier.carry(batch, pause):
                courier.note("the spool", UnreachableError("the server does not answer; deliver it again later"))
                break
            if len(courier.aside) > set_aside:
                set_aside = len(courier.aside)
                continue
            done.append(batch)
            if not courier.writer.frames_waiting():
                for finished in done:
                    spool.discard(finished)
                delivered += len(done)
                done.clear()
        if done:
            courier.note("the spool", "frames are missing before those of the last files, which are kept")
    finally:
        courier.writer.close()
        spool.release()
    return PublishReport(delivered, len(files) - delivered - dropped, dropped, tuple(courier.errors))
