"""One run on a worker: documents → frames → pipeline → results tree.

Every frame enters the pipeline at once; previews are made when no further frame waits, and now and then
while frames keep coming. Whatever goes wrong ends in the run's report, not in an exception.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.lost import LostFrame
from txm_stream.callbacks.orders import DOCUMENT as ORDER
from txm_stream.callbacks.orders import read_order
from txm_stream.callbacks.outlet import open_outlet
from txm_stream.callbacks.pixels import PathMap, PixelReader
from txm_stream.callbacks.position import Position
from txm_stream.callbacks.report import RunReport
from txm_stream.energies import Advice
from txm_stream.errors import BadOrderError, TxmStreamError
from txm_stream.frames import Frame
from txm_stream.memory import is_out_of_memory
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_PREVIEW_LEAST_S = 0.5
_QUIET_S = 2.0
_QUIET_GAPS = 2.0
"""A better flat alone brings a new preview only when no frame has come for so long, and for so many usual gaps."""
_SETTLE_S = 5.0
"""Frames that come without a pause do not put off the map's judgement for longer."""
_AFRESH = 2
"""So many workers in turn begin a run again when there is no memory."""


class RunProcessor:
    """Process the documents of one run.

    Parameters
    ----------
    profile, target
        Where the data are; where results go (``None``: nowhere, ``report.result`` keeps them).
    scratch
        The run's folder for working files and undelivered results.
    attempt
        How often this run was begun before by a worker that died.
    path_map
        Prefixes ``(from, to)`` for external files mounted elsewhere here.
    live
        Whether events are happening now, so that latencies count from their time; in a replay from their reading.
    """

    def __init__(
        self,
        profile: Profile,
        target: Any,
        scratch: Path,
        *,
        attempt: int = 0,
        path_map: PathMap = (),
        live: bool = True,
    ) -> None:
        self.profile = profile
        self.target = target
        self.scratch = scratch
        self.attempt = attempt
        self.live = live
        self.report: RunReport | None = None
        self.on_advice: Callable[[Advice], object] = lambda advice: None
        self.assembler = FrameAssembler(profile, reader=PixelReader(path_map=path_map))
        self.rejected: list[LostFrame] = []
        self.orders: list[dict[str, Any]] = []
        self._positions: list[Position] = []
        self._broken = ""
        self._preview_at = self._frame_at = self._gap = self._settled_at = 0.0

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take the run's next document; after the stop document ``report`` is there."""
        if self.report is not None:
            return
        if name == ORDER:
            self._obey(document)
            return
        frames = self.assembler(name, document)
        if name == "part":
            logger.info("%s: energy %d of the scan is run %s", self._uid, len(self.assembler.runs), document["uid"])
        if name == "start":
            self._start()
        for frame in frames:
            self._ingest(frame)
        if name == "stop":
            self.end()

    def idle(self) -> bool:
        """Nothing is waiting: take frames that came late, and bring the previews up to date; return whether it did."""
        for frame in self.assembler.frames():
            self._ingest(frame)
        quiet = time.monotonic() - self._frame_at > max(_QUIET_S, _QUIET_GAPS * self._gap)
        if any(position.pressing or position.behind or (quiet and position.updates) for position in self._positions):
            self._publish(preview=True)
            return True
        self._settle()
        return False

    def _settle(self) -> None:
        """Do what the previews put off, and advise again with what that showed."""
        self._settled_at = time.monotonic()
        for position in self._positions:
            if position.outlet is None or position.outlet.idle:  # what was shown last goes out first
                position.settle()
        if self._positions:
            self._advise(self._positions[0].steering.news())

    def end(self, reason: str = "") -> RunReport:
        """Make and publish the final result of what is there.

        Parameters
        ----------
        reason
            Why the run ended, where it has no stop document.
        """
        if self.report is not None:
            return self.report
        stop = self.assembler.stop or {}
        if not self._broken:
            for position in self._positions:
                position.behind = position.behind or bool(position.rows)  # what was advised last is said, too
            self._publish(preview=False)
        visits = sum(len(position.rows) for position in self._positions)
        how = {"abort": "aborted", "fail": "failed"}.get(stop.get("exit_status", ""), "")
        if not reason and how:
            reason = f"run {how} after {visits} energies" + (f": {stop['reason']}" if stop.get("reason") else "")
        if reason:
            logger.warning("%s: %s", self._uid, reason)
        status, problem = self._finish(reason)
        self.report = self._close(status, problem or reason)
        return self.report

    # -- steps

    def _obey(self, document: Mapping[str, Any]) -> None:
        """Obey the operator, or say why not; either way it is in the metadata."""
        try:
            order = read_order(document)
        except BadOrderError as error:
            logger.warning("%s: %s", self._uid, error)
            return
        try:
            if order.position >= len(self._positions):
                raise BadOrderError(f"position {order.position} is not there: {len(self._positions)} so far")
            self._advise(self._positions[order.position].obey(order))
            logger.info("%s: the operator's %s", self._uid, order)
        except Exception as error:
            order = order.model_copy(update={"refused": str(error)})
            logger.warning("%s: the operator's %s is refused: %s", self._uid, order.action, error)
        self.orders.append(order.model_dump(mode="json", exclude_none=True))
        for position in self._positions:
            if position.outlet is not None:
                position.outlet.orders(self.orders)

    @property
    def _uid(self) -> str:
        return self.assembler.scan.uid if self.assembler.scan is not None else ""

    def _start(self) -> None:
        scan = self.assembler.scan
        if scan is None:
            return
        count = scan.n_positions
        try:
            for index in range(count):
                folder = self.scratch / f"position-{index}-{self.attempt}"
                position = index if count > 1 else None
                outlet = open_outlet(
                    self.target, self.profile, scan, folder / "spool", position=position, replay=not self.live
                )
                self._positions.append(Position(self.profile, scan, folder / "work", outlet))
            self._advise(self._positions[0].steering.begin())
        except Exception as error:
            self._broken = f"{type(error).__name__}: {error}"
            logger.exception("run %s cannot be processed", scan.uid)

    def _advise(self, advice: Advice | None) -> None:
        if advice is not None:
            self.on_advice(advice)

    def _ingest(self, frame: Frame) -> None:
        if self._broken:
            return
        if any(position.pressing for position in self._positions):
            self._publish(preview=time.monotonic() >= self._preview_at)
        now = time.monotonic()
        self._gap = max(now - self._frame_at, 0.7 * self._gap) if self._frame_at else 0.0
        self._frame_at = now
        for index, position in enumerate(self._positions):
            if frame.role == "sample" and frame.position != index:
                continue
            try:
                position.ingest(frame, since=frame.time if self.live else time.time())
                if index == 0 and frame.role == "sample":  # the plan may be waiting for it
                    self._advise(position.advice(frame))
            except TxmStreamError as error:
                self.rejected.append(LostFrame(frame.role, frame.seq, str(error)))
                logger.warning("frame rejected: %s", self.rejected[-1])
            except Exception as error:
                self._start_afresh(error)
                self.assembler.lost.append(LostFrame(frame.role, frame.seq, f"{type(error).__name__}: {error}"))
                logger.exception("frame lost: %s %d", frame.role, frame.seq)

    def _start_afresh(self, error: Exception) -> None:
        """Let the worker end where memory is short: the next one may have room; the last one makes do."""
        if is_out_of_memory(error) and self.attempt < _AFRESH:
            raise error

    def _publish(self, *, preview: bool) -> None:
        began = time.monotonic()
        for position in self._positions:
            if position.updates or position.behind:
                position.publish(preview=preview)
                newest = position.rows[max(position.rows)]
                text = "visit %d at %.2f eV, %.2f s after its event, %d previews skipped"
                logger.info(text, newest.seq, newest.energy_eV, newest.latency_s, newest.previews_skipped)
        if preview and time.monotonic() - self._settled_at > _SETTLE_S:  # frames come without a pause
            self._settle()
        if preview:
            self._preview_at = time.monotonic() + max(_PREVIEW_LEAST_S, 3 * (time.monotonic() - began))

    def _finish(self, reason: str) -> tuple[str, str]:
        """Finish every position; return status and, where failed, the reason."""
        problem, lost = self._broken, self._lost_text()
        lost = f"missing frames: {lost}" if lost else ""
        if not problem and not any(position.rows for position in self._positions):
            problem = (
                f"no frame could be used: {self._lost_text() or reason or 'the run has no sample frame with a flat'}"
            )
        broken = problem
        for position in self._positions:
            if position.outlet is not None and position.rows and not broken:
                position.outlet.note("all energies are measured; the final result is being computed")
        for position in self._positions:
            failure = broken
            if not broken:
                try:
                    result = position.pipeline.finish()
                    warnings = result.warnings + ((reason,) if reason else ())
                    warnings += tuple(f"frame rejected: {frame}" for frame in self.rejected)
                    position.result = replace(result, warnings=warnings)
                except Exception as error:
                    self._start_afresh(error)
                    failure = f"{type(error).__name__}: {error}"
                    logger.exception("run %s has no final result", self._uid)
            problem = problem or failure
            if position.outlet is not None:
                if len(self.assembler.runs) > 1:
                    position.outlet.runs(self.assembler.runs)
                if position.result is not None:
                    status = "failed" if lost else "final"
                    position.outlet.finish(position.result, status=status, reason=lost or reason)
                else:
                    position.outlet.fail(failure)
        problem = problem or lost
        return ("failed" if problem else "final"), problem

    def _lost_text(self) -> str:
        return ", ".join(str(frame) for frame in self.assembler.lost)

    def _close(self, status: str, reason: str) -> RunReport:
        outlets = [position.outlet for position in self._positions if position.outlet is not None]
        publish = [outlet.close(self.profile.limits.server_patience_s) for outlet in outlets]
        rows = [row for position in self._positions for row in position.rows.values()]
        latencies = [row.latency_s for row in rows if np.isfinite(row.latency_s)]
        committed = [latency for outlet in outlets for latency in outlet.latencies_s]
        for position in self._positions:
            try:
                position.pipeline.close()
            except Exception as error:
                logger.warning("working files stay behind: %s", error)
        self.assembler.close()
        scan = self.assembler.scan
        return RunReport(
            run_uid=self._uid,
            scan_id=scan.scan_id if scan is not None else None,
            status="failed" if status == "failed" else "final",
            reason=reason,
            visits=len(rows),
            frames_seen=self.assembler.seen,
            frames_lost=tuple(str(frame) for frame in self.assembler.lost),
            frames_rejected=tuple(str(frame) for frame in self.rejected),
            previews_skipped=sum(position.skipped for position in self._positions),
            latency_s_median=float(np.median(committed or latencies)) if latencies else float("nan"),
            restarts=self.attempt,
            results_path=outlets[0].path if outlets else None,
            publish=publish[0] if publish else None,
            undelivered=any(outlet.undelivered for outlet in outlets),
            result=self._positions[0].result if self._positions else None,
        )
