"""Advice for one run on the worker: visits and forecasts go in, advice and its table come out; never raises."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from txm_stream.callbacks.orders import Order
from txm_stream.energies import Advice, Advisor
from txm_stream.energies.rules import NEAR_EV, is_allowed
from txm_stream.errors import BadOrderError, BadProfileError, TxmStreamError
from txm_stream.frames import Scan
from txm_stream.live import Endmembers
from txm_stream.profile import Profile, Steering
from txm_stream.results import Snapshot, VisitUpdate
from txm_stream.unmixing.references import References

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("txm_stream")

START_KEY = "steering"
"""Key of the rules in a start document."""


@dataclass(frozen=True)
class AdviceRow:
    """One row of the published table: what was advised after visit ``seq`` at ``energy_eV``, and why."""

    seq: int
    energy_eV: float
    next_energy_eV: float
    stop: bool
    predicted_rmse: float
    next_rmse: float
    visits_left: float
    seconds_left: float
    time: float
    reason: str


class RunSteering:
    """The advisor of a run, fed by its processor.

    Parameters
    ----------
    profile, scan
        Rules: those of the start document, else the profile's; planned energies say where energies may lie.
    references
        Known spectra, or ``None``.
    """

    def __init__(self, profile: Profile, scan: Scan, references: References | None) -> None:
        self.rows: dict[int, AdviceRow] = {}
        self.followed = START_KEY in scan.start
        """Whether a plan asks for the advice; else it only says what would have been advised."""
        self._frozen = False
        self._wanted: list[float] = []
        self._planned_eV = [float(energy) for energy in scan.planned_energies_eV]
        self._news = False
        self._seq = self._judged_seq = 0
        self._began = float(scan.start.get("time", 0.0))
        self._advisor: Advisor | None = None
        try:
            steering = steering_of(scan, profile)
            self._advisor = Advisor(steering, references, planned_eV=scan.planned_energies_eV)
        except TxmStreamError as error:
            logger.info("no advice for run %s: %s", scan.uid, error)

    def begin(self) -> Advice | None:
        """Return what comes first."""
        return self._advise(0, float("nan"), self._began)

    def visits(self, updates: Sequence[VisitUpdate]) -> None:
        """Take visits that are new or better known."""
        if self._advisor is not None:
            for update in updates:
                self._advisor.visit(update.index, update.energy_eV, update.sigma)

    def after(self, index: int, seq: int, energy_eV: float, time: float) -> Advice | None:
        """Return the advice after the event ``seq`` of the sample, which made visit ``index``."""
        if self._advisor is None:
            return None
        if self._wanted and abs(self._wanted[0] - energy_eV) < NEAR_EV:
            del self._wanted[0]
        if index not in self._advisor.visits:  # it waits for its first flat
            self._advisor.visit(index, energy_eV, 1.0)
        return self._advise(seq, energy_eV, time)

    def learn(self, final_rmse: float, shown: Snapshot, endmembers: Endmembers | None) -> None:
        """Take what the live view says: the final map's expected error from noise, a preview, the spectra found."""
        if self._advisor is None:
            return
        self._news = True
        self._judged_seq = self._seq
        self._advisor.measure(
            final_rmse,
            misfit_share=float(np.nan_to_num(shown.misfit_share)),
            common_error=float(np.nan_to_num(shown.common_error)),
            shift_information=shown.shift_information,
        )
        if endmembers is not None:
            self._advisor.images(endmembers.energies_eV, endmembers.change)
            if endmembers.references is not None:
                self._advisor.found(endmembers.references)

    def news(self) -> Advice | None:
        """Return the latest advice anew, if something was learned since; else ``None``."""
        if not self._news or not self.rows:
            return None
        row = self.rows[max(self.rows)]
        return self._advise(row.seq, row.energy_eV, row.time)

    def order(self, order: Order) -> Advice | None:
        """Obey an order about the advice; return the advice anew.

        Raises
        ------
        BadOrderError
            Energies outside the allowed windows, or no advice in this run.
        """
        if self._advisor is None:
            raise BadOrderError("nothing is advised in this run: it has neither references nor a planned list")
        if order.action == "measure":
            wanted = order.energies_eV or ()
            outside = [energy for energy in wanted if not is_allowed(energy, self._advisor.windows_eV)]
            if outside:
                raise BadOrderError(f"{outside} eV lie outside the allowed windows {self._advisor.windows_eV}")
            self._wanted = list(wanted)
        else:
            self._frozen, self._wanted = order.action == "freeze", []
        row = self.rows.get(self._seq)
        if row is None:
            return self._advise(self._seq, float("nan"), self._began)
        return self._advise(self._seq, row.energy_eV, row.time)

    def _by_hand(self, advice: Advice, visited_eV: Sequence[float]) -> Advice:
        """Return the operator's choice in place of the advisor's; the limits of the run hold all the same."""
        if self._wanted:
            chosen, reason = self._wanted, "the operator's choice"
        else:
            chosen = [e for e in self._planned_eV if all(abs(e - other) >= NEAR_EV for other in visited_eV)]
            reason = "the operator froze the advice: the planned list goes on"
        if not chosen:
            return replace(advice, stop=True, reason="the operator froze the advice, and the planned list is done")
        return replace(advice, energy_eV=chosen[0], stop=False, reason=reason, upcoming_eV=tuple(chosen[1:]))

    def table(self) -> pd.DataFrame | None:
        """Return the rows so far; ``None`` without any."""
        import pandas as pd

        if not self.rows:
            return None
        return pd.DataFrame([asdict(self.rows[seq]) for seq in sorted(self.rows)])

    def _advise(self, seq: int, energy_eV: float, time: float) -> Advice | None:
        if self._advisor is None:
            return None
        try:
            elapsed_s = max(time - self._began, 0.0)
            advice = self._advisor.advise(seq, elapsed_s=elapsed_s)
            if (self._wanted or self._frozen) and not self._advisor.spent(elapsed_s):
                advice = self._by_hand(advice, [energy for energy, _ in self._advisor.visits.values()])
            advice = replace(advice, judged_seq=self._judged_seq)
        except Exception:
            logger.exception("no advice after visit %d", seq)
            return None
        self._news, self._seq = False, seq
        if seq:
            self.rows[seq] = AdviceRow(
                seq=seq,
                energy_eV=energy_eV,
                next_energy_eV=advice.energy_eV,
                stop=advice.stop,
                predicted_rmse=advice.predicted_rmse,
                next_rmse=advice.next_rmse,
                visits_left=advice.visits_left,
                seconds_left=advice.seconds_left,
                time=time,
                reason=advice.reason,
            )
        return advice


def steering_of(scan: Scan, profile: Profile) -> Steering:
    """Return the rules of a run: its start document's, else the profile's.

    Raises
    ------
    BadProfileError
        The rules in the start document are not valid.
    """
    given = scan.start.get(START_KEY)
    if given is None:
        return profile.steering
    try:
        return Steering.model_validate(dict(given))
    except (TypeError, ValueError) as error:
        raise BadProfileError(f"the run's start document has no valid {START_KEY}: {error}") from error
