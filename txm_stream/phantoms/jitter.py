"""Motion of the image on the detector: random jitter of the zone plate and a slow drift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Matrix


@dataclass(frozen=True)
class Jitter:
    """Shift of the image after the n-th energy move, reproducible from seed and n alone.

    Attributes
    ----------
    amplitude_px
        Rms of the random part along each axis in px; normal, clipped at three times that.
    drift_px
        Size of the slow part in px, zero at the first move; default: as large as the jitter.
    period
        Moves in which the drift goes once to and fro.
    seed
        Same seed, same motion.
    """

    amplitude_px: float
    seed: int = 0
    drift_px: float | None = None
    period: float = 240.0

    @property
    def largest_px(self) -> float:
        """Bound of the shift along one axis in px."""
        drift = self.amplitude_px if self.drift_px is None else self.drift_px
        return 3 * self.amplitude_px + drift

    def shift(self, move: int) -> tuple[float, float]:
        """Return the shift (dy, dx) in px after energy move number ``move``, counted from 0."""
        drift = self.amplitude_px if self.drift_px is None else self.drift_px
        random = np.clip(np.random.default_rng([self.seed, 7, move]).standard_normal(2), -3, 3)
        angle = np.random.default_rng([self.seed, 8]).uniform(0, 2 * np.pi)
        slow = np.sin(2 * np.pi * move / self.period) * np.array([np.sin(angle), np.cos(angle)])
        dy, dx = self.amplitude_px * random + drift * slow
        return float(dy), float(dx)

    def shifts(self, n: int) -> Matrix:
        """Return the shifts (n, 2) after the first ``n`` moves in px."""
        return np.array([self.shift(move) for move in range(n)]).reshape(n, 2)
