"""Pixels beyond the field common to all visits, completed from the visits that saw them and from their neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import minimum_filter, uniform_filter

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack
from txm_stream.subspace.missing import Expected, LoadNoise, complete

REACH_PX = 12
"""Farther away than this a neighbour is taken to say as much as from here."""
_MEAN_PX = 3
_STRONG = 0.25
"""Pixels whose loads are below this fraction of the 98th percentile do not count: there is nothing to miss."""
_FEWEST = 100
_TYPICAL_PX, _APART_PX = 3, 4
_ALIKE_PX = (1.0, 6.0)
"""Deviations are alike over so many px at least, for they are from means over 3 px, and at most."""
_SAMPLE = 10_000
_LEAST = 0.01


@dataclass(frozen=True, eq=False)
class Borders:
    """What is known beyond the common field, and how well.

    ``field`` (y, x): pixels of which enough is known; ``beyond`` (y, x): those P that some visits did not see; ``seen``
    (P,) by how many, in the order of the pixels; ``noise`` of their loads.
    """

    field: Mask
    beyond: Mask
    seen: AnyArray
    noise: LoadNoise

    def growth(self, directions: Matrix) -> tuple[Image, Image]:
        """Return the noise (y, x) of sums over visits over that of complete pixels, and the part shared by neighbours.

        ``directions`` (T, n): weights of the visits in n sums, which count alike. Shared over ``noise.alike_px``.
        """
        whole, shared = self.noise.variance(directions)
        known = np.isfinite(whole)
        growth, common = np.ones(self.field.shape, dtype=np.float32), np.zeros(self.field.shape, dtype=np.float32)
        growth[self.beyond] = np.sqrt(np.where(known, whole, 1.0))
        common[self.beyond] = np.sqrt(np.where(known, shared, 0.0))
        return growth, common


def complete_beyond(
    read: Callable[[int], Image], seen_by: Callable[[int], Mask], used: AnyArray, basis: Matrix, field: Mask
) -> tuple[Image, Borders]:
    """Fill what the visits did not see of the P pixels beyond their common field.

    Parameters
    ----------
    read, seen_by
        Return a whitened registered visit (y, x), and where it measured.
    used
        The visits that count.
    basis
        (T, K) of all visits, orthonormal columns.
    field
        (y, x), a rectangle.

    Returns
    -------
    filled
        (used, P), whitened; pixels in the order of ``beyond``.
    borders
        What is known of them.
    """
    beyond = ~field
    near = near_border(field) & beyond.any()
    outside, close = np.flatnonzero(beyond), np.flatnonzero(near)
    values = np.zeros((len(used), outside.size), dtype=np.float32)
    seen = np.zeros(values.shape, dtype=bool)
    loads = np.zeros((basis.shape[1], close.size), dtype=np.float32)
    for row, visit in enumerate(used):
        image = read(int(visit)).ravel()
        values[row], seen[row] = image[outside], seen_by(int(visit)).ravel()[outside]
        loads += np.outer(basis[visit].astype(np.float32), image[close])
    expected = expected_beyond(_spread(loads, near), field, beyond) if beyond.any() else None
    filled, noise = complete(values, seen, basis[used], expected)
    return filled, Borders(_with(field, noise.known), beyond, seen.sum(axis=0), replace(noise, basis=basis))


def borders_elsewhere(read: Callable[[int], Image], basis: Matrix, field: Mask, seen: Mask) -> Borders:
    """Say what would be known beyond their common field, had the visits measured other strips of the same sample.

    Parameters
    ----------
    read, basis, field
        As in :func:`complete_beyond`; the visits that count are numbered from 0.
    seen
        (visits, y, x): where they would have measured.
    """
    near = near_border(field)
    loads = np.zeros((basis.shape[1], int(near.sum())), dtype=np.float32)
    for visit, row in enumerate(basis.astype(np.float32)):
        loads += np.outer(row, read(visit)[near])
    there = np.asarray(seen.all(axis=0))
    told, expected = _told_near(_spread(loads, near), field), None
    if told is not None:
        which = _nearest(there, ~there)[2]
        expected = Expected(np.zeros((len(loads), which.size)), told.covariance, which, told.alike_px)
    strips = seen[:, ~there]
    _, noise = complete(np.zeros(strips.shape, dtype=np.float32), strips, basis, expected)
    return Borders(_with(there, noise.known), ~there, strips.sum(axis=0), noise)


@dataclass(frozen=True, eq=False)
class Box:
    """A rectangle in an image: its first and last rows and columns."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, field: Mask, margin: int = 0) -> Box:
        """Return the rectangle that a mask (y, x) fills, less a margin."""
        rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
        if not len(rows):
            return cls(0, -1, 0, -1)
        return cls(rows[0] + margin, rows[-1] - margin, columns[0] + margin, columns[-1] - margin)

    @property
    def shortest(self) -> int:
        """Length of its shorter side in px."""
        return min(self.bottom - self.top, self.right - self.left) + 1


def near_border(field: Mask) -> Mask:
    """Return the pixels of a rectangular field (y, x) that tell about its surroundings."""
    near = field.copy()
    inner = Box.of(field, 2 * REACH_PX)
    near[inner.top : max(inner.bottom + 1, inner.top), inner.left : max(inner.right + 1, inner.left)] = False
    return near


