"""Find a stack in an HDF5 file: DataExchange, NXdata / NXstxm, PyXAS, or a 3-D array beside an energy list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.errors import BadStackError

_ENERGY_NAMES = ("energy", "energies", "energy_ev", "energies_ev", "x_eng", "eng_list", "xeng", "photon_energy")


@dataclass(frozen=True, eq=False)
class RawStack:
    """Arrays as stored: ``data`` 3-D or 4-D, ``energies`` in eV or keV or ``None``, ``i0`` / ``flats`` / ``darks``."""

    data: AnyArray
    path: str
    energies: AnyArray | None = None
    energy_axis: int | None = None
    i0: AnyArray | None = None
    flats: AnyArray | None = None
    darks: AnyArray | None = None
    pixel_nm: float | None = None


def find_stack(path: Path, dataset: str | None) -> RawStack:
    """Read the stack of a file, or the named dataset of it with whatever lies beside it.

    Raises
    ------
    BadStackError
        No HDF5, no such dataset, no stack, or several that might be meant.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadStackError(f"{path} cannot be opened as HDF5: {str(error).splitlines()[0]}") from error
    with file:
        if dataset is not None:
            if not isinstance(file.get(dataset), h5py.Dataset):
                raise BadStackError(f"{path} has no dataset {dataset!r}; stacks there: {_listed(_stacks(file))}")
            return _with_neighbours(file, dataset.strip("/"))
        for known in ("exchange/data", "img_xanes"):
            if isinstance(file.get(known), h5py.Dataset):
                return _with_neighbours(file, known)
        chosen = _nexus_signals(file) or _stacks(file)
        if len(chosen) == 1:
            return _with_neighbours(file, chosen[0])
        raise BadStackError(
            f"{path}: {len(chosen)} arrays that may be the stack ({_listed(chosen)}); name one: {path.name}::/path"
            if chosen
            else f"{path}: no 3-D array in it; there is: {_listed(_everything(file))}"
        )


def _with_neighbours(file: Any, path: str) -> RawStack:
    data, parent = file[path], file[path].parent
    near = {name.lower(): parent[name] for name in parent if hasattr(parent[name], "shape")}
    axes = [name.decode() if isinstance(name, bytes) else str(name) for name in _attribute(data, parent, "axes")]
    axis = next((i for i, name in enumerate(axes) if name.lower().startswith("energ")), None)
    energies = parent.get(axes[axis]) if axis is not None else None
    if energies is None:
        energies = next((near[name] for name in _ENERGY_NAMES if name in near), None)
    if energies is None and parent.name != "/":
        energies = next((file[name] for name in file if name.lower() in _ENERGY_NAMES), None)

    def beside(*names: str) -> AnyArray | None:
        found = next((near[name] for name in names if name in near), None)
        array = None if found is None else np.asarray(found[()])
        return None if array is None or not array.size else array if array.ndim != 2 else array[None]

    return RawStack(
        np.asarray(data[()]),
        path,
        energies=None if energies is None else np.asarray(energies[()]),
        energy_axis=axis if data.ndim == len(axes) else None,
        i0=_monitor(parent),
        flats=beside("data_white", "data_flat", "img_bkg", "flat", "flats"),
        darks=beside("data_dark", "img_dark", "dark", "darks"),
        pixel_nm=_pixel_nm(near, axes),
    )


def _attribute(data: Any, parent: Any, key: str) -> list[Any]:
    value = parent.attrs.get(key, data.attrs.get(key, []))
    if isinstance(value, (str, bytes)):
        text = value.decode() if isinstance(value, bytes) else value
        return [name for name in text.replace(",", ":").split(":") if name]
    return list(value)


def _monitor(parent: Any) -> AnyArray | None:
    """Read I0 of an NXstxm entry: an NXmonitor beside the NXdata, or "i0" beside the data."""
    for name in ("i0", "I0", "control"):
        if hasattr(parent.get(name), "shape"):
            return np.asarray(parent[name][()])
    above = parent.parent
    for name in above:
        group = above[name]
        if _class(group) == "NXmonitor" and "data" in group:
            return np.asarray(group["data"][()])
    return None


def _pixel_nm(near: dict[str, Any], axes: list[str]) -> float | None:
    for name in ("pixel size", "pixel_size", "pixel_nm"):
        if name in near:
            value = near[name][()]
            found = re.fullmatch(
                r"([-+.\deE]+)\s*(\D*)", str(value.decode() if isinstance(value, bytes) else value).strip()
            )
            try:
                return float(found[1]) * (1000.0 if found[2] in ("um", "µm") else 1.0) if found else None
            except ValueError:
                return None
    for name in [*(axis.lower() for axis in axes), "x_um", "x", "sample_x"]:
        axis = near.get(name)
        if axis is None or name.startswith("energ") or getattr(axis, "ndim", 0) != 1 or len(axis) < 2:
            continue
        unit = axis.attrs.get("units", "um" if name.endswith("_um") else "")
        factor = {"um": 1000.0, "µm": 1000.0, "micron": 1000.0, "nm": 1.0, "mm": 1e6, "m": 1e9}.get(
            unit.decode() if isinstance(unit, bytes) else str(unit)
        )
        if factor is not None:
            return float(abs(np.median(np.diff(axis[()])))) * factor
    return None


def _class(item: Any) -> str:
    value = item.attrs.get("NX_class", "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _nexus_signals(file: Any) -> list[str]:
    """Signals of at least three dimensions: the one the default chain names, else all."""
    group, steps = file, 0
    while "default" in group.attrs and steps < 8:
        name = group.attrs["default"]
        group, steps = group.get(name.decode() if isinstance(name, bytes) else name, {}), steps + 1
        if not hasattr(group, "attrs"):
            break
    found: list[str] = []

    def collect(item: Any) -> None:
        if _class(item) == "NXdata":
            signal = item.attrs.get("signal", "data")
            array = item.get(signal.decode() if isinstance(signal, bytes) else signal)
            if getattr(array, "ndim", 0) >= 3:
                found.append(array.name.strip("/"))

    if hasattr(group, "attrs"):
        collect(group)
    if not found:
        file.visititems(lambda _, item: collect(item))
    return found


def _stacks(file: Any) -> list[str]:
    found: list[str] = []

    def collect(name: str, item: Any) -> None:
        if getattr(item, "ndim", 0) >= 3 and item.dtype.kind in "iuf":
            found.append(name)

    file.visititems(collect)
    return found


def _everything(file: Any) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"/{name}" for name in names[:6]) or "nothing"
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
