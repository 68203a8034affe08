"""Run processors for tests of the hand-over: they digest frames instead of processing them, and misbehave on demand."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.report import RunReport


class Recorder:
    """Puts a digest of all frames into the report's reason; ``start["trouble"]`` says what goes wrong, and when."""

    def __init__(self, profile: Any, target: Any, scratch: Path, *, attempt: int = 0, **_: Any) -> None:
        self.assembler = FrameAssembler(profile)
        self.attempt = attempt
        self.report: RunReport | None = None
        self.frames = 0
        self.digest = hashlib.sha256()

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        for frame in self.assembler(name, document):
            self.frames += 1
            self.digest.update(f"{frame.role} {frame.seq} {frame.energy_eV}".encode() + frame.image.tobytes())
            self.misbehave()
        if name == "stop":
            self.end()

    def misbehave(self) -> None:
        trouble = self.assembler.scan.start.get("trouble", "") if self.assembler.scan is not None else ""
        if trouble == "slow":
            time.sleep(0.05)
        if self.frames != 5 or (self.attempt > 0 and not trouble.endswith("always")):
            return
        if trouble.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif trouble.startswith("raise"):
            raise RuntimeError("boom")
        elif trouble.startswith("hang"):
            time.sleep(1000)

    def idle(self) -> None:
        pass

    def end(self, reason: str = "") -> RunReport:
        scan = self.assembler.scan
        uid = scan.uid if scan is not None else ""
        lost = tuple(str(frame) for frame in self.assembler.lost)
        self.report = RunReport(
            run_uid=uid,
            status="failed" if lost else "final",
            reason=reason or self.digest.hexdigest(),
            frames_seen=self.frames,
            frames_lost=lost,
            restarts=self.attempt,
        )
        return self.report
