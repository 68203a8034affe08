"""Reference spectra: several states on one energy grid, in edge jumps, and whether they can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from txm_stream.arrays import AnyArray, Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.edge_step import find_edge_eV, normalise, sort_and_average
from txm_stream.unmixing.reference_files import read_named

_IDENTICAL_DEG = 0.1
"""States closer than this are the same spectrum."""
_MOVED_AT_MOST_EV = 1.0
"""Largest calibration by which a visit may leave the range."""
AMBIGUOUS_DEG = 5.0
"""States closer than this are hardly told apart at the noise of a scan."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """How well states are told apart at given energies, after projecting out the background [1, E].

    ``angles_deg`` (L, L) between pairs; ``separation_deg`` (L,) of each state from the span of all others;
    ``error_per_noise`` (L,): standard error of an abundance for noise of one edge jump per energy;
    ``ambiguous``: pairs closer than 5°, closest first.
    """

    names: tuple[str, ...]
    angles_deg: Matrix
    separation_deg: Vector
    error_per_noise: Vector
    ambiguous: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class References:
    """Reference spectra of L chemical states.

    Attributes
    ----------
    names
        One per state.
    energies_eV
        (E,) sorted, unique, in eV; all states cover all of it.
    mu
        (E, L) absorption in edge jumps: 0 below the edge, about 1 far above it.
    """

    names: tuple[str, ...]
    energies_eV: Vector
    mu: Matrix

    def __post_init__(self) -> None:
        energies, mu = np.asarray(self.energies_eV, np.float64), np.asarray(self.mu, np.float64)
        if mu.ndim != 2 or mu.shape != (len(energies), len(self.names)):
            raise BadReferenceError(
                f"references have shape {mu.shape}, expected (energies, states) = ({len(energies)}, {len(self.names)})"
            )
        if len(energies) < 2 or not np.isfinite(mu).all() or not np.isfinite(energies).all():
            raise BadReferenceError("references need at least 2 energies and finite values; drop the NaN rows")
        if (np.diff(energies) <= 0).any():
            energies, mu = sort_and_average(energies, mu)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "energies_eV", energies)
        object.__setattr__(self, "mu", mu)

    @property
    def range_eV(self) -> tuple[float, float]:
        """Covered range in eV."""
        return float(self.energies_eV[0]), float(self.energies_eV[-1])

    @property
    def edge_eV(self) -> float:
        """Energy in eV where the mean spectrum first crosses 0.5; its steepest rise where it never does."""
        mean = self.mu.mean(axis=1)
        up = np.flatnonzero((mean[:-1] < 0.5) & (mean[1:] >= 0.5))
        if not len(up):
            return find_edge_eV(self.energies_eV, mean)
        i = int(up[0])
        fraction = (0.5 - mean[i]) / (mean[i + 1] - mean[i])
        return float(self.energies_eV[i] + fraction * (self.energies_eV[i + 1] - self.energies_eV[i]))

    def at(self, energies_eV: AnyArray, shift_eV: float = 0.0) -> Matrix:
        """Interpolate the spectra to energies in eV; NaN rows outside the covered range.

        Parameters
        ----------
        energies_eV
            (T,), in any order, with repeats.
        shift_eV
            Calibration in eV that is *added to the energies given* before the spectra are looked up: positive if
            the monochromator reads too low. An energy that is covered as given and leaves the range by no more than
            1 eV through the shift takes the value at the end: a calibration costs no visit.

        Returns
        -------
        ndarray
            (T, L) float64 in edge jumps. PCHIP: no overshoot, never extrapolated.
        """
        from scipy.interpolate import PchipInterpolator

        given = np.asarray(energies_eV, dtype=np.float64)
        wanted = given + shift_eV
        low, high = self.range_eV
        slack = np.where((given >= low - 1e-6) & (given <= high + 1e-6), _MOVED_AT_MOST_EV, 1e-6)
        inside = (wanted >= low - slack) & (wanted <= high + slack)
        values = np.full((len(wanted), len(self.names)), np.nan)
        with np.errstate(over="ignore"):  # harmonic means of slopes near zero
            interpolate = PchipInterpolator(self.energies_eV, self.mu, axis=0, extrapolate=False)
            values[inside] = interpolate(np.clip(wanted[inside], low, high))
        return values

    def subset(self, states: Sequence[str | int]) -> References:
        """Return only the states given by name or index, in that order; the grid stays.

        Raises
        ------
        BadReferenceError
            A state is not there, or none is given.
        """
        indices = [self.names.index(_name(self.names, state)) for state in states]
        if not indices:
            raise BadReferenceError(f"no reference chosen; there are: {', '.join(self.names)}")
        return References(tuple(self.names[i] for i in indices), self.energies_eV, self.mu[:, indices])

    def conditioning(self, energies_eV: AnyArray, *, shift_eV: float = 0.0) -> Conditioning:
        """Report which states cannot be told apart at these energies (T,) in eV.

        Raises
        ------
        BadReferenceError
            Two states are the same there, one is a mixture of the others, or too few energies are covered.
        """
        energies = np.asarray(energies_eV, dtype=np.float64)
        matrix = self.at(energies, shift_eV=shift_eV)
        covered = np.isfinite(matrix[:, 0])
        distinct, states = len(np.unique(energies[covered])), len(self.names)
        if distinct < states + 2:
            low, high = self.range_eV
            raise BadReferenceError(
                f"references cover {distinct} distinct energies of the scan, {states} states and a linear background "
                f"need {states + 2}; the references span {low:.1f}–{high:.1f} eV"
            )
        axis = energies[covered] - energies[covered].mean()
        nuisance = np.linalg.qr(np.stack([np.ones_like(axis), axis / np.abs(axis).max()], axis=1))[0]
        matrix = matrix[covered] - nuisance @ (nuisance.T @ matrix[covered])
        norms = np.linalg.norm(matrix, axis=0)
        if (norms < 1e-6).any():
            flat = ", ".join(name for name, norm in zip(self.names, norms, strict=True) if norm < 1e-6)
            raise BadReferenceError(f"{flat}: nothing but background at these energies; measure across the edge")
        angles = _angles_deg(matrix / norms)
        separation = np.array([_from_span_deg(matrix / norms, j) for j in range(states)])
        close = sorted((angles[i, j], i, j) for i in range(states) for j in range(i + 1, states))
        if close and close[0][0] < _IDENTICAL_DEG:
            first, second = self.names[close[0][1]], self.names[close[0][2]]
            raise BadReferenceError(
                f"references {first!r} and {second!r} are the same spectrum at these {distinct} energies "
                f"({close[0][0]:.2g}° apart); leave one out or add energies where they differ"
            )
        if separation.min() < _IDENTICAL_DEG:
            worst = self.names[int(separation.argmin())]
            raise BadReferenceError(
                f"reference {worst!r} is a mixture of the others at these {distinct} energies; leave it out"
            )
        errors = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
        near = tuple((self.names[i], self.names[j]) for angle, i, j in close if angle < AMBIGUOUS_DEG)
        return Conditioning(self.names, angles, separation, errors, near)


def load_references(
    paths: Sequence[Path | str] | Path | str, *, columns: Sequence[str | int] | None = None
) -> References:
    """Read and normalise reference spectra: one file per state, or one library with many columns.

    Parameters
    ----------
    paths
        Athena ``.nor`` / ``.prj``, XDI, or text columns in eV or keV.
    columns
        States to keep, by name or index (from 0) over all files; default all.

    Returns
    -------
    References
        On the union of all energies inside the range that every kept state covers.

    Raises
    ------
    BadReferenceError
        A file cannot be read, a spectrum has no edge, the ranges do not overlap, or a column is not there.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise BadReferenceError("no reference file given; give one file per state or one library")
    found = read_named([Path(path) for path in files])
    names = list(found) if columns is None else [_name(found, column) for column in columns]
    if not names:
        raise BadReferenceError(f"no column chosen; there are: {', '.join(found)}")
    steps = [normalise(found[n].energies_eV, found[n].mu, name=f"reference {n!r}", raw=found[n].raw) for n in names]
    low, high = max(s.energies_eV[0] for s in steps), min(s.energies_eV[-1] for s in steps)
    grid = np.unique(np.concatenate([s.energies_eV for s in steps]).round(4))
    grid = grid[(grid >= low) & (grid <= high)]
    if len(grid) < 2:
        ranges = ", ".join(
            f"{name} {s.energies_eV[0]:.1f}–{s.energies_eV[-1]:.1f}" for name, s in zip(names, steps, strict=True)
        )
        raise BadReferenceError(f"the references have no range in common ({ranges} eV); give spectra of one edge")
    mu = np.stack([References(("",), s.energies_eV, s.mu[:, None]).at(grid)[:, 0] for s in steps], axis=1)
    return References(tuple(names), grid, mu)


def _name(found: Iterable[str], column: str | int) -> str:
    names = list(found)
    if isinstance(column, int) and -len(names) <= column < len(names):
        return names[column]
    if isinstance(column, str) and column in names:
        return column
    raise BadReferenceError(f"no reference column {column!r}; there are: {', '.join(names)}")


def _angles_deg(unit: Matrix) -> Matrix:
    """Angles between unit columns, accurate for small ones."""
    gaps = np.linalg.norm(unit[:, :, None] - unit[:, None, :], axis=0)
    angles: Matrix = np.degrees(2.0 * np.arcsin(np.clip(gaps / 2.0, 0.0, 1.0)))
    return angles


def _from_span_deg(unit: Matrix, j: int) -> float:
    others = np.delete(unit, j, axis=1)
    if not others.shape[1]:
        return 90.0
    basis = np.linalg.svd(others, full_matrices=False)
    span = basis[0][:, basis[1] > 1e-9 * basis[1][0]]
    rest = unit[:, j] - span @ (span.T @ unit[:, j])
    return float(np.degrees(np.arcsin(np.clip(np.linalg.norm(rest), 0.0, 1.0))))
