"""Causal registration: each new frame against a running low-rank model of all frames before it.

One template is not enough: what chemistry adds to a frame would be read as a shift, by several times the noise. Two
things keep shift and chemistry apart, both by the spectra that images show:

- the fit of a frame weights every spatial frequency by what it leaves unexplained there (noise, and chemistry that is
  not known yet), found from the residual itself;
- a component learned from frames that were placed wrongly contains ∇P₁, and later frames would follow it. That part is
  taken out: P_k → P_k − α·∇P₁, with the α that leaves the smoothest component.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.alignment.matching import apply_filter, coarse_shift, gradient, taper, wiener_filter
from txm_stream.alignment.rings import Rings
from txm_stream.arrays import AnyArray, Image, Matrix, Stack, Vector
from txm_stream.resampling import field_after_shift, shift_image
from txm_stream.subspace.incremental import IncrementalSVD

COMPONENTS = 3
ITERATIONS = 5
_CONVERGED_PX = 0.005
_LEARN_FIRST, _LEARN_EVERY, _LEARN_SHARE = 9, 3, 20
"""The model is made anew at each of the first nine frames, then after every third, or a twentieth of the frames."""
_WORST_SIGMA_PX = 1.0
"""A frame whose shift is less certain than this cannot be registered."""


@dataclass(frozen=True, eq=False)
class FrameShift:
    """Shift (y, x) in px applied to register a frame, its standard error, and whether it was accepted."""

    shift_px: Vector
    sigma_px: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class _Model:
    """Filtered components (K, y, x) of whitened frames, the first with positive loads.

    ``columns`` (3K + 1, F): transforms of the components, a constant, and the components' derivatives along y and x;
    ``inner``: their Gram matrices per ring.
    """

    images: Stack
    columns: AnyArray
    inner: AnyArray


class CausalRegistration:
    """Running truncated SVD of the registered frames, and Gauss–Newton on shift, amplitudes and offset.

    Memory: about 12 images (y, x). The first frame defines the origin.

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
        self._rings = Rings(self._window)
        self._constant = self._rings.transform(np.ones((1, *shape), dtype=np.float32))
        self._svd = IncrementalSVD(shape, rank=COMPONENTS, block=1)
        self._model: _Model | None = None
        self._stale = False
        self._learned_at = 0
        self._last: Vector = np.zeros(2)

    def estimate(self, frame: Image, sigma: float) -> FrameShift:
        """Return the shift of ``frame`` (y, x), finite everywhere, noise ``sigma``; add nothing."""
        return self._place(frame, sigma)[0]

    def partial_fit(self, frame: Image, sigma: float) -> FrameShift:
        """Estimate the shift of ``frame`` and, if it is accepted, add the frame to the model."""
        found, registered = self._place(frame, sigma)
        if found.accepted:
            self._svd.partial_fit(registered)
            self._last = np.asarray(found.shift_px, dtype=np.float64)
            self.n_frames += 1
            due = self._learned_at + max(_LEARN_EVERY, self.n_frames // _LEARN_SHARE)
            self._stale |= self.n_frames <= _LEARN_FIRST or self.n_frames >= due
        return found

    def settle(self) -> None:
        """Make the model anew if it is time to; call it when nobody waits (the next frame does it otherwise)."""
        if self._stale:
            self._model = self._learn()
            self._stale, self._learned_at = False, self.n_frames

    def _place(self, frame: Image, sigma: float) -> tuple[FrameShift, Image]:
        """Return the shift and the whitened frame moved by it, completed from the model where it saw nothing."""
        if not np.isfinite(sigma):
            return FrameShift(self._last.copy(), float("nan"), False), frame
        white = np.asarray(frame / np.float32(sigma), dtype=np.float32)
        self.settle()
        model = self._model
        if model is None:
            return FrameShift(np.zeros(2), 0.0, True), white - np.float32(np.average(white, weights=self._window))
        shift = coarse_shift(white, model.images[0], self._window, around=self._last, reach_px=self.reach_px)
        loads: Vector | None = None
        error, amplitude = float("inf"), 0.0
        moved = white
        for _ in range(ITERATIONS):
            moved = self._completed(white, shift, loads)
            move, loads, covariance = self._step(model, moved)
            error, amplitude = float(np.sqrt(0.5 * np.trace(covariance))), float(loads[0])
            # far outside the field the linear model says nothing: trust the correlation peak to ± 2 px
            shift = shift + np.clip(move, -2, 2)
            if float(np.abs(move).max()) < _CONVERGED_PX:
                break
        accepted = error < _WORST_SIGMA_PX and amplitude > 0 and bool(np.all(np.abs(shift) < min(self.shape) / 2))
        if not accepted or loads is None:
            return FrameShift(self._last.copy(), error, False), moved
        return FrameShift(shift, error, True), self._completed(white, shift, loads) - np.float32(loads[-1])

    def _step(self, model: _Model, moved: Image) -> tuple[Vector, Vector, Matrix]:
        """Return the remaining move, the loads of components and constant, and the covariance of the move."""
        rings, known = self._rings, len(model.images) + 1
        target = rings.transform(moved[None])
        pull = rings.gram(model.columns, target)[:, :, 0]
        power = rings.gram(target, target)[:, 0, 0]
        loads = rings.fit(model.inner[:, :known, :known], pull[:, :known], power, reweighted=0).values
        mixing = np.zeros((len(model.columns), 2 + known))
        mixing[:known, 2:] = np.eye(known)
        for axis in (0, 1):  # the slope of the model is that of its components
            mixing[known + axis * (known - 1) : known + (axis + 1) * (known - 1), axis] = loads[:-1]
        found = rings.fit(mixing.T @ model.inner @ mixing, pull @ mixing, power)
        return found.values[:2], found.values[2:], found.covariance[:2, :2]

    def _completed(self, white: Image, shift: Vector, loads: Vector | None) -> Image:
        """Return a frame moved by ``shift``; where it saw nothing, what the model says (first: its border values)."""
        moved = shift_image(white, shift)
        if loads is None or self._model is None:
            return moved
        unseen = ~field_after_shift(self.shape, shift)
        said = np.tensordot(loads[:-1].astype(np.float32), self._model.images[:, unseen], axes=1)
        moved[unseen] = said + np.float32(loads[-1])
        return moved

    def _learn(self) -> _Model:
        """Return the model of the frames so far: components without each other's slopes, filtered."""
        svd, rings = self._svd, self._rings
        images = svd.components * svd.singular_values[:, None, None].astype(np.float32)
        if svd.loadings[-1, 0] < 0:
            images[0] *= -1
        kept: list[Image] = []
        columns: list[AnyArray] = []
        steep: Stack = np.zeros((0, 0, 0), dtype=np.float32)
        inner: AnyArray = np.zeros(0)
        for k, image in enumerate(images):
            if k > 0:
                target = rings.transform(image[None])
                pull, power = rings.gram(columns[0], target)[:, :, 0], rings.gram(target, target)[:, 0, 0]
                lean = rings.fit(inner, pull, power).values[-2:].astype(np.float32)
                image = image - np.tensordot(lean, steep, axes=1)
            transfer = wiener_filter(image, 1.0, self._window)
            if k > 0 and transfer.max() <= 0:
                continue
            kept.append(apply_filter(image, transfer) if transfer.max() > 0 else image)
            slopes = np.stack(gradient(kept[-1]))
            columns.append(rings.transform(np.stack([kept[-1], *slopes])))
            if k == 0:
                steep = slopes
                columns[0] = np.insert(columns[0], 1, self._constant[0], axis=0)
                inner = rings.gram(columns[0], columns[0])
        first = np.delete(columns[0], 1, axis=0)
        by_kind = np.stack([first, *columns[1:]], axis=1)  # (component or slope, K, F)
        everything = np.concatenate([by_kind[0], self._constant, by_kind[1], by_kind[2]])
        return _Model(np.stack(kept), everything, rings.gram(everything, everything))
