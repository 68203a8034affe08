"""Read a measured stack from any file we know, in (energy, y, x), with its energies and the meaning of its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from txm_stream.errors import BadStackError
from txm_stream.io.energy_list import checked_energies, read_energies
from txm_stream.io.hdf5_stack import RawStack, find_stack
from txm_stream.io.measured_stack import MeasuredStack, divided, energy_axis_first, guess_signal, open_beam_i0
from txm_stream.io.tiff_stack import read_tiff
from txm_stream.profile import Signal

_HDF5 = (".h5", ".hdf5", ".hdf", ".nxs", ".nx", ".he5")
_TIFF = (".tif", ".tiff")
_LARGEST_TRANSMISSION = 2.0
"""Transmissions whose 95th percentile lies above this were not divided by I0."""


def read_stack(
    path: Path | str, *, energies: Path | str | ArrayLike | None = None, signal: Signal | None = None
) -> MeasuredStack:
    """Read a measured stack.

    Parameters
    ----------
    path
        HDF5 (DataExchange, NXdata / NXstxm, PyXAS, or a 3-D array beside an energy list; ``file.h5::/path`` names
        the dataset) or TIFF.
    energies
        (T,) in eV or keV, or a file for :func:`.read_energies`; default: those of the file, and for a TIFF a text
        file beside it: ``NAME_energy.txt``, ``NAME.txt``, or NAME with its last ``stack`` replaced by ``energy``.
    signal
        What the values are; default: what the file says, else see :func:`.guess_signal`.

    Returns
    -------
    MeasuredStack
        Transmission is divided by the I0 of the file or, where there is none and the values are counts, by the open
        beam of each frame (the brightest 5 % of the pixels).

    Raises
    ------
    BadStackError
        The file cannot be read, holds no stack, or the energies do not fit it.
    """
    file, _, dataset = str(path).partition("::")
    source = Path(file)
    if not source.is_file():
        raise BadStackError(f"{source}: no such file; check the path")
    suffix = source.suffix.lower()
    if suffix in _HDF5:
        raw = find_stack(source, dataset or None)
    elif suffix in _TIFF:
        data, pixel_nm = read_tiff(source)
        raw = RawStack(data, "", pixel_nm=pixel_nm)
        energies = _list_beside(source) if energies is None else energies
    else:
        raise BadStackError(f"{source}: unknown format {suffix!r}; allowed: HDF5 {', '.join(_HDF5)}, TIFF")
    name = f"{source.name}::/{raw.path}" if raw.path else source.name
    return _assembled(raw, energies, signal, name)


def _assembled(
    raw: RawStack, energies: Path | str | ArrayLike | None, signal: Signal | None, name: str
) -> MeasuredStack:
    given = raw.energies if energies is None else energies
    if given is None:
        raise BadStackError(f"{name}: no energies in the file; give a list (one energy per line, in eV or keV)")
    energies_eV = read_energies(given) if isinstance(given, (str, Path)) else checked_energies(given, where=name)
    if raw.data.dtype.kind not in "iuf":
        raise BadStackError(f"{name}: values of type {raw.data.dtype}; give integers or real numbers")
    data = raw.data
    if raw.energy_axis is not None and data.shape[raw.energy_axis] == len(energies_eV):
        data = np.moveaxis(data, raw.energy_axis, 0)
    frames, note = energy_axis_first(data, len(energies_eV), name=name)
    notes = [note] if note else []
    flats, darks = (
        _fitting(a, frames.shape[1:], what, name) for a, what in ((raw.flats, "flats"), (raw.darks, "darks"))
    )
    if signal is None:
        signal, reason = _named_signal(raw, flats is not None) or guess_signal(
            frames, energies_eV, has_flats=flats is not None
        )
        notes.append(f"signal taken as {signal}: {reason}")
    if signal == "transmission":
        if raw.i0 is not None:
            frames, note = divided(frames, raw.i0, name=name)
            notes.append(note)
        elif float(np.nanpercentile(frames[0], 95.0)) > _LARGEST_TRANSMISSION:
            frames, note = divided(frames, open_beam_i0(frames), name=name)
            notes.append(f"{note} of the open beam, the brightest 5 % of the pixels")
    if signal != "counts":
        frames, flats, darks = np.ascontiguousarray(frames, dtype=np.float32), None, None
    if not np.isfinite(frames).any():
        raise BadStackError(f"{name}: no finite value in it; check the file")
    return MeasuredStack(frames, energies_eV, signal, flats, darks, raw.pixel_nm, name, tuple(notes))


def _named_signal(raw: RawStack, has_flats: bool) -> tuple[Signal, str] | None:
    """Decide by the name of the dataset, or by an I0 beside it."""
    label = raw.path.rsplit("/", 1)[-1].lower()
    if label == "img_xanes" and raw.data.dtype.kind == "f" and np.nanmedian(raw.data[0]) < 5.0:
        return "transmission", "PyXAS stores normalised images"
    names: tuple[tuple[str, Signal], ...] = (
        ("transm", "transmission"),
        ("optical_density", "optical-density"),
        ("absor", "optical-density"),
        ("noisy", "optical-density"),
        ("denoised", "optical-density"),
        ("fluor", "fluorescence"),
    )
    for part, signal in names:
        if part in label:
            return signal, f"the dataset is called {label!r}"
    if raw.i0 is not None and not has_flats:
        return "transmission", "the file has an I0 beside the stack"
    return None


def _fitting(
    images: object, shape: tuple[int, ...], what: str, name: str
) -> np.ndarray[tuple[int, ...], np.dtype] | None:
    if images is None:
        return None
    array = np.asarray(images)
    if array.ndim == 4:
        array = array.mean(axis=1, dtype=np.float64).astype(np.float32)
    if array.shape[1:] != shape:
        raise BadStackError(f"{name}: {what} of shape {array.shape} for frames of shape {shape}; check the file")
    return array


def _list_beside(path: Path) -> Path:
    head, found, tail = path.stem.rpartition("stack")
    names = [f"{path.stem}_energy.txt", f"{path.stem}_energies.txt", f"{path.stem}.txt"]
    names += [f"{head}energy{tail}.txt", f"{head}energies{tail}.txt"] if found else []
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise BadStackError(f"{path}: a TIFF needs its energies; give a list, or put one beside it as {names[0]}")
