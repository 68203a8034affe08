"""Carries one batch at a time to Tiled, and judges what went wrong: wait, set aside, or give up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from txm_stream.callbacks.batch import Batch
from txm_stream.callbacks.tiled_target import Target
from txm_stream.callbacks.tree_writer import TreeWriter, status_code

logger = logging.getLogger("txm_stream")

_Verdict = Literal["absent", "refused", "failing", "rejected"]
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 5.0
_FAILING_S = 30.0
_REFUSED = "the server refuses the key"


class Courier:
    """Carries one batch at a time to the target, with patience."""

    def __init__(self, target: Target, patience_s: float) -> None:
        self.writer = TreeWriter(target)
        self.patience_s = patience_s
        self.errors: list[str] = []
        self.aside: list[Batch] = []
        self._key = getattr(target, "api_key", None)
        self._seen: set[str] = set()

    def carry(self, batch: Batch, pause: Callable[[float, float], bool]) -> bool:
        """Write a batch; what is written leaves it. Return False if it was given up and the rest is still in it.

        ``pause(delay_s, absent_s)`` waits before the next try and says whether there is to be one.
        """
        return all(self._carry_part(kind, part, pause) for kind, part in batch.parts())

    def note(self, what: str, error: BaseException | str) -> None:
        """Record an error once, and log it, without the key."""
        text = f"{what}: {error if isinstance(error, str) else f'{type(error).__name__}: {error}'}".splitlines()[0]
        if self._key:
            text = text.replace(self._key, "***")
        kind = what + type(error).__name__
        if kind not in self._seen:
            self._seen.add(kind)
            self.errors.append(text)
            logger.error("publishing %s", text)

    def _carry_part(self, kind: str, part: Batch, pause: Callable[[float, float], bool]) -> bool:
        stacks = dict.fromkeys(name for name, _ in part.appends)
        what = "/".join((*part.path, ", ".join([*part.overwrites, *part.tables, *stacks])))
        delay, began, failing = _FIRST_DELAY_S, time.monotonic(), 0.0
        while True:
            tried = time.monotonic()
            try:
                self.writer.write(kind, part)
            except Exception as error:
                verdict = _judge(error)
                if verdict in ("rejected", "failing") and len(part.overwrites) > 1:  # one of them; which?
                    return all(self._carry_part(kind, single, pause) for single in part.singles())
                if verdict == "rejected":
                    self.note(what, error)
                    return True
                if verdict == "failing":
                    failing += delay + time.monotonic() - tried
                    if failing > min(_FAILING_S, self.patience_s):
                        self.note(what, error)
                        self.aside.append(part)
                        return True
                if verdict == "refused":
                    self.note(_REFUSED, error)
                    delay = _LONGEST_DELAY_S
                logger.debug("publishing %s: %s, trying again", what, type(error).__name__)
                if not pause(delay, time.monotonic() - began):
                    return False
                delay = min(2 * delay, _LONGEST_DELAY_S)
            else:
                self._accepted()
                return True

    def _accepted(self) -> None:
        """Forget that the key was refused: it is not any more, and nothing was lost by it."""
        if any(text.startswith(_REFUSED) for text in self.errors):
            self.errors = [text for text in self.errors if not text.startswith(_REFUSED)]
            self._seen = {kind for kind in self._seen if not kind.startswith(_REFUSED)}
            logger.info("the server takes the key again")


def _judge(error: Exception) -> _Verdict:
    import httpx

    code = status_code(error)
    if code is None:
        if isinstance(error, (httpx.TransportError, OSError)):
            return "absent"
        return "rejected" if isinstance(error, (ValueError, TypeError)) else "failing"
    if code in (408, 429, 502, 503, 504):
        return "absent"
    if code in (401, 403):
        return "refused"
    return "failing" if code >= 500 or code == 413 else "rejected"  # 413: a limit in front of Tiled, it can be raised
