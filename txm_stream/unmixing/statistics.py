"""Unmixing of a growing scan: all that the data say about the abundances, in L + 2 images.

With weights w_t = 1/σ_t², references a_t (L,) and background n_t = [1, e_t], the sums

    B = Σ w_t a_t y_t,   Q = Σ w_t n_t y_t,   H = Σ w_t [a_t n_t][a_t n_t]ᵀ

are sufficient: the background goes out by a Schur complement when the map is solved, so that a new energy changes
nothing that was summed before. Adding, removing, replacing and weighting a visit anew are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Matrix, Stack, Vector
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.row_threads import over_rows
from txm_stream.unmixing.statistics_loops import add_image, mix

_EV_PER_UNIT = 100.0
_SEPARATE = 1e-6


@dataclass(frozen=True, eq=False)
class WhiteChannels:
    """``white`` (L, y, x) with unit noise and the triangle R (L, L), as a :class:`.Design` gives them."""

    white: Stack
    triangle: Matrix


class UnmixingStatistics:
    """Sufficient statistics of registered visits; memory L + 2 images float64: few visits may hardly tell the states.

    Parameters
    ----------
    shape
        Image size (y, x).
    n_states
        L.
    centre_eV
        Where the background is anchored, any energy of the scan.
    """

    def __init__(self, shape: tuple[int, int], n_states: int, *, centre_eV: float) -> None:
        self.shape = shape
        self.n_states = n_states
        self.centre_eV = centre_eV
        self._images: AnyArray = np.zeros((n_states + 2, *shape))
        self._information: Matrix = np.zeros((n_states + 2, n_states + 2))

    def add(self, image: Image, spectrum: Vector, energy_eV: float, sigma: float) -> None:
        """Add a visit: image (y, x) in OD, finite; reference values (L,) in edge jumps; noise in OD."""
        self._change(image, spectrum, energy_eV, 1 / sigma**2)

    def remove(self, image: Image, spectrum: Vector, energy_eV: float, sigma: float) -> None:
        """Take out what :meth:`add` was given."""
        self._change(image, spectrum, energy_eV, -1 / sigma**2)

    def replace(self, old: Image, new: Image, spectrum: Vector, energy_eV: float, sigma: float) -> None:
        """Replace the image of a visit, in one pass over the statistics."""
        row = self._row(spectrum, energy_eV) / sigma**2
        self._sum(new - old, row)

    def weigh_anew(self, image: Image, spectrum: Vector, energy_eV: float, old_sigma: float, sigma: float) -> None:
        """Give a visit another noise."""
        self._change(image, spectrum, energy_eV, 1 / sigma**2 - 1 / old_sigma**2)

    def solve(self, rotation: Matrix | None = None) -> WhiteChannels:
        """Return the white channels b and R with the background taken out; with ``rotation`` Q (L, L), Q b and Q R.

        Raises
        ------
        BadReferenceError
            The visits so far cannot tell the states from each other and from the background.
        """
        n = self.n_states
        among, across, background = (
            self._information[:n, :n],
            self._information[:n, n:],
            self._information[n:, n:],
        )
        coupling = across @ np.linalg.pinv(background, rcond=1e-12, hermitian=True)
        information = among - coupling @ across.T
        values = np.linalg.eigvalsh(information)
        if not values[0] > _SEPARATE**2 * max(float(np.trace(among)), 1e-300):
            raise BadReferenceError(
                f"the visits so far cannot tell {n} states from each other and from a linear background; "
                "measure energies where they differ"
            )
        triangle = np.ascontiguousarray(np.linalg.cholesky(information).T)
        mixing = np.linalg.solve(triangle.T, np.concatenate([np.eye(n), -coupling], axis=1))
        if rotation is not None:
            triangle, mixing = rotation @ triangle, rotation @ mixing
        white = np.empty((n, *self.shape), dtype=np.float32)
        flat, out = self._images.reshape(n + 2, -1), white.reshape(n, -1)
        over_rows(mix, (flat.shape[1], 1), np.ascontiguousarray(mixing), flat, out)
        return WhiteChannels(white, triangle)

    def _row(self, spectrum: Vector, energy_eV: float) -> Vector:
        row = np.append(np.asarray(spectrum, dtype=np.float64), [1.0, (energy_eV - self.centre_eV) / _EV_PER_UNIT])
        if row.shape != (self.n_states + 2,) or not np.isfinite(row).all():
            raise BadStackError(f"reference values {np.asarray(spectrum)}; expected {self.n_states} finite ones")
        return row

    def _change(self, image: Image, spectrum: Vector, energy_eV: float, weight: float) -> None:
        row = self._row(spectrum, energy_eV)
        self._sum(image, row * weight)
        self._information += weight * np.outer(row, row)

    def _sum(self, image: Image, row: Vector) -> None:
        if image.shape != self.shape:
            raise BadStackError(f"image of shape {image.shape}, expected {self.shape}")
        flat = np.ascontiguousarray(image, dtype=np.float32).ravel()
        over_rows(add_image, (flat.size, 1), row, flat, self._images.reshape(len(row), -1))
