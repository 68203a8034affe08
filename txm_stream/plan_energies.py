"""An energy list before any beamtime: references and a budget in, a list and a picture of it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray, Vector
from txm_stream.energies import Plan, predicted_rmse, select_energies
from txm_stream.errors import BadReferenceError
from txm_stream.io.energy_list import read_energies
from txm_stream.unmixing.references import References, load_references

_BEFORE_EV, _AFTER_EV, _STEP_EV = 60.0, 120.0, 0.5
_MOST_VISITS = 2000
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe–Ito


@dataclass(frozen=True, eq=False)
class EnergyList:
    """A list and what it is compared with.

    ``plan``: energies in eV with repeats. ``seconds``: of the scan, flats not counted. ``own_eV`` (C,): the candidates
    that were given, each visited once, with their ``own_rmse`` and ``own_seconds``; ``None`` without any.
    """

    plan: Plan
    references: References
    sigma: float
    seconds: float
    own_eV: Vector | None
    own_rmse: float | None
    own_seconds: float | None

    def summary(self) -> dict[str, Any]:
        """Return what a program wants to know."""
        return {
            "visits": int(self.plan.repeats.sum()),
            "energies_eV": self.plan.energies_eV.tolist(),
            "repeats": self.plan.repeats.tolist(),
            "predicted_rmse": self.plan.predicted_rmse,
            "seconds": self.seconds,
            "candidates_rmse": self.own_rmse,
            "candidates_seconds": self.own_seconds,
        }


def list_energies(
    references: References | list[str],
    *,
    candidates_eV: AnyArray | Path | str | None = None,
    n: int | None = None,
    budget_s: float | None = None,
    sigma: float = 0.05,
    move_s: float = 3.0,
    exposure_s: float = 0.5,
) -> EnergyList:
    """Choose the visits of a scan by :func:`.select_energies`.

    Parameters
    ----------
    references
        Spectra, or their files.
    candidates_eV
        Energies to choose from in eV, or a file of them (eV or keV), for instance the beamline's own list; default:
        from 60 eV below to 120 eV above the edge in steps of 0.5 eV, as far as the references reach.
    n, budget_s
        Visits, or seconds for moves and exposures: one of the two.
    sigma, move_s, exposure_s
        As in :func:`.select_energies`.

    Raises
    ------
    BadReferenceError, BadStackError
        Files that cannot be read, a budget that is too small, or what :func:`.select_energies` says.
    """
    if (n is None) == (budget_s is None):
        raise BadReferenceError("give the number of visits or a budget in seconds, one of the two")
    spectra = references if isinstance(references, References) else load_references(references)
    own = None
    if candidates_eV is not None:
        given = isinstance(candidates_eV, (str, Path))
        own = read_energies(candidates_eV) if given else np.asarray(candidates_eV, dtype=np.float64)  # type: ignore[arg-type]
    low, high = (
        max(spectra.range_eV[0], spectra.edge_eV - _BEFORE_EV),
        min(spectra.range_eV[1], spectra.edge_eV + _AFTER_EV),
    )
    candidates = np.arange(low, high + 1e-6, _STEP_EV) if own is None else own

    def plan_of(visits: int) -> Plan:
        return select_energies(candidates, spectra, n=visits, sigma=sigma, move_s=move_s, exposure_s=exposure_s)

    if n is None and budget_s is not None:
        most = plan_of(max(5, len(spectra.names) + 2, min(int(budget_s / exposure_s), _MOST_VISITS)))
        stops = [len(np.unique(most.sequence_eV[: k + 1])) for k in range(len(most.sequence_eV))]
        times = np.array(stops) * move_s + np.arange(1, len(stops) + 1) * exposure_s
        n = int((times <= budget_s).sum())
        least = max(5, len(spectra.names) + 2)
        if n < least:
            raise BadReferenceError(
                f"a budget of {budget_s:g} s is too small: the least scan, {least} visits, takes {times[least - 1]:g} s"
            )
    plan = plan_of(int(n or 0))
    seconds = len(plan.energies_eV) * move_s + float(plan.repeats.sum()) * exposure_s
    own_rmse = None if own is None else predicted_rmse(own, spectra, sigma=sigma)
    own_seconds = None if own is None else len(own) * (move_s + exposure_s)
    return EnergyList(plan, spectra, sigma, seconds, own, own_rmse, own_seconds)


def write_list(path: Path | str, chosen: EnergyList) -> Path:
    """Write the list as text, one energy in eV and its repeats per line, ascending; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{energy:.3f} {count}" for energy, count in zip(chosen.plan.energies_eV, chosen.plan.repeats, strict=True)
    ]
    path.write_text("\n".join(["# energy_eV repeats", *lines, ""]), encoding="utf-8")
    return path


def save_figure(path: Path | str, chosen: EnergyList) -> Path:
    """Draw the references with the chosen energies, and the predicted error against the visits; return the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    spectra, curve = figure.subplots(1, 2, width_ratios=(3, 2))
    plan, references = chosen.plan, chosen.references
    top = float(plan.repeats.max())
    spectra.vlines(plan.energies_eV, 0, plan.repeats / top, color="0.6", linewidth=3, label=f"visits (1: {top:.0f})")
    for colour, name, mu in zip(_COLOURS, references.names, references.mu.T, strict=False):
        spectra.plot(references.energies_eV, mu, color=colour, label=name)
    spectra.set_xlim(plan.energies_eV[0] - 5, plan.energies_eV[-1] + 5)
    spectra.set_xlabel("energy, eV")
    spectra.set_ylabel("absorption, edge jumps")
    spectra.legend(fontsize=8, loc="lower right")
    visits, errors = _growing(plan.sequence_eV, chosen)
    curve.loglog(visits, errors, "o-", color=_COLOURS[0], markersize=3, label="chosen, with repeats")
    if chosen.own_eV is not None:
        spread = [np.unique(np.linspace(0, len(chosen.own_eV) - 1, k).round().astype(int)) for k in visits]
        own = [(len(part), _error(chosen.own_eV[part], chosen)) for part in spread]
        curve.loglog(
            *zip(*own, strict=True), "s--", color=_COLOURS[1], markersize=3, label="evenly from the list given"
        )
        curve.plot(len(chosen.own_eV), chosen.own_rmse, "s", color=_COLOURS[1], markersize=8, label="the list given")
    curve.set_xlabel("visits")
    curve.set_ylabel("predicted rms error of an abundance")
    curve.grid(which="both", alpha=0.3)
    curve.legend(fontsize=8)
    figure.suptitle(
        f"{int(plan.repeats.sum())} visits at {len(plan.energies_eV)} energies, {chosen.seconds:.0f} s; edge jump 1, "
        f"noise {chosen.sigma:g} per visit, least squares before denoising",
        fontsize=10,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _growing(sequence_eV: Vector, chosen: EnergyList) -> tuple[list[int], list[float]]:
    """Return numbers of visits and the errors of the first so many of a sequence."""
    least = max(5, len(chosen.references.names) + 2)
    visits = np.unique(np.geomspace(least, max(len(sequence_eV), least), 20).round().astype(int)).tolist()
    return visits, [_error(sequence_eV[:k], chosen) for k in visits]


def _error(energies_eV: Vector, chosen: EnergyList) -> float:
    """Return the predicted error of a list, NaN where it cannot tell the states apart."""
    try:
        return predicted_rmse(energies_eV, chosen.references, sigma=chosen.sigma)
    except BadReferenceError:
        return float("nan")
