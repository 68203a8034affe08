"""How good the map is and will be: what the live view found, carried on by the variance of the least-squares map."""

from __future__ import annotations

from typing import Any

import numpy as np

DENOISED_POWER = 0.8
"""A denoised map's squared error falls as the variance of the least-squares map to this power."""
_UNJUDGED = 6.25
"""Before the map is judged: variance of least squares in OD over that of a map, denoised, of half an OD edge jump."""
_REMEMBERED = 4
"""A new judgement counts a quarter: each is off by some percent, and the first low one would stop a scan."""
_JUDGED, _CARRIED = 0.07, 0.2
"""Error of ln(error) of one judgement, and of carrying it on, per unit of ln(variance): its power is 0.8 ± 0.4."""
_NOTHING = float("nan")

Ahead = list[tuple[float, float, float]]
"""Visits planned: energy in eV, the map's error after it, what it takes in s."""


class JudgedError:
    """The map's error at a variance of the least-squares map (abundance²); one number, kept up to date.

    ``count``: judgements so far. The geometric mean of the first four, carried on to the same variance; from then on
    each new one counts a quarter, or more where the variance fell much since the last: one energy can settle what an
    hour of others could not, and the power law then promises too much.
    """

    def __init__(self) -> None:
        self.count = 0
        self._measured: tuple[float, float] | None = None

    def judge(self, noise_rmse: float, variance: float) -> None:
        """Take the map's error from noise as the live view found it when the variance was this."""
        before = noise_rmse if self._measured is None else self.noise_rmse(variance)
        self.count += 1
        doubt = 0.0 if self._measured is None else _CARRIED * float(np.log(variance / self._measured[1]))
        share = max(1 / min(self.count, _REMEMBERED), doubt**2 / (doubt**2 + _JUDGED**2))
        self._measured = (float(noise_rmse**share * before ** (1 - share)), variance)

    def noise_rmse(self, variance: Any) -> Any:
        """Return the map's error from noise at a variance; NaN before the first judgement."""
        if self._measured is None:
            return _NOTHING
        rmse, measured = self._measured
        return rmse * (variance / measured) ** (DENOISED_POWER / 2)

    def rmse(self, variance: float, common: float) -> float:
        """Return the map's error from noise and from what all pixels share (its square); NaN while unknown."""
        return float(np.hypot(self.noise_rmse(variance), np.sqrt(common)))

    def squared(self, variance: Any, common: Any) -> Any:
        """Return a squared error to compare candidates by, also while the map was not judged."""
        noise = variance / _UNJUDGED if self._measured is None else self.noise_rmse(variance) ** 2
        return noise + common


def to_target(target: float | None, predicted: float, ahead: Ahead, *, made: int) -> tuple[float, float]:
    """Return visits and seconds to the target: as planned ``ahead``, then with the variance falling as 1/n.

    NaN without a target or while the error is unknown. ``made``: visits so far.
    """
    if target is None or not np.isfinite(predicted):
        return _NOTHING, _NOTHING
    seconds = 0.0
    for count, (_, then, duration) in enumerate([(0.0, predicted, 0.0), *ahead]):
        seconds += duration
        if then <= target:
            return float(count), seconds
    more = (made + len(ahead)) * ((ahead[-1][1] / target) ** (2 / DENOISED_POWER) - 1)
    return float(len(ahead) + more), seconds + more * seconds / len(ahead)
