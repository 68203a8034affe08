"""Streaming projection of unsmoothed visits on a basis that keeps turning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from txm_stream.arrays import Image, Matrix, Stack
from txm_stream.results import K_MAX
from txm_stream.row_threads import over_rows

LOSS_AT_MOST = 0.01
"""Largest share of a leading component's energy that rotations may lose before all is projected again.

A turn loses what of the new vector lies outside the old basis. That is mostly noise; of the component's own signal it
is the loss times the angle error of the basis, a fraction of a percent.
"""
AT_ONCE = 8
"""Frames that are read before they are added up."""
_WORTH_IT = 0.0025
_STRIP = 8192
"""Pixels rotated at a time: all components of them stay in the cache."""


class Projection:
    """P = Y V for K_MAX components: exact additions, rotation when V turns, rebuilt when rotation would lose signal.

    Parameters
    ----------
    shape
        Image size (y, x); memory is K_MAX images.
    read
        Returns the whitened registered visit ``t`` (y, x) float32, finite everywhere.
    """

    def __init__(self, shape: tuple[int, int], read: Callable[[int], Image]) -> None:
        self.images: Stack = np.zeros((K_MAX, *shape), dtype=np.float32)
        self.basis: Matrix = np.zeros((0, K_MAX))
        self.n_rebuilds = 0
        self._read = read
        self._lost = 0.0

    def replace(self, index: int, difference: Image) -> None:
        """Take a changed visit (new minus old, whitened) into account; visits not yet projected need nothing."""
        if index < len(self.basis):
            for k, weight in enumerate(self.basis[index]):
                self.images[k] += np.float32(weight) * difference

    def turn(self, vectors: Matrix, leading: int) -> None:
        """Move to a new basis (T, ≥ 1), adding the visits that came since; ``leading`` components must stay exact."""
        visits, known = len(vectors), len(self.basis)
        basis = np.zeros((visits, K_MAX))
        width = min(K_MAX, vectors.shape[1])
        basis[:, :width] = vectors[:, :width]
        rotation = self.basis.T @ basis[:known]
        missing = basis[:known, :leading] - self.basis @ rotation[:, :leading]
        self._lost += float((missing**2).sum(axis=0).max(initial=0.0)) if known > K_MAX else 0.0
        if self._lost > LOSS_AT_MOST:
            self.basis = basis
            self.rebuild()
        else:
            self._rotate(rotation, basis[known:], [self._read(t) for t in range(known, visits)])
        self.basis = basis

    def _rotate(self, rotation: Matrix, loads: Matrix, frames: list[Image]) -> None:
        """Turn the images in place and add new frames (n,) with their ``loads`` (n, K_MAX), a strip at a time."""
        mixing = np.concatenate([rotation, loads]).T.astype(np.float32)
        flat, added = self.images.reshape(K_MAX, -1), [frame.ravel() for frame in frames]
        strip = np.empty((mixing.shape[1], _STRIP), dtype=np.float32)
        for start in range(0, flat.shape[1], _STRIP):
            part = flat[:, start : start + _STRIP]
            old = strip[:, : part.shape[1]]
            old[:K_MAX] = part
            for row, frame in zip(old[K_MAX:], added, strict=True):
                row[:] = frame[start : start + _STRIP]
            np.matmul(mixing, old, out=part)

    def rebuild(self) -> None:
        """Project all visits again."""
        self.images = project(self._read, self.basis, self.images.shape[1:])
        self._lost = 0.0
        self.n_rebuilds += 1

    def settle(self) -> None:
        """Nobody waits: project again if rotations have lost anything worth it."""
        if self._lost > _WORTH_IT:
            self.rebuild()


def project(read: Callable[[int], Image], basis: Matrix, shape: tuple[int, int]) -> Stack:
    """Return Σ_t basis[t, k]·frame_t as (K, y, x) float32, reading each visit with weight once, eight at a time."""
    out = np.zeros((basis.shape[1], *shape), dtype=np.float32)
    used = np.flatnonzero(np.abs(basis).max(axis=1) > 0)
    for start in range(0, len(used), AT_ONCE):
        chosen = used[start : start + AT_ONCE]
        add_weighted(basis[chosen], np.stack([read(int(t)) for t in chosen]), out)
    return out


def add_weighted(basis: Matrix, frames: Stack, sums: Stack) -> None:
    """Add Σ_t basis[t, k]·frames[t] to sums[k], in place; frames (T, y, x) and sums (K, y, x) float32."""
    from txm_stream.subspace.projection_loop import add

    pixels = frames[0].size
    weights = np.ascontiguousarray(basis.T, dtype=np.float32)
    flat = np.ascontiguousarray(frames, dtype=np.float32).reshape(len(frames), pixels)
    over_rows(add, (pixels, len(frames)), weights, flat, sums.reshape(len(sums), pixels))
