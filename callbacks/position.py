"""One sample position of a run: its pipeline, its advice, its place among the results."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from txm_stream.callbacks.orders import Order
from txm_stream.callbacks.outlet import Outlet
from txm_stream.callbacks.steering import RunSteering
from txm_stream.energies import Advice
from txm_stream.frames import Frame, Scan
from txm_stream.pipeline import Pipeline
from txm_stream.profile import Profile
from txm_stream.results import Result, Snapshot, VisitMetrics, VisitUpdate

logger = logging.getLogger("txm_stream")

_FORECAST_EVERY = 5
"""Where nobody follows the advice, the final map's error is forecast after so many visits."""
_UPDATES_AT_ONCE = 4


class Position:
    """One sample position of the run: its pipeline, its results tree, the rows of its metrics table."""

    def __init__(self, profile: Profile, scan: Scan, scratch: Path, outlet: Outlet | None) -> None:
        self.pipeline = Pipeline(profile, scan=scan, scratch=scratch)
        self.steering = RunSteering(profile, scan, self.pipeline.references)
        self.outlet = outlet
        self.rows: dict[int, VisitMetrics] = {}
        self.result: Result | None = None
        self.skipped = 0
        self.updates: list[VisitUpdate] = []
        self._times: dict[int, float] = {}
        self._since: dict[int, float] = {}
        self._latencies: dict[int, float] = {}
        self._versions = (0, 0)
        self._skipped_then: dict[int, int] = {}
        self._snapshot: Snapshot | None = None
        self.behind = False
        """Whether the last visit was published without a preview."""

    def ingest(self, frame: Frame, *, since: float) -> None:
        """Take a frame in; ``since`` is the moment from which its latency counts."""
        fresh = self.pipeline.ingest(frame)
        self.updates.extend(fresh)
        self.steering.visits(fresh)
        for update in self.updates:
            if update.first and update.index not in self.rows:
                self._times[update.index], self._since[update.index] = frame.time, since
                self.rows[update.index] = VisitMetrics(update.index + 1, update.energy_eV, time=frame.time)

    def advice(self, frame: Frame) -> Advice | None:
        """Return which energy is to follow a sample frame that was taken in."""
        index = self.pipeline.n_visits - 1
        return self.steering.after(index, frame.seq, frame.energy_eV or float("nan"), frame.time)

    def obey(self, order: Order) -> Advice | None:
        """Obey the operator; return advice, where it changed.

        Raises
        ------
        BadOrderError
            It cannot be obeyed.
        """
        if order.action in ("reject", "accept"):
            why = f"by the operator: {order.reason}" if order.reason else "by the operator"
            changed = self.pipeline.mark((order.visit or 0) - 1, why if order.action == "reject" else "")
            self.updates.extend(changed)
            self.steering.visits(changed)
            self.behind = self.behind or bool(changed)
            return None
        if order.action == "region" and order.region is not None:
            self.pipeline.refit(order.region)
            return None
        return self.steering.order(order)

    @property
    def pressing(self) -> bool:
        """Whether a visit waits to be shown, or enough better ones."""
        return any(update.first for update in self.updates) or len(self.updates) >= _UPDATES_AT_ONCE

    def settle(self) -> None:
        """Do what the last preview put off; an early frame that is now placed better goes out by itself."""
        forecast = self.steering.followed or len(self.rows) % _FORECAST_EVERY == 0
        better = self.pipeline.settle(forecast=forecast)
        shown, self._snapshot = self._snapshot, None
        if shown is not None:
            error = self.pipeline.final_rmse if forecast else float("nan")
            self.steering.learn(error, shown, self.pipeline.endmembers(shown))
        if better and self.outlet is not None:
            self.outlet.frames(better)

    def publish(self, *, preview: bool) -> None:
        """Hand what is new to the outlet, with a preview or without."""
        updates, self.updates = self.updates, []
        fresh = [update.index for update in updates if update.index not in self._latencies]
        if self.outlet is not None:  # on their way while the preview is made
            self.outlet.frames(updates)
        snapshot = None
        if preview:
            try:
                snapshot = self._snapshot = self.pipeline.snapshot()
            except Exception as error:
                logger.warning("no preview after visit %d: %s: %s", len(self.rows), type(error).__name__, error)
        self.behind = bool(fresh) and snapshot is None
        self.skipped += len(fresh) if snapshot is None else max(len(fresh) - 1, 0)
        for index in fresh:
            self._latencies[index] = max(time.time() - self._since[index], 0.0)
        for row in snapshot.rows if snapshot is not None else ():
            self.rows[row.seq - 1] = row
            self._versions = (row.basis_version, row.map_version)
        for index in self.rows:
            advised = self.steering.rows.get(index + 1)
            changes: dict[str, Any] = {
                "next_energy_eV": float("nan") if advised is None else advised.next_energy_eV,
                "latency_s": self._latencies.get(index, float("nan")),
                "time": self._times.get(index, self.rows[index].time),
            }
            if index in fresh:
                changes["previews_skipped"] = self.skipped
                if snapshot is None:
                    changes["basis_version"], changes["map_version"] = self._versions
            elif snapshot is not None:
                changes["previews_skipped"] = self._skipped_then.get(index, 0)
            self.rows[index] = replace(self.rows[index], **changes)
        self._skipped_then = {index: row.previews_skipped for index, row in self.rows.items()}
        if self.outlet is not None:
            table = [self.rows[index] for index in sorted(self.rows)]
            since = [self._since[index] for index in fresh]
            self.outlet.visit(snapshot, table, since=since, advice=self.steering.table())
