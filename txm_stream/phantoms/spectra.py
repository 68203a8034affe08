"""Parametric Ni K-edge spectra of the oxidation states, in edge-jump units, and energy lists to measure them at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError, BadStackError

REFERENCE_ENERGY_EV = 8345.0
"""Energy E0 at which the background is anchored: e = (E - E0) / 100 eV."""

_FIRST_EV, _EDGE_FROM_EV, _EDGE_TO_EV, _LAST_EV = 8250.0, 8335.0, 8365.0, 8450.0
_WAVENUMBER = 0.5123  # photoelectron wavenumber in 1/Angstrom per sqrt(eV)


@dataclass(frozen=True)
class State:
    """One chemical state: an error-function edge, a white line, and damped EXAFS-like oscillations.

    Energies and widths in eV; ``white_line`` and ``exafs`` are heights in units of the edge jump,
    ``distance`` is the scattering path in Angstrom.
    """

    name: str
    edge_eV: float
    width_eV: float
    white_line: float
    white_line_offset_eV: float
    white_line_width_eV: float
    exafs: float
    distance: float
    phase: float

    def mu(self, energies_eV: ArrayLike) -> Vector:
        """Return the absorption at ``energies_eV`` (T,): 0 far below the edge, 1 far above it."""
        energy = np.asarray(energies_eV, dtype=np.float64) - self.edge_eV
        edge = 0.5 * (1 + erf(energy / (np.sqrt(2) * self.width_eV)))
        line = np.exp(-0.5 * ((energy - self.white_line_offset_eV) / self.white_line_width_eV) ** 2)
        above = np.maximum(energy, 0.0)
        k = _WAVENUMBER * np.sqrt(above)
        wave = np.sin(2 * k * self.distance + self.phase) * np.exp(-0.06 * k**2) * (1 - np.exp(-above / 12))
        return np.asarray(edge + self.white_line * line + self.exafs * wave, dtype=np.float64)


@dataclass(frozen=True)
class Spectra:
    """The states of a sample; calling it with energies in eV (T,) gives mu (T, L) in edge-jump units."""

    states: tuple[State, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the states, lowest edge first."""
        return tuple(state.name for state in self.states)

    def __call__(self, energies_eV: ArrayLike) -> Matrix:
        energies = np.atleast_1d(np.asarray(energies_eV, dtype=np.float64))
        return np.stack([state.mu(energies) for state in self.states], axis=1)


_NICKEL = (
    State("Ni0", 8338.4, 2.2, 0.16, 4.0, 2.6, 0.060, 2.49, 0.3),
    State("Ni1+", 8341.2, 2.0, 0.30, 3.6, 2.4, 0.070, 2.20, 0.9),
    State("Ni2+", 8344.0, 1.7, 0.65, 3.0, 2.1, 0.090, 2.07, 1.2),
    State("Ni3+", 8347.0, 1.8, 0.50, 3.2, 2.3, 0.080, 1.96, 1.4),
    State("Ni4+", 8350.0, 1.9, 0.42, 3.6, 2.6, 0.075, 1.88, 1.7),
)
_CHOICE = {2: (2, 3), 3: (2, 3, 4), 4: (1, 2, 3, 4), 5: (0, 1, 2, 3, 4)}


def nickel_states(n_states: int = 2) -> Spectra:
    """Return 2 to 5 nickel states whose edges lie 2.8 to 3 eV apart; two states are Ni2+ and Ni3+.

    Raises
    ------
    BadReferenceError
        ``n_states`` is not 2, 3, 4 or 5.
    """
    if n_states not in _CHOICE:
        raise BadReferenceError(f"n_states is {n_states}, allowed are 2 to 5; there are five nickel states")
    return Spectra(tuple(_NICKEL[index] for index in _CHOICE[n_states]))


def nickel_energies(n: int) -> Vector:
    """Return ``n`` energies in eV (n,), ascending, 8250 to 8450 eV, as a TXM-XANES scan lists them.

    A seventh lies before 8335 eV, six tenths through the edge up to 8365 eV (at most 1 eV apart from
    n = 52 on), the rest above.

    Raises
    ------
    BadStackError
        ``n`` is below 5.
    """
    if n < 5:
        raise BadStackError(f"{n} energies asked for, at least 5 are needed to see an edge over a sloping background")
    below = max(1, round(n / 7))
    edge = max(2, round(0.6 * n))
    above = n - below - edge
    parts = (
        np.linspace(_FIRST_EV, _EDGE_FROM_EV, below, endpoint=False),
        np.linspace(_EDGE_FROM_EV, _EDGE_TO_EV, edge, endpoint=False),
        np.linspace(_LAST_EV, _EDGE_TO_EV, above)[::-1],
    )
    return np.asarray(np.round(np.concatenate(parts), 2), dtype=np.float64)
