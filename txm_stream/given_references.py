"""References for a measured stack: as named, reduced to what the data support, and doubts about the fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError
from txm_stream.results import Result, Snapshot
from txm_stream.unmixing.choose_references import choose_references
from txm_stream.unmixing.references import References, load_references

LARGE_SHIFT_EV = 1.0
_PIXELS = 300
ReferenceFiles = Sequence[Path | str] | Path | str | References


def any_given(references: ReferenceFiles) -> bool:
    return isinstance(references, (str, Path, References)) or len(references) > 0


def load_given(given: ReferenceFiles) -> tuple[References | None, bool]:
    """Load references; tell whether they are a library to choose from (more states than files, none named)."""
    if isinstance(given, References):
        return given, False
    entries = [str(entry) for entry in ([given] if isinstance(given, (str, Path)) else given)]
    if not entries:
        return None, False
    files, wanted = [], []
    for entry in entries:
        file, _, columns = entry.partition("::")
        files.append(file)
        names = [name.strip() for name in columns.split(",") if name.strip()]
        wanted += names if names else [] if len(entries) == 1 else [*load_references(file).names]
    loaded = (
        load_references(files, columns=wanted or None) if any("::" in e for e in entries) else load_references(files)
    )
    return loaded, len(loaded.names) > len(files) and not any("::" in entry for entry in entries)


def reduce_library(library: References, energies_eV: Vector, snapshot: Snapshot) -> tuple[References, str]:
    """Choose states of a library by the denoised spectra of the live view."""
    spectra, noise = spectra_inside(snapshot)
    choice = choose_references(library, energies_eV, spectra, sigma=noise)
    note = (
        f"the library has {len(library.names)} columns, more than these energies or data tell apart; used: "
        f"{', '.join(choice.names)} (chosen by the data; they leave {100 * choice.misfit[-1]:.1f} % of the signal "
        "unexplained); name columns by FILE::name1,name2"
    )
    return library.subset(choice.names), note


def spectra_inside(snapshot: Snapshot) -> tuple[Matrix, Vector]:
    """Return denoised spectra (T, M) of about 300 pixels inside the particles; NaN rows for rejected visits."""
    if snapshot.components is None or snapshot.loadings is None or snapshot.noisy is None:
        raise BadReferenceError("no frame can be used to choose references; check the stack")
    components = snapshot.components.reshape(len(snapshot.components), -1).astype(np.float64)
    known = np.isfinite(snapshot.noisy).ravel()
    strength = np.where(known, components[0], -np.inf)
    inside = np.flatnonzero(strength > 0.25 * np.percentile(strength[known], 98))
    pixels = inside[:: max(1, len(inside) // _PIXELS)]
    loads = snapshot.loadings.astype(np.float64)
    spectra = loads @ components[:, pixels]
    spectra[~loads.any(axis=1)] = np.nan
    noise = np.array([row.sigma for row in snapshot.rows])
    return spectra, np.where(noise > 0, noise, 1.0)


def hard_to_tell(references: References, energies_eV: Vector) -> list[str]:
    """Warn of states that are close to each other at these energies; errors are left to the fit."""
    try:
        pairs = references.conditioning(energies_eV).ambiguous
    except BadReferenceError:
        return []
    return [
        f"references {a} and {b} are less than 5° apart at these energies: they are hardly told apart" for a, b in pairs
    ]


def doubts_about(result: Result) -> list[str]:
    """Say where the fit contradicts its assumptions: a large energy shift."""
    doubts = []
    shift = float(result.provenance.get("energy_shift_eV", 0.0))
    if abs(shift) > LARGE_SHIFT_EV:
        doubts.append(f"the references fit best {shift:+.2f} eV away: check the energy calibration")
    return doubts
