"""What visits tell of a map with known references, and what candidates would add: of each pixel, and of all alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.energies.common_error import common_information, common_rows
from txm_stream.energies.information import information, spread_and_leverage, variance
from txm_stream.unmixing.references import References

_Gain = tuple[float, Vector, Vector]


@dataclass(frozen=True, eq=False)
class Known:
    """Information of visits about one pixel, and about the mean pixel; one matrix for every error of the calibration.

    ``pixel_rows``, ``common_rows``: what one more visit to each candidate adds.
    """

    pixel: list[Matrix]
    common: list[Matrix]
    pixel_rows: list[Matrix]
    common_rows: list[Matrix]
    n_states: int

    @property
    def variances(self) -> tuple[float, float]:
        """Variance of a least-squares abundance from noise, and from errors that all pixels share.

        Both geometric means over the errors of the calibration.
        """
        return self._mean(self.pixel), self._mean(self.common)

    def _mean(self, matrices: list[Matrix]) -> float:
        return float(np.exp(np.mean([np.log(variance(h, self.n_states) / self.n_states) for h in matrices])))

    def plus(self, place: int) -> Known:
        """Return what is known after one more visit to a candidate."""
        pixel = [h + np.outer(rows[place], rows[place]) for h, rows in zip(self.pixel, self.pixel_rows, strict=True)]
        common = [h + np.outer(rows[place], rows[place]) for h, rows in zip(self.common, self.common_rows, strict=True)]
        return Known(pixel, common, self.pixel_rows, self.common_rows, self.n_states)

    def after(self, visits: int) -> tuple[Vector, Vector]:
        """Return both variances (C,) after so many more visits to each candidate."""
        return self._after(self._pixel_gains, visits), self._after(self._common_gains, visits)

    @cached_property
    def _pixel_gains(self) -> list[_Gain]:
        return [self._gain(h, rows) for h, rows in zip(self.pixel, self.pixel_rows, strict=True)]

    @cached_property
    def _common_gains(self) -> list[_Gain]:
        return [self._gain(h, rows) for h, rows in zip(self.common, self.common_rows, strict=True)]

    def _gain(self, h: Matrix, rows: Matrix) -> _Gain:
        return variance(h, self.n_states), *spread_and_leverage(rows, h, self.n_states)

    def _after(self, gains: list[_Gain], visits: int) -> Vector:
        left = [np.maximum(before - spread / (1 / visits + leverage), 1e-300) for before, spread, leverage in gains]
        return np.asarray(np.exp(np.log(left).mean(axis=0)) / self.n_states)

    def even_variance(self, visits: int) -> float:
        """Return the variance from noise of so many visits spread evenly over the candidates."""
        even = np.linspace(0, len(self.pixel_rows[0]) - 1, max(visits, 1)).round().astype(int)
        return self._mean([information(rows[even]) for rows in self.pixel_rows])


class Evidence:
    """Looks references up at candidates and visits.

    Parameters
    ----------
    references
        L spectra.
    candidates_eV
        (C,) ascending; those that the references do not cover are dropped.
    shifts_eV
        Errors of the energy calibration; what is returned is for each of them.
    """

    def __init__(self, references: References, candidates_eV: Vector, shifts_eV: Sequence[float]) -> None:
        self.references = references
        self.shifts_eV = tuple(shifts_eV)
        spectra = [references.at(candidates_eV, shift_eV=shift) for shift in shifts_eV]
        covered = np.isfinite(np.concatenate(spectra, axis=1)).all(axis=1)
        self.energies_eV: Vector = candidates_eV[covered]
        self.values: Matrix = spectra[len(spectra) // 2][covered]
        self._rows = self._look_up(self.energies_eV)
        self._visited: dict[float, list[Matrix]] = {}

    @property
    def n_states(self) -> int:
        """Number of states."""
        return int(self.values.shape[1])

    def of(
        self,
        visits: Sequence[tuple[float, float]],
        noise: Vector,
        common_error: float,
        *,
        shift_information: float = 0.0,
    ) -> Known:
        """Return what visits (energy in eV, noise) tell, with the noise (C,) of visits to the candidates.

        ``common_error``: rms error of a visit that all its pixels share, in edge jumps; ``shift_information``: what
        differences between pixels tell of the energy shift, in 1/eV².
        """
        new = [energy for energy in dict.fromkeys(e for e, _ in visits) if energy not in self._visited]
        if new:
            rows = self._look_up(np.array(new))
            for place, energy in enumerate(new):
                self._visited[energy] = [r[place] for r in rows]
        covered = [(e, s) for e, s in visits if np.isfinite(self._visited[e]).all()]
        sigma = np.array([s for _, s in covered])
        seen = [
            np.array([self._visited[e][k] for e, _ in covered]).reshape(-1, rows.shape[1])
            for k, rows in enumerate(self._rows)
        ]
        return Known(
            pixel=[information(rows[:, :-1] / sigma[:, None]) for rows in seen],
            common=[common_information(rows, common_error, shift_information=shift_information) for rows in seen],
            pixel_rows=[rows[:, :-1] / noise[:, None] for rows in self._rows],
            common_rows=[rows / common_error for rows in self._rows],
            n_states=self.n_states,
        )

    def _look_up(self, energies_eV: AnyArray) -> list[Matrix]:
        """Return the rows [references, 1, E, slope] (n, L + 3) at energies, for every error of the calibration."""
        centre, width = float(self.energies_eV.mean()), float(np.ptp(self.energies_eV))
        return [
            common_rows(self.references, energies_eV, shift_eV=shift, centre_eV=centre, width_eV=width)
            for shift in self.shifts_eV
        ]
