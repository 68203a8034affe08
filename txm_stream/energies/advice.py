"""What is advised after a visit, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NOTHING = float("nan")


@dataclass(frozen=True)
class Advice:
    """What to do after visit ``seq``.

    ``energy_eV`` of the next visit, NaN with ``stop``; ``reason`` for either. ``predicted_rmse``: of the final map,
    were the scan to end now; ``next_rmse``: after the next visit; NaN while unknown. ``visits_left``, ``seconds_left``
    to the target, NaN without one. ``upcoming_eV``: what would come after the next energy, were nothing else learned.
    ``judged_seq``: the last visit that the map's judgement, and with it ``predicted_rmse``, knows.
    """

    seq: int
    energy_eV: float
    reason: str
    stop: bool = False
    predicted_rmse: float = _NOTHING
    next_rmse: float = _NOTHING
    visits_left: float = _NOTHING
    seconds_left: float = _NOTHING
    upcoming_eV: tuple[float, ...] = ()
    judged_seq: int = 0


def stop_advice(seq: int, reason: str, predicted: float = _NOTHING) -> Advice:
    """Return the advice to end the scan after visit ``seq``, whose map is predicted to err by ``predicted``."""
    return Advice(seq, _NOTHING, reason, True, predicted, predicted, 0.0, 0.0)


def why_start(energy_eV: float, white_line_eV: float) -> str:
    """Return why an energy is among the first visits, of which the white line's comes first."""
    if energy_eV == white_line_eV:
        return "on the white line there is most contrast: the other visits are registered on it"
    where = "before" if energy_eV < white_line_eV else "after"
    return f"every scan has it: two energies before the edge and two after the white line ({where} it)"


def most_information(energy_eV: float, visits_there: int, predicted: float, after: float) -> str:
    """Return why an energy, visited ``visits_there`` times so far, comes next: the error before and after it."""
    what = f"visit {visits_there + 1} of {energy_eV:.2f} eV" if visits_there else f"{energy_eV:.2f} eV is new"
    error = f", error {predicted:.4f} → {after:.4f}" if np.isfinite(predicted) else ""
    return f"most information per second: {what}{error}"
