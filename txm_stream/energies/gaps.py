"""Energies where nothing is known of the spectra: the gap between visits in which the images change most is halved."""

from __future__ import annotations

import itertools

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector


def halve_widest_gap(
    candidates_eV: Vector,
    visited_eV: AnyArray,
    change: Matrix | None = None,
    *,
    axis: AnyArray | None = None,
    least_eV: float = 0.0,
) -> float | None:
    """Return the candidate nearest to the middle of the gap that says most, in eV; ``None`` where no gap is left.

    Parameters
    ----------
    candidates_eV
        (C,) ascending.
    visited_eV
        (n,) energies of the visits, in any order, repeats allowed.
    change
        (n, n) rms difference between the denoised images of two visits; default: all gaps alike.
    axis
        (C,) ascending: on which gaps are measured, for instance places in a list of energies; default: in eV.
    least_eV
        The new energy keeps this distance from the visited ones.

    Notes
    -----
    A gap of width w whose ends differ by d counts d √w: linear interpolation across it errs in proportion to d where
    the spectrum has an edge and to w² d where it has not.
    """
    visited = np.asarray(visited_eV, dtype=np.float64)
    places = candidates_eV if axis is None else np.asarray(axis, dtype=np.float64)
    ends = np.interp(visited, candidates_eV, places)
    order = np.argsort(visited, kind="stable")
    best: tuple[float, float] | None = None
    least = max(least_eV, 1e-6)
    for left, right in itertools.pairwise(order):
        inside = (candidates_eV > visited[left] + least) & (candidates_eV < visited[right] - least)
        if not inside.any():
            continue
        step = 1.0 if change is None else float(change[left, right])
        score = max(step, 1e-12) * np.sqrt(max(ends[right] - ends[left], 1e-12))
        if best is None or score > best[0]:
            middle = np.argmin(np.abs(places[inside] - (ends[left] + ends[right]) / 2))
            best = score, float(candidates_eV[inside][middle])
    return None if best is None else best[1]


def beyond_background(change: Matrix, energies_eV: AnyArray) -> Matrix:
    """Return differences (n, n) between images less what background and noise do, in quadrature.

    That is how much the images of the two lowest energies differ, which lie before the edge.
    """
    _, lowest = np.unique(np.asarray(energies_eV), return_index=True)
    if len(lowest) < 2:
        return change
    return np.asarray(np.sqrt(np.maximum(change**2 - change[lowest[0], lowest[1]] ** 2, 0.0)))


def image_changes(loadings: AnyArray, components: AnyArray) -> Matrix:
    """Return the rms difference (n, n) between denoised images Σ_k loadings[t, k] components[k] of n visits.

    ``components`` (K, …) may be decimated; pixels that are not finite do not count.
    """
    flat = np.asarray(components, dtype=np.float64).reshape(len(components), -1)
    flat = flat[:, np.isfinite(flat).all(axis=0)]
    gram = flat @ flat.T / max(flat.shape[1], 1)
    loads = np.asarray(loadings, dtype=np.float64)
    inner = loads @ gram @ loads.T
    squares = np.diag(inner)
    return np.asarray(np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * inner, 0.0)))
