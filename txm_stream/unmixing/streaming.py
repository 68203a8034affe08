"""The map of a growing scan: exact sums per visit, and total variation that goes on from where it was.

The white channels of one visit more differ little from those before, so that one to three iterations from the last dual
solution stay at the solution: 60 energies on, within 0.1 dB of iterating to the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from txm_stream.arrays import Image, Matrix, Stack, Vector
from txm_stream.denoising.tv import STRENGTH, Dual, total_variation
from txm_stream.unmixing.least_squares import nonnegative, split_scale
from txm_stream.unmixing.one_pass import INSIDE, rotate_to_signal
from txm_stream.unmixing.statistics import UnmixingStatistics, WhiteChannels

WARM_ITERATIONS = 2
_FIRST_ITERATIONS = 30
_ENOUGH_PX = 256
"""A percentile is taken of so many rows and columns."""


class StreamingMap:
    """Abundances and scale of the visits so far, by one pass of total variation on the white channels.

    Parameters
    ----------
    shape
        Image size (y, x).
    n_states
        L.
    centre_eV
        Where the background is anchored, any energy of the scan.

    Notes
    -----
    Memory: 2 L + 2 images for the sums and the channels, 2 L for the dual solution and 4 to work in.
    """

    def __init__(self, shape: tuple[int, int], n_states: int, *, centre_eV: float) -> None:
        self.statistics = UnmixingStatistics(shape, n_states, centre_eV=centre_eV)
        self._duals: list[Dual] = []
        self._workspace: list[Image] = []
        self._rotation: Matrix | None = None
        self._visits = self._turned_at = 0

    def add(self, image: Image, spectrum: Vector, energy_eV: float, sigma: float) -> None:
        """Add a visit, see :meth:`.UnmixingStatistics.add`; for other changes use ``statistics``."""
        self.statistics.add(image, spectrum, energy_eV, sigma)
        self._visits += 1

    def update(self, iterations: int = WARM_ITERATIONS) -> tuple[Stack, Image]:
        """Return abundances (L, y, x) on the simplex, 1/L outside the particles, and scale (y, x).

        Raises
        ------
        BadReferenceError
            The visits so far cannot tell the states apart.
        """
        solved = self._solve()
        white, triangle = solved.white, solved.triangle
        if not self._duals:
            iterations = max(iterations, _FIRST_ITERATIONS)
        duals: Sequence[Dual | None] = self._duals or [None] * len(white)
        self._duals = [
            total_variation(channel, STRENGTH, iterations, dual=dual, out=channel, workspace=self._workspace)[1]
            for channel, dual in zip(white, duals, strict=True)
        ]
        scale = np.tensordot(np.linalg.inv(triangle).sum(axis=0).astype(np.float32), white, axes=1)
        step = max(1, min(scale.shape) // _ENOUGH_PX)
        inside = scale > INSIDE * np.percentile(scale[::step, ::step], 98)
        found = nonnegative(white.reshape(len(white), -1), triangle, where=inside.ravel())
        abundances, amount = split_scale(found, out=found)
        return abundances.reshape(white.shape), np.where(inside, amount.reshape(scale.shape), scale)

    def _solve(self) -> WhiteChannels:
        """Return the channels turned to the signal; where visits have doubled, turned anew together with the duals."""
        solved = self.statistics.solve(self._rotation)
        if self._rotation is not None and self._visits < 2 * self._turned_at:
            return solved
        change = rotate_to_signal(solved.white)
        if self._duals:
            along_y, along_x = (_turned(change, np.stack(parts)) for parts in zip(*self._duals, strict=True))
            self._duals = list(zip(along_y, along_x, strict=True))
        self._rotation = change if self._rotation is None else change @ self._rotation
        self._turned_at = self._visits
        return WhiteChannels(_turned(change, solved.white), change @ solved.triangle)


def _turned(rotation: Matrix, images: Stack) -> Stack:
    return np.asarray(np.tensordot(rotation.astype(np.float32), images, axes=1))
