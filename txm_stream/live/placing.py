"""Where each visit lies, while the scan runs: causal registration, and early weak visits placed once more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from txm_stream.alignment.causal import CausalRegistration, FrameShift
from txm_stream.arrays import Image, Vector
from txm_stream.optical_density import OpticalDensity
from txm_stream.registered import work_binning, work_image
from txm_stream.resampling import shift_image

logger = logging.getLogger("txm_stream")

_SETTLED_VISITS, _LATEST, _MUCH_WEAKER = 10, 5, 2.0
"""From ten visits on, those placed with twice the error of the latest five are placed once more."""


@dataclass(frozen=True, eq=False)
class Place:
    """Shift (y, x) applied to a visit in px, its standard error, and the magnification before it."""

    shift_px: Vector
    sigma_px: float
    magnification: float


class LivePlacing:
    """Places of visits; without ``registration`` all of them stay where they are.

    Parameters
    ----------
    shape
        Image size (y, x); large images are binned to find the shift.
    proportional
        Whether a pixel on the sample grows as the energy; a magnification that is to be fitted is the final pass's.
    """

    def __init__(self, shape: tuple[int, int], *, registration: bool, proportional: bool) -> None:
        self.registration = registration
        self.proportional = proportional
        self._binning = work_binning(shape)
        self._causal = CausalRegistration((shape[0] // self._binning, shape[1] // self._binning))
        self._first_eV: float | None = None
        self._placed: dict[int, Place] = {}
        self._again: set[int] = set()

    def place(self, index: int, energy_eV: float, density: OpticalDensity, *, anew: bool = False) -> Place:
        """Place a new visit; a known one keeps its place, unless it is to be found ``anew``."""
        known = self._placed.get(index)
        if known is not None and not anew:
            return known
        if self._first_eV is None:
            self._first_eV = energy_eV
        if not self.registration:
            found = Place(np.zeros(2), 0.0, 1.0)
        else:
            magnification = energy_eV / self._first_eV if self.proportional else 1.0
            work, noise = work_image(density)
            if magnification != 1.0:
                work = shift_image(work, (0.0, 0.0), magnification)
            shift = self._find(work, noise) if known is None else self._causal.estimate(work, noise)
            if known is not None and not shift.accepted:
                return known
            found = Place(shift.shift_px * self._binning, shift.sigma_px * self._binning, magnification)
        self._placed[index] = found
        return found

    def known(self, index: int) -> Place:
        """Return the place of a visit."""
        return self._placed[index]

    def _find(self, work: Image, noise: float) -> FrameShift:
        found = self._causal.partial_fit(work, noise)
        if not found.accepted:
            logger.warning("a frame could not be registered; it is shown at the last shift")
        return found

    def forget(self, index: int) -> None:
        """A visit has lost its weight: should it come back, it is placed as a new one."""
        self._placed.pop(index, None)

    def weakest(self, visits: Sequence[int]) -> int | None:
        """Return the one of ``visits`` (each is named once) placed by too little: far less surely than the latest."""
        if not self.registration or len(visits) < _SETTLED_VISITS:
            return None
        errors = np.array([0.0 if index in self._again else self._placed[index].sigma_px for index in visits])
        latest = [self._placed[index].sigma_px for index in visits[-_LATEST:]]
        first = int(np.argmax(errors[:-_LATEST]))
        if errors[first] < _MUCH_WEAKER * np.median(latest):
            return None
        self._again.add(visits[first])
        return visits[first]

    def settle(self) -> None:
        """Nobody waits: learn from the visits so far."""
        self._causal.settle()
