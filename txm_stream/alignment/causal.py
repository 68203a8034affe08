"""Causal registration: each new frame against a running template of all frames before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream.alignment.matching import apply_filter, coarse_shift, gauss_newton_step, taper, wiener_filter
from txm_stream.arrays import Image, Vector
from txm_stream.resampling import field_after_shift, shift_image

ITERATIONS = 4
_WORST_SIGMA_PX = 1.0
"""A frame whose shift is less certain than this cannot be registered."""


@dataclass(frozen=True, eq=False)
class FrameShift:
    """Shift (y, x) in px applied to register a frame, its standard error, and whether it was accepted."""

    shift_px: Vector
    sigma_px: float
    accepted: bool


class CausalRegistration:
    """Running amplitude-weighted template and Gauss–Newton on shift, gain and offset.

    State: one template and one weight image (y, x). The first frame defines the origin.

    Parameters
    ----------
    shape
        Image size (y, x).
    reach_px
        Largest shift searched, default a third of the smaller side.
    """

    def __init__(self, shape: tuple[int, int], *, reach_px: float | None = None) -> None:
        self.shape = shape
        self.reach_px = min(shape) / 3 if reach_px is None else reach_px
        self.n_frames = 0
        self._window = taper(shape)
        self._sum = np.zeros(shape, dtype=np.float32)
        self._weight = np.zeros(shape, dtype=np.float32)
        self._noise = np.zeros(shape, dtype=np.float32)
        self._template: Image | None = None
        self._last: Vector = np.zeros(2)

    def estimate(self, frame: Image, sigma: float) -> FrameShift:
        """Return the shift of ``frame`` (y, x), finite everywhere, noise ``sigma``; change nothing."""
        if self._template is None:
            return FrameShift(np.zeros(2), 0.0, bool(np.isfinite(sigma)))
        if not np.isfinite(sigma):
            return FrameShift(self._last.copy(), float("nan"), False)
        shift = coarse_shift(frame, self._template, self._window, around=self._last, reach_px=self.reach_px)
        error, explained = float("inf"), 0.0
        for _ in range(ITERATIONS):
            moved = shift_image(frame, shift)
            window = self._window * field_after_shift(self.shape, shift)
            step = gauss_newton_step(moved, [self._template], window)
            # far outside the field the linear model says nothing: trust the correlation peak to ± 2 px
            shift = shift + np.clip(step.move, -2, 2)
            error = float(np.sqrt(0.5 * np.trace(step.covariance)))
            explained = step.amplitudes[0]
            if float(np.abs(step.move).max()) < 0.005:
                break
        accepted = error < _WORST_SIGMA_PX and explained > 0 and bool(np.all(np.abs(shift) < min(self.shape) / 2))
        return FrameShift(shift if accepted else self._last.copy(), error, accepted)

    def partial_fit(self, frame: Image, sigma: float) -> FrameShift:
        """Estimate the shift of ``frame`` and add it to the template."""
        found = self.estimate(frame, sigma)
        if found.accepted:
            self.update(frame, sigma, found.shift_px)
        return found

    def update(self, frame: Image, sigma: float, shift_px: Vector) -> None:
        """Add a frame at a known shift to the template, weighted by amplitude/σ² (matched to its contrast)."""
        moved = shift_image(frame, shift_px)
        field = field_after_shift(self.shape, shift_px)
        amplitude = max(float(ndimage.gaussian_filter(moved, 2.0)[field].std()), 1e-6)
        weight = np.float32(amplitude / sigma**2)
        self._sum += np.where(field, weight * moved, np.float32(0))
        self._weight += np.where(field, weight * np.float32(amplitude), np.float32(0))
        self._noise += np.where(field, (weight * np.float32(sigma)) ** 2, np.float32(0))
        self._last = np.asarray(shift_px, dtype=np.float64)
        self.n_frames += 1
        filled = self._weight > 0
        mean = np.where(filled, self._sum / np.where(filled, self._weight, 1), 0).astype(np.float32)
        mean[~filled] = mean[filled].mean()
        variance = float((self._noise[filled] / self._weight[filled] ** 2).mean())
        self._template = apply_filter(mean, wiener_filter(mean, variance, self._window))
