"""The package's logger, made so that a log handler of the site that raises ends neither a scan nor a thread."""

from __future__ import annotations

import contextlib
import logging


class GuardedLogger(logging.Logger):
    """A logger that goes on where one of its handlers raises."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Pass a record to all handlers."""
        with contextlib.suppress(Exception):
            super().callHandlers(record)


def guard_logger() -> None:
    """Let no handler of the package's log lines, or of the root logger, raise into the package."""
    logger = logging.getLogger("txm_stream")
    if type(logger) is logging.Logger:
        logger.__class__ = GuardedLogger
