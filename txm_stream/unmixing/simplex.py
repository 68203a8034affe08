"""Geometry of endmembers: pixels as points on a plane, their extremes, the largest simplex among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from txm_stream.arrays import Matrix, Vector

_VOTERS = 10_000


def points_on_plane(flat: Matrix, n_states: int, pixels: NDArray[np.intp]) -> tuple[Matrix, NDArray[np.intp]]:
    """Reduce pixels (E, N) to L dimensions and divide each by its strength along the mean.

    Returns the points (L, n) of the ``pixels`` (N,) that have any strength, and which pixels those are.
    """
    vectors = np.linalg.eigh(flat @ flat.T)[1][:, ::-1][:, :n_states]
    reduced = vectors.T @ flat
    mean = reduced.mean(axis=1)
    strength = mean @ reduced / (mean @ mean)
    usable = strength > 0.05
    return reduced[:, usable] / strength[usable], pixels[usable]


def extreme_points(points: Matrix, n_states: int, rng: np.random.Generator) -> list[int]:
    """Return L of the points (L, n): extremes along random directions orthogonal to those found so far."""
    found = np.zeros((n_states, n_states))
    found[-1, 0] = 1.0
    vertices: list[int] = []
    for j in range(n_states):
        direction = rng.standard_normal(n_states)
        direction -= found @ (np.linalg.pinv(found) @ direction)
        direction /= np.linalg.norm(direction)
        vertices.append(int(np.argmax(np.abs(direction @ points))))
        found[:, j] = points[:, vertices[-1]]
    return vertices


def enlarge_simplex(points: Matrix, vertices: list[int]) -> list[int]:
    """Replace vertices of points (L, N) on a plane, one after the other, by those that make the simplex largest.

    The volume is linear in each vertex: the best one is found exactly. Ends where no single exchange helps.
    """
    found = list(vertices)
    corners = points[:, found].copy()
    changed = True
    while changed:
        changed = False
        volume = abs(float(np.linalg.det(corners)))
        for k in range(len(found)):
            trial = corners.copy()
            slopes = np.zeros(len(found))
            for row in range(len(found)):
                trial[:, k] = np.eye(len(found))[row]
                slopes[row] = np.linalg.det(trial)
            volumes = np.abs(slopes @ points)
            best = int(np.argmax(volumes))
            if volumes[best] > volume * (1 + 1e-9):
                found[k], volume, changed = best, float(volumes[best]), True
                corners[:, k] = points[:, best]
    return found


def local_means(points: Matrix, share: float, rng: np.random.Generator) -> Matrix:
    """Return for each of the points (L, n), or of 10 000 of them, the mean over the ``share`` of them nearest to it.

    A few pixels that lie far outside have far neighbours, so that their means do not: none of them becomes a vertex.
    """
    from scipy.spatial import cKDTree

    n_points = points.shape[1]
    chosen = points if n_points <= _VOTERS else points[:, rng.choice(n_points, _VOTERS, replace=False)]
    count = max(2, round(share * chosen.shape[1]))
    near = cKDTree(chosen.T).query(chosen.T, count)[1]
    return np.asarray(chosen[:, near].mean(axis=2), dtype=np.float64)


def nearest_points(points: Matrix, corner: Vector, count: int) -> NDArray[np.intp]:
    """Return the ``count`` of the points (L, n) nearest to a corner (L,)."""
    squared = ((points - corner[:, None]) ** 2).sum(axis=0)
    return np.asarray(np.argpartition(squared, count - 1)[:count], dtype=np.intp)
