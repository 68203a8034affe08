"""EnergyAdvisor: what a plan, or bluesky-adaptive, asks for the next energy; a running XanesStream advises.

Whatever happens to the worker, there is an answer within the deadline: advice on all visits, else advice that is one or
two visits old, else the next energy of the planned list.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from txm_stream.callbacks.stream import XanesStream
from txm_stream.energies.rules import NEAR_EV, SAME_EV, allowed_windows, is_allowed
from txm_stream.errors import BadProfileError
from txm_stream.profile import Steering

logger = logging.getLogger("txm_stream")

Source = Literal["advice", "older advice", "planned"]
_FIRST_S = 10.0
"""The first advice may take longer: nothing is measured yet, and the worker may still be starting."""
_OLD = 2
"""Advice that does not know the last two visits still says what would come after them."""


@dataclass(frozen=True)
class Choice:
    """The next energy in eV, ``None`` to stop; where it comes from, and why."""

    energy_eV: float | None
    source: Source
    reason: str
    predicted_rmse: float = float("nan")


class EnergyAdvisor:
    """Asks a stream for the next energy, and has an answer in time whatever happens to it.

    Parameters
    ----------
    stream
        Subscribed to the RunEngine that makes the scan.
    planned_eV
        The beamline's own list in eV, in order: taken when there is no advice.
    steering
        Rules; default: those of the stream's profile.
    judgement_s
        Also wait for the judgement of the map with the last visit, up to so long: where visits take no real time,
        and scans should end at the first visit that is good enough.
    name
        Of the energy axis, as bluesky-adaptive's actuator.

    Notes
    -----
    It is an optimizer of bluesky-adaptive 1.0 (``suggest``, ``ingest``, ``get_best_points``, ``should_stop``), to be
    used with :meth:`evaluate` in ``optimize_in_run``; the visits are then counted by ``ingest``.
    """

    def __init__(
        self,
        stream: XanesStream,
        planned_eV: Sequence[float] = (),
        *,
        steering: Steering | None = None,
        judgement_s: float = 0.0,
        name: str = "energy",
    ) -> None:
        self.stream = stream
        self.planned_eV = [float(energy) for energy in planned_eV]
        self.steering = steering or stream.profile.steering
        self.judgement_s = judgement_s
        self.name = name
        self.points: list[dict[str, Any]] = []
        self._last: Choice | None = None
        try:
            self._windows: Sequence[tuple[float, float]] = allowed_windows(self.steering, planned_eV=planned_eV)
        except BadProfileError:
            self._windows = ()  # the references say it, on the worker

    def next(
        self,
        seq: int,
        *,
        visited_eV: Sequence[float],
        refused_eV: Sequence[float] = (),
        run_uid: str | None = None,
    ) -> Choice:
        """Return what comes after visit ``seq`` (0: the first); waits no longer than the deadline, never raises.

        Parameters
        ----------
        visited_eV
            The energies visited so far, in eV.
        refused_eV
            Energies that the axis refused.
        run_uid
            The run; default: the last one begun.
        """
        if seq >= self.steering.most_visits:
            return Choice(None, "advice", f"{seq} visits are all that are allowed")
        deadline_s = self.steering.deadline_s if seq else max(self.steering.deadline_s, _FIRST_S)
        late = f"no advice within {deadline_s:g} s"
        try:
            if self.judgement_s and seq:
                self.stream.advice(seq, run_uid=run_uid, timeout=self.judgement_s, judged=True)
            advice = self.stream.advice(seq, run_uid=run_uid, timeout=deadline_s)
        except Exception as error:
            advice, late = None, f"no advice: {type(error).__name__}: {error}"
        if advice is not None and advice.seq >= seq:
            if advice.stop:
                return Choice(None, "advice", advice.reason, advice.predicted_rmse)
            for energy, reason in [
                (advice.energy_eV, advice.reason),
                *((e, "second best") for e in advice.upcoming_eV),
            ]:
                if self._possible(energy, refused_eV):
                    return Choice(energy, "advice", reason, advice.predicted_rmse)
            late = f"the advice, {advice.energy_eV:.2f} eV, was refused or lies outside the allowed windows"
        elif advice is not None and not advice.stop and seq - advice.seq <= _OLD:
            ahead = advice.upcoming_eV[seq - advice.seq - 1 :]
            for energy in ahead:
                if self._possible(energy, refused_eV):
                    return Choice(energy, "older advice", f"{late}; that after visit {advice.seq} is taken")
        for energy in self.planned_eV:
            visited = any(abs(energy - other) < NEAR_EV for other in visited_eV)
            if not visited and self._possible(energy, refused_eV):
                return Choice(energy, "planned", f"{late}; the next planned energy is taken")
        return Choice(None, "planned", f"{late}, and every planned energy was visited")

    def _possible(self, energy_eV: float, refused_eV: Sequence[float]) -> bool:
        if any(abs(energy_eV - other) < SAME_EV for other in refused_eV):
            return False
        return is_allowed(energy_eV, self._windows) if self._windows else energy_eV > 0

    # -- the protocol of bluesky-adaptive 1.0

    def suggest(self, num_points: int | None = None) -> Sequence[Mapping[str, Any]]:
        """Return the next point, ``{"_id": visit, name: energy in eV}``; with more points the planned ones follow."""
        visited = [float(point[self.name]) for point in self.points]
        suggestions: list[Mapping[str, Any]] = []
        for _ in range(num_points or 1):
            seq = len(self.points)
            choice = self.next(seq, visited_eV=visited)
            if suggestions or choice.energy_eV is None:
                left = [e for e in self.planned_eV if all(abs(e - other) >= NEAR_EV for other in visited)]
                energy = left[0] if left else (visited or self.planned_eV)[-1]
            else:
                energy, self._last = choice.energy_eV, choice
            visited.append(energy)
            suggestions.append({"_id": seq + len(suggestions), self.name: energy})
        return suggestions

    def ingest(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Take outcomes of :meth:`evaluate`: each holds "_id", the energy and ``map_rmse``."""
        self.points.extend(dict(point) for point in points)

    def get_best_points(self) -> Sequence[tuple[Any, Mapping[str, Any], Mapping[str, Any]]]:
        """Return the visit with the best map: the last one with a prediction."""
        known = [point for point in self.points if point["map_rmse"] == point["map_rmse"]]
        return [
            (point["_id"], {self.name: point[self.name]}, {"map_rmse": point["map_rmse"]})
            for point in sorted(known, key=lambda point: float(point["map_rmse"]))[:1]
        ]

    def should_stop(self) -> tuple[bool, str | None]:
        """Return whether the scan is to end, and why."""
        visited = [float(point[self.name]) for point in self.points]
        choice = self.next(len(self.points), visited_eV=visited)
        return choice.energy_eV is None, choice.reason

    def evaluate(self, uid: Any, suggestions: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return the outcome of points that were measured: the final map's predicted error, NaN while unknown."""
        advice = self.stream.advice(len(self.points) + 1, timeout=self.judgement_s, judged=True)
        rmse = float("nan") if advice is None else advice.predicted_rmse
        return [{"_id": point["_id"], self.name: point[self.name], "map_rmse": rmse} for point in suggestions]
