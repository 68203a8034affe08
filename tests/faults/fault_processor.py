"""A run processor that misbehaves when the start document says so; everything else is the real one."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from txm_stream.callbacks.processor import RunProcessor
from txm_stream.frames import Frame


class Troubled(RunProcessor):
    """``start["trouble"]`` happens to the first attempt at frame ``start["trouble_at"]``, 0: in the final pass."""

    _trouble, _at, _taken = "", 0, 0

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        if name == "start":
            self._trouble, self._at = document.get("trouble", ""), document.get("trouble_at", 0)
            self.assembler.last_patience_s = document.get("last_patience_s", 30.0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        super().__call__(name, document)

    def _ingest(self, frame: Frame) -> None:
        self._taken += 1
        if self._taken == self._at:
            self._misbehave("ingest")
        super()._ingest(frame)

    def _finish(self, reason: str) -> tuple[str, str]:
        if self._at == 0:
            self._misbehave("finish")
        return super()._finish(reason)

    def _misbehave(self, step: str) -> None:
        if self.attempt > 0:
            return
        if self._trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._trouble == "hung":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._trouble == "raises":
            raise RuntimeError("boom")
        elif self._trouble == "memory":
            self._break(step)
        elif self._trouble == "no more memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        elif self._trouble == "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    def _break(self, step: str) -> None:
        """Let the pipeline run out of memory once."""

        def out_of_memory(*_: Any) -> Any:
            raise MemoryError("cannot allocate")

        setattr(self._positions[0].pipeline, step, out_of_memory)
