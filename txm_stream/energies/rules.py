"""What a beamline insists on: where energies may lie, how they are approached, when flats are due, what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from txm_stream.arrays import AnyArray, Vector
from txm_stream.errors import BadProfileError
from txm_stream.flat_field import LEAST_FLATS
from txm_stream.profile import Steering
from txm_stream.unmixing.references import References

SAME_EV = 0.05
"""Closer energies are the same energy."""
NEAR_EV = 0.3
"""A planned energy so close to a visited one is not visited again."""
MOST_CANDIDATES = 500
_BEFORE_EV, _AFTER_EV = 60.0, 120.0
_FINE_EV = (-20.0, 60.0)


def allowed_windows(
    steering: Steering, *, planned_eV: Sequence[float] = (), references: References | None = None
) -> tuple[tuple[float, float], ...]:
    """Return the windows (lowest, highest) in eV in which a scan may be, sorted.

    Raises
    ------
    BadProfileError
        There are neither windows nor planned energies nor references.
    """
    if steering.windows_eV:
        return tuple(sorted(steering.windows_eV))
    if len(planned_eV) > 1 and max(planned_eV) > min(planned_eV):
        return ((float(min(planned_eV)), float(max(planned_eV))),)
    if references is not None:
        low, high = references.range_eV
        return ((max(low, references.edge_eV - _BEFORE_EV), min(high, references.edge_eV + _AFTER_EV)),)
    raise BadProfileError(
        "nothing says where energies may lie; set steering.windows_eV, or plan at least 2 energies, or give references"
    )


def is_allowed(energy_eV: float, windows_eV: Sequence[tuple[float, float]]) -> bool:
    """Whether an energy in eV lies in one of the windows."""
    return any(low - SAME_EV <= energy_eV <= high + SAME_EV for low, high in windows_eV)


def candidate_energies(
    windows_eV: Sequence[tuple[float, float]], *, step_eV: float, edge_eV: float | None = None
) -> Vector:
    """Return the energies to choose from (C,) in eV, ascending: a grid in every window, with its ends.

    Where that would be more than 500, the grid is coarser from 20 eV before and 60 eV after the edge on.
    """
    parts = [np.append(np.arange(low, high, step_eV), high) for low, high in windows_eV]
    every = np.unique(np.concatenate(parts).round(4))
    if len(every) <= MOST_CANDIDATES:
        return every
    centre = float(np.median(every)) if edge_eV is None else edge_eV
    fine = (every >= centre + _FINE_EV[0]) & (every <= centre + _FINE_EV[1])
    ends = np.isin(every, np.array(windows_eV).round(4))
    rest = np.flatnonzero(~fine & ~ends)
    room = max(MOST_CANDIDATES - int((fine | ends).sum()), 2)
    kept = rest[np.linspace(0, len(rest) - 1, min(room, len(rest))).round().astype(int)]
    return np.asarray(every[np.sort(np.concatenate([np.flatnonzero(fine | ends), kept]))], dtype=np.float64)


def far_enough(candidates_eV: Vector, visited_eV: AnyArray, least_step_eV: float) -> AnyArray:
    """Return which candidates (C,) are at a visited energy, or at least ``least_step_eV`` from every one."""
    if not len(visited_eV) or least_step_eV <= 0:
        return np.ones(len(candidates_eV), dtype=bool)
    gap = np.abs(candidates_eV[:, None] - np.asarray(visited_eV)[None]).min(axis=1)
    return np.asarray((gap < SAME_EV) | (gap >= least_step_eV - 1e-9))


def flats_due(steering: Steering, energies_eV: Vector, *, flats_eV: Sequence[float]) -> AnyArray:
    """Return after which visits at energies in eV (C,) a flat is due, with flats taken at ``flats_eV`` so far.

    ``flats = "new"``: at an energy that has none, and until there are enough to be pooled.
    """
    if steering.flats != "new" or len(flats_eV) < LEAST_FLATS:
        return np.full(len(energies_eV), steering.flats != "none")
    return np.asarray(np.abs(energies_eV[:, None] - np.asarray(flats_eV)[None]).min(axis=1) >= SAME_EV)


def wants_flat(steering: Steering, energy_eV: float, *, flats_eV: Sequence[float]) -> bool:
    """Whether a flat is due after a visit, see :func:`flats_due`."""
    return bool(flats_due(steering, np.array([energy_eV]), flats_eV=flats_eV)[0])


def move_seconds(steering: Steering, from_eV: float | None, to_eV: AnyArray) -> Vector:
    """Return the time in s of moves to energies (C,) in eV, the detour of the backlash included; 0 where it is."""
    to = np.atleast_1d(np.asarray(to_eV, dtype=np.float64))
    if from_eV is None:
        return np.full(to.shape, steering.move_s)
    way = np.abs(to - from_eV)
    seconds = steering.move_s + steering.move_s_per_eV * way
    if steering.backlash_eV:
        detour = steering.move_s + 2 * steering.move_s_per_eV * steering.backlash_eV
        seconds = seconds + np.where(to < from_eV, detour, 0.0)
    return np.where(way < SAME_EV, 0.0, seconds)
