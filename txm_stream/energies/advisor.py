"""Advice for a running scan: which energy next, why, how good the map will be, and when to stop.

Knows no images: visits with their noise go in, and what the live view says of the map; see :class:`Advisor`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.energies.advice import Advice, most_information, stop_advice, why_start
from txm_stream.energies.common_error import LEAST_ERROR
from txm_stream.energies.evidence import Evidence, Known
from txm_stream.energies.gaps import beyond_background, halve_widest_gap, start_without_references
from txm_stream.energies.information import start_visits
from txm_stream.energies.judged_error import Ahead, JudgedError, to_target
from txm_stream.energies.rules import (
    SAME_EV,
    allowed_windows,
    candidate_energies,
    far_enough,
    flats_due,
    move_seconds,
)
from txm_stream.errors import BadReferenceError
from txm_stream.profile import Steering
from txm_stream.unmixing.references import References

SHIFTS_EV = (-0.3, 0.0, 0.3)
"""The design is the best on average over such errors of the energy calibration."""
_AHEAD = 4
_LEAST_PLANNED = 12
_BLOCKS = (1, 2, 4, 8)
_STABLE, _STABLE_FOR = 0.03, 3
"""Found references are trusted when they changed by no more than this (edge jumps, rms) for so many previews."""
_MISFIT, _MISFIT_MUCH = 0.15, 0.5
"""Where the fit misses more pixels than these, every eighth or every second visit looks where nobody has looked yet."""
_LEAST_CHANGE = 0.05
"""In edge jumps: a missing state may differ where the known ones do not."""


class Advisor:
    """Choose energies while a scan runs.

    With known references: a white-line visit first, two energies before the edge and two after the white line, then
    the visit, or block of repeats, that lowers the logarithm of the map's variance most per second. Without: the gap
    between visits in which the images change most is halved, until references found in the data are stable.

    Parameters
    ----------
    steering
        Rules, costs and targets.
    references
        Known spectra, or ``None``.
    planned_eV
        The beamline's own list: says where energies may lie, where the rules do not.

    Raises
    ------
    BadProfileError, BadReferenceError
        Nothing says where energies may lie; the references do not cover both sides of the edge there.

    Notes
    -----
    Cost: a millisecond per visit with 500 candidates. Memory: a few numbers per visit.
    """

    def __init__(
        self, steering: Steering, references: References | None = None, *, planned_eV: Sequence[float] = ()
    ) -> None:
        self.steering = steering
        self.references = references
        self.windows_eV = allowed_windows(steering, planned_eV=planned_eV, references=references)
        edge = None if references is None else references.edge_eV
        self.candidates_eV = candidate_energies(self.windows_eV, step_eV=steering.step_eV, edge_eV=edge)
        planned = np.unique(np.asarray(planned_eV, dtype=np.float64))
        if len(planned) >= _LEAST_PLANNED:  # a list is dense where its maker expects chemistry
            self._axis = np.interp(self.candidates_eV, planned, np.arange(len(planned)))
        else:
            self._axis = self.candidates_eV
        self.visits: dict[int, tuple[float, float]] = {}
        self._found = references is None
        self._stable = 0
        self._evidence: Evidence | None = None
        self._common_error = LEAST_ERROR
        self._shift_information = 0.0
        self._start: list[float] = []
        self._change: tuple[Vector, Matrix] | None = None
        self._error = JudgedError()
        self._misfit_share = 0.0
        if references is not None:
            self._use(references)
        else:
            self._start = start_without_references(self.candidates_eV, planned_eV, self.windows_eV)

    # -- what is learned

    def visit(self, index: int, energy_eV: float, sigma: float) -> None:
        """Take a visit (numbered from 0), or what is now known of it; ``sigma`` its noise, ``inf`` where rejected."""
        self.visits[index] = (float(energy_eV), float(sigma))

    def measure(
        self,
        noise_rmse: float,
        *,
        misfit_share: float = 0.0,
        common_error: float = LEAST_ERROR,
        shift_information: float = 0.0,
    ) -> None:
        """Take what the live view says after the visits so far.

        ``noise_rmse``: the final map's expected error from noise, NaN while unknown; ``misfit_share`` of the pixels
        miss the fit; ``common_error``: rms error that all pixels of a visit share, in edge jumps, see
        :func:`.visit_error`; ``shift_information`` of differences between pixels in 1/eV², see
        :func:`.contrast_information`.
        """
        self._misfit_share = misfit_share
        self._shift_information = shift_information
        self._common_error = max(common_error, LEAST_ERROR)
        if not np.isfinite(noise_rmse) or self._evidence is None:
            return
        variance, _ = self._known(self._evidence).variances
        self._error.judge(noise_rmse, variance)

    def images(self, energies_eV: Vector, change: Matrix) -> None:
        """Take the differences (n, n) between the denoised images of visits at ``energies_eV`` (n,)."""
        self._change = (np.asarray(energies_eV), beyond_background(change, energies_eV))

    def found(self, references: References) -> None:
        """Take references that were found in the data; they count when they have stopped changing."""
        if not self._found:
            return
        before, self.references = self.references, references
        if before is None or len(before.names) != len(references.names):
            self._stable = 0
            return
        both = np.isfinite(before.at(self.candidates_eV)).all(axis=1)
        both &= np.isfinite(references.at(self.candidates_eV)).all(axis=1)
        old, new = before.at(self.candidates_eV[both]), references.at(self.candidates_eV[both])
        change = np.sqrt(((old[:, :, None] - new[:, None, :]) ** 2).mean(axis=0)).min(axis=1).max() if both.any() else 1
        self._stable = self._stable + 1 if change < _STABLE else 0
        if self._stable >= _STABLE_FOR:
            try:
                self._use(references)
            except BadReferenceError:
                self._stable = 0

    # -- what is advised

    def advise(self, seq: int, *, elapsed_s: float = 0.0) -> Advice:
        """Return the advice after visit ``seq`` (from 1; 0: before the first), ``elapsed_s`` after the start."""
        used = [(energy, sigma) for energy, sigma in self.visits.values() if np.isfinite(sigma)]
        missing = [energy for energy in self._start if not any(abs(energy - e) < SAME_EV for e, _ in used)]
        if missing and not self._error.count:
            if len(self.visits) >= self.steering.most_visits:
                return stop_advice(seq, f"{len(self.visits)} visits are all that are allowed")
            return Advice(
                seq, missing[0], why_start(missing[0], self._start[0]), upcoming_eV=tuple(missing[1 : 1 + _AHEAD])
            )
        if self._evidence is None:
            return self._halve(seq, used, elapsed_s)
        evidence, known = self._evidence, self._known(self._evidence)
        predicted = self._error.rmse(*known.variances)
        current = list(self.visits.values())[-1][0] if self.visits else None
        ahead: Ahead = []
        while len(ahead) < _AHEAD + 1:
            place = self._best(evidence, known, current)
            known = known.plus(place)
            energy = float(evidence.energies_eV[place])
            ahead.append((energy, self._error.rmse(*known.variances), self._seconds(current, energy)))
            current = energy
        after = ahead[0][1]
        stop = self._reason_to_stop(predicted, after, elapsed_s)
        left, seconds = to_target(self.steering.target_rmse, predicted, ahead, made=len(self.visits))
        if stop:
            return stop_advice(seq, stop, predicted)
        energy = ahead[0][0]
        again = sum(abs(energy - other) < SAME_EV for other, _ in self.visits.values())
        reason = most_information(energy, again, predicted, after)
        seen = np.array([e for e, _ in used])
        change = self._change_between(seen)
        gap = self._gap(seen, change)
        every = 2 if self._found or self._misfit_share > _MISFIT_MUCH else 8 if self._misfit_share > _MISFIT else 0
        if every and gap is not None and seq % every == every - 1:
            energy = gap
            missed = f"the fit misses {self._misfit_share:.0%} of the pixels"
            why = "found spectra are checked" if self._found else missed
            reason = f"{why}: the widest gap between visits is halved, at {gap:.2f} eV"
        upcoming = tuple(energy for energy, _, _ in ahead[1:])
        return Advice(seq, energy, reason, False, predicted, after, left, seconds, upcoming)

    def spent(self, elapsed_s: float) -> str:
        """Return which limit of the run is reached ``elapsed_s`` after its start; empty while none is."""
        if len(self.visits) >= self.steering.most_visits:
            return f"{len(self.visits)} visits are all that are allowed"
        if self.steering.most_s is not None and elapsed_s >= self.steering.most_s:
            return f"the time of {self.steering.most_s:g} s is over"
        return ""

    # -- steps

    def _use(self, references: References) -> None:
        """Look the references up at the candidates, for every error of the calibration."""
        evidence = Evidence(references, self.candidates_eV, SHIFTS_EV if not self._found else (0.0,))
        start = start_visits(evidence.energies_eV, evidence.values)
        self._evidence = evidence
        if not self._found:
            line = int(np.argmax(evidence.values.mean(axis=1)))
            self._start = [float(evidence.energies_eV[i]) for i in (line, *(i for i in start if i != line))]

    def _noise(self, energies_eV: AnyArray) -> Vector:
        """Return the noise of a visit at energies in eV, interpolated between the visits made."""
        known = sorted((energy, sigma) for energy, sigma in self.visits.values() if np.isfinite(sigma) and sigma > 0)
        if not known:
            return np.ones(np.shape(energies_eV))
        table: dict[float, list[float]] = {}
        for energy, sigma in known:
            table.setdefault(energy, []).append(sigma)
        return np.interp(energies_eV, list(table), [float(np.mean(s)) for s in table.values()])

    def _known(self, evidence: Evidence) -> Known:
        """Return what the visits so far tell."""
        used = [(energy, sigma) for energy, sigma in self.visits.values() if np.isfinite(sigma) and sigma > 0]
        noise = self._noise(evidence.energies_eV)
        return evidence.of(used, noise, self._common_error, shift_information=self._shift_information)

    def _best(self, evidence: Evidence, known: Known, current: float | None) -> int:
        """Return the candidate whose next visit, or block of them, takes most off lg(squared error) per second."""
        steering, energies = self.steering, evidence.energies_eV
        variance, common = known.variances
        visited = np.array([energy for energy, _ in self.visits.values()])
        allowed = far_enough(energies, visited, steering.least_step_eV)
        moves = move_seconds(steering, current, energies)
        # the further exposures of a flat serve all visits
        flats = np.where(self._flats_due(energies), steering.flat_s, 0.0)
        # nothing is worse than repeating energies that cannot tell the states apart
        poor = variance > known.even_variance(len(visited))
        now = self._error.squared(variance, common)
        best = np.full(len(energies), -np.inf)
        for block in _BLOCKS:
            drop = np.log(now / self._error.squared(*known.after(block)))
            seconds = block * steering.exposure_s + (0.0 if poor else moves + flats)
            best = np.maximum(best, drop / seconds)
        return int(np.argmax(np.where(allowed, best, -np.inf)))

    def _flats_due(self, energies_eV: Vector) -> AnyArray:
        taken = sorted({round(energy, 2) for energy, _ in self.visits.values()})
        return flats_due(self.steering, energies_eV, flats_eV=taken)

    def _seconds(self, current: float | None, energy: float) -> float:
        """Return how long a visit takes, move and flat included."""
        move = float(move_seconds(self.steering, current, np.array([energy]))[0])
        flat = self.steering.whole_flat_s if self._flats_due(np.array([energy]))[0] else 0.0
        return move + self.steering.exposure_s + flat

    def _reason_to_stop(self, predicted: float, after: float, elapsed_s: float) -> str:
        steering = self.steering
        if steering.target_rmse is not None and predicted <= steering.target_rmse and self._error.count > 1:
            return f"the map is predicted to be good to {predicted:.4f}, the target is {steering.target_rmse:g}"
        if spent := self.spent(elapsed_s):
            return spent
        if np.isfinite(predicted) and predicted - after < steering.least_gain * predicted:
            return f"no further visit would lower the error of {predicted:.4f} by more than {steering.least_gain:.2%}"
        return ""

    def _halve(self, seq: int, used: list[tuple[float, float]], elapsed_s: float) -> Advice:
        """Return the advice without references."""
        if spent := self.spent(elapsed_s):
            return stop_advice(seq, spent)
        visited = [energy for energy, _ in used]
        change = self._change_between(np.array(visited))
        upcoming: list[float] = []
        while len(upcoming) < _AHEAD + 1:
            energy = self._gap(np.array(visited), change)
            if energy is None:
                break
            upcoming.append(energy)
            visited = [*visited, energy]
            if change is not None:
                nearest = [*range(len(change)), int(np.argmin(np.abs(np.array(visited[:-1]) - energy)))]
                change = change[np.ix_(nearest, nearest)]
        if not upcoming:
            return stop_advice(seq, "every allowed energy was visited")
        reason = f"the images change most around {upcoming[0]:.2f} eV: the gap between visits is halved"
        return Advice(seq, upcoming[0], reason, upcoming_eV=tuple(upcoming[1:]))

    def _gap(self, visited_eV: Vector, change: Matrix | None) -> float | None:
        least = self.steering.least_step_eV
        return halve_widest_gap(self.candidates_eV, visited_eV, change, axis=self._axis, least_eV=least)

    def _change_between(self, visited_eV: Vector) -> Matrix | None:
        """Return how much images, or else the references, differ between visits (n, n); ``None`` while unknown."""
        if self._change is not None and len(self._change[0]):
            known, between = self._change
            nearest = [int(np.argmin(np.abs(known - energy))) for energy in visited_eV]
            return np.asarray(between[np.ix_(nearest, nearest)])
        if self._evidence is None:
            return None
        axis, values = self._evidence.energies_eV, self._evidence.values
        spectra = np.stack([np.interp(visited_eV, axis, column) for column in values.T], axis=1)
        return np.asarray(_LEAST_CHANGE + np.sqrt(((spectra[:, None] - spectra[None]) ** 2).mean(axis=-1)))
