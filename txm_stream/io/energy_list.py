"""Energy lists: one number per line, or a column of a table, in eV or keV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from txm_stream.arrays import Vector
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.unmixing.reference_files import energies_in_eV, parse_table, read_text


def read_energies(path: Path | str) -> Vector:
    """Read photon energies (T,) in eV, in the order of the file.

    The column named "energy" counts, else the first one; a single row is a list. Values that all lie below 100 are
    keV. Repeats and any order are legal.

    Raises
    ------
    BadStackError
        No such file, no numbers, or values that are no energies.
    """
    path = Path(path)
    try:
        table = parse_table(read_text(path), path)
    except BadReferenceError as error:
        message = str(error).split("; allowed")[0]
        raise BadStackError(f"energy list {message}; give one energy per line, in eV or keV") from error
    names = [name.lower() for name in table.names]
    column = next((index for index, name in enumerate(names) if name.startswith(("energy", "eng", "x_eng"))), 0)
    one_row = len(table.values) == 1 and table.values.shape[1] > 2
    return checked_energies(table.values[0] if one_row else table.values[:, column], where=str(path))


def checked_energies(energies: object, *, where: str) -> Vector:
    """Return energies (T,) as float64 in eV.

    Raises
    ------
    BadStackError
        Values that are not finite and positive.
    """
    values = np.atleast_1d(np.asarray(energies, dtype=np.float64)).ravel()
    if not len(values) or not np.isfinite(values).all() or (values <= 0).any():
        raise BadStackError(f"{where}: energies must be finite and positive, in eV or keV; got {values[:5]}")
    return energies_in_eV(values)
