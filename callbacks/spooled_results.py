"""Results that could not be delivered when their run ended, as a run that only has to end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from txm_stream.callbacks.publisher import PublishReport, deliver_spool
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.tiled_target import Target
from txm_stream.errors import StorageFullError

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
