"""Energies where nothing is known of the spectra: the gap between visits in which the images change most is halved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.energies.rules import is_allowed


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


def start_without_references(
    candidates_eV: Vector, planned_eV: Sequence[float], windows_eV: Sequence[tuple[float, float]]
) -> list[float]:
    """Return the first visits in eV: above the edge, if the plan shows where it is, then both ends.

    Two in the half of the pre-edge that is farther from the edge, two beyond it: normalisation needs them.
    """
    inside = [energy for energy in planned_eV if is_allowed(energy, windows_eV)] or list(candidates_eV)
    low, high = float(candidates_eV[0]), float(candidates_eV[-1])
    before, beyond = (float(np.quantile(inside, share)) for share in (0.25, 0.75))
    wanted = [beyond, low, low + 0.3 * (before - low), (beyond + high) / 2, high]
    nearest = [float(candidates_eV[np.argmin(np.abs(candidates_eV - energy))]) for energy in wanted]
    return list(dict.fromkeys(nearest))