def expected_beyond(loads: Stack, field: Mask, beyond: Mask) -> Expected | None:
    """Say what loads to expect ``beyond`` (y, x) a rectangular ``field``, and how far they will be off.

    Parameters
    ----------
    loads
        (K, y, x) with noise of unit variance, right where :func:`near_border` says.

    Returns
    -------
    Expected or None
        The mean over 3 × 3 px about the nearest pixel that has such neighbours, and the covariance of what loads
        deviate from a mean as far away, less their own noise: from pixels with signal near the border. ``None``: the
        field is too small to tell.
    """
    told = _told_near(loads, field)
    if told is None:
        return None
    rows, columns, away = _nearest(field, beyond)
    return Expected(told.mean[:, rows, columns].astype(np.float64), told.covariance, away, told.alike_px)


class _Near(NamedTuple):
    """Means (K, y, x), the covariance (D, K, K) of what loads deviate from them, and over how far that is alike."""

    mean: Stack
    covariance: Matrix
    alike_px: float


def _told_near(loads: Stack, field: Mask) -> _Near | None:
    """Return what pixels near the border of a field say of those beyond it; ``None`` of a field too small to tell."""
    if Box.of(field, _MEAN_PX // 2).shortest <= 2 * REACH_PX:
        return None
    mean = np.stack([uniform_filter(image, size=_MEAN_PX, mode="nearest") for image in loads])
    near = near_border(field)
    strength = np.where(near, np.sqrt((loads**2).sum(axis=0)), np.float32(0))
    strong = near & (strength > _STRONG * np.percentile(strength[near], 98.0))
    rows, columns = np.nonzero(strong if strong.sum() >= _FEWEST else near)
    thinned = slice(None, None, -(-len(rows) // _SAMPLE))
    told = _Told(loads, mean, near, minimum_filter(near, _MEAN_PX, mode="constant"), rows[thinned], columns[thinned])
    covariance = np.stack([told.covariance(distance) for distance in range(1, REACH_PX + 1)])
    return _Near(mean, covariance, told.alike_px(covariance[_TYPICAL_PX - 1]))


def _nearest(field: Mask, beyond: Mask) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return the pixels (P,), (P,) whose means lie nearest to those beyond a field, and which covariance holds (P,)."""
    core = Box.of(field, _MEAN_PX // 2)
    y, x = np.nonzero(beyond)
    rows, columns = np.clip(y, core.top, core.bottom), np.clip(x, core.left, core.right)
    away = np.round(np.hypot(y - rows, x - columns)).astype(np.intp)
    return rows, columns, np.clip(away, 1, REACH_PX) - 1


def _spread(loads: AnyArray, near: Mask) -> Stack:
    """Return loads (K, n) of some pixels as images (K, y, x), 0 elsewhere."""
    images = np.zeros((len(loads), *near.shape), dtype=np.float32)
    images[:, near] = loads
    return images


def _with(field: Mask, known: AnyArray) -> Mask:
    """Return the field (y, x) and those of the pixels beyond it (P,) that are known."""
    whole = field.copy()
    whole[~field] = known
    return whole


@dataclass(frozen=True, eq=False)
class _Told:
    """Pixels (rows, columns) with signal, to be compared with means about pixels that lie apart.

    ``loads`` and ``mean`` (K, y, x), right in the pixels ``known`` and ``centres`` (y, x).
    """

    loads: Stack
    mean: Stack
    known: Mask
    centres: Mask
    rows: AnyArray
    columns: AnyArray

    def covariance(self, distance: int) -> Matrix:
        """Return the covariance (K, K) of what loads deviate from means so many px apart, less their own noise."""
        parts = [self._deviations(step, (0, 0))[0] for step in _steps(distance)]
        deviations = np.concatenate(parts, axis=1)
        values, axes = np.linalg.eigh(deviations @ deviations.T / deviations.shape[1] - np.eye(len(self.loads)))
        return np.asarray((axes * np.maximum(values, _LEAST)) @ axes.T)

    def alike_px(self, covariance: Matrix) -> float:
        """Return s such that the deviations of two pixels r apart along a border are alike by exp(−r²/4s²).

        From pixels so far apart that they share neither noise nor means; within bounds.
        """
        weights, alike = np.linalg.inv(covariance), []
        for step in _steps(_TYPICAL_PX):
            here, there = self._deviations(step, (_APART_PX, 0) if step[0] == 0 else (0, _APART_PX))
            alike += [np.einsum("kn,kl,ln->n", here, weights, there, optimize=True) / len(weights)]
        share = float(np.clip(np.concatenate(alike).mean(), 1e-6, 1 - 1e-6))
        return float(np.clip(_APART_PX / (2 * np.sqrt(-np.log(share))), *_ALIKE_PX))

    def _deviations(self, step: tuple[int, int], apart: tuple[int, int]) -> tuple[Matrix, Matrix]:
        """Return how pixels, and those that lie ``apart`` from them, deviate from the means a step away (K, n)."""
        shape = self.known.shape
        places = []
        for dy, dx, allowed in ((*apart, self.known), (*step, self.centres), (*np.add(step, apart), self.centres)):
            y, x = self.rows + dy, self.columns + dx
            inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            places.append(inside & allowed[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)])
        good = np.logical_and.reduce(places)
        y, x = self.rows[good], self.columns[good]
        found = []
        for dy, dx in ((0, 0), apart):
            away = self.mean[:, y + dy + step[0], x + dx + step[1]]
            found.append((self.loads[:, y + dy, x + dx] - away).astype(np.float64))
        return found[0], found[1]


def _steps(distance: int) -> tuple[tuple[int, int], ...]:
    return (distance, 0), (-distance, 0), (0, distance), (0, -distance)
