"""A result as one HDF5 file that silx, h5web and any NeXus reader open by themselves."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

import txm_stream
from txm_stream.errors import BadStackError
from txm_stream.io.named_images import stack_unit, state_names
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result, VisitMetrics

_SCALARS: dict[str, type] = {"sigma": float, "rank": int, "risk": float, "predicted_rmse": float}
_UNITS = {"energies_eV": "eV", "shifts_px": "px", "shift_sigma_px": "px", "edge50": "eV"}
_IN_STACK_UNITS = ("noisy", "denoised", "scale", "sigma", "loadings")
_PLAIN = ("phase_map", "phase_sigma", "fit", "references", "components", "predicted_rmse", "state")
_STACKS = ("noisy", "denoised")


def write_result(
    path: Path | str,
    result: Result,
    *,
    title: str,
    pixel_nm: float | None = None,
    compression: Literal["gzip"] | None = None,
) -> Path:
    """Write a result to one HDF5 file; return its path.

    The group ``/final`` holds every array of :meth:`.Result.images` by its name, ``shift_sigma_px``, the scalars
    sigma, rank, risk and predicted_rmse, ``states``, ``warnings``, ``map_method``, ``provenance`` (JSON), and the
    metrics table as ``/final/metrics/<column>``. ``/final/map`` and ``/final/stack`` are NXdata views of them, with σ
    as the errors of the map (``phase_map_errors``); every dataset with a unit says so.

    Parameters
    ----------
    title
        What the sample and scan are called.
    pixel_nm
        Pixel size in nm; ``None``: axes are in px.
    compression
        ``"gzip"``: level 1 with shuffle, about a third smaller and ten times slower; ``None``: plain.

    Notes
    -----
    Stacks are streamed frame by frame, so memory-mapped ones stay on disk. The file is written under a temporary
    name beside ``path`` and renamed when it is complete: a reader sees the old file, the new one, or none.
    """
    import h5py

    with whole_file(path) as partial, h5py.File(partial, "w") as file:
        file.attrs.update(NX_class="NXroot", default="final", creator="txm-stream")
        final = file.create_group("final")
        _write_final(final, result, title, compression)
        _write_views(final, result, pixel_nm)
    return Path(path)


def read_pixel_nm(path: Path | str) -> float | None:
    """Return the pixel size in nm that :func:`write_result` wrote; ``None`` where the axes are in px."""
    import h5py

    with h5py.File(path, "r") as file:
        axis = file.get("final/x")
        if axis is None or axis.attrs.get("units") != "nm" or len(axis) < 2:
            return None
        return float(axis[1] - axis[0])


def read_result(path: Path | str) -> Result:
    """Read a result that :func:`write_result` wrote; arrays are in memory.

    Raises
    ------
    BadStackError
        The file cannot be read or holds no result.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadStackError(f"{path} cannot be opened as HDF5: {str(error).splitlines()[0]}") from error
    with file:
        final = file.get("final")
        missing = [name for name in ("denoised", "energies_eV", "metrics") if final is None or name not in final]
        if missing:
            raise BadStackError(f"{path} holds no result of txm-stream: /final/{missing[0]} is not there")
        names = {entry.name for entry in fields(Result)}
        values: dict[str, Any] = {name: final[name][()] for name in final if name in names and name != "metrics"}
        for name, kind in _SCALARS.items():
            values[name] = kind(values[name])
        values["states"] = _texts(final["states"])
        values["warnings"] = _texts(final["warnings"])
        values["map_method"] = final["map_method"].asstr()[()]
        values["provenance"] = json.loads(final["provenance"].asstr()[()])
        columns = {name: final["metrics"][name][()] for name in VisitMetrics.columns()}
        rows = len(next(iter(columns.values())))
        values["metrics"] = tuple(
            VisitMetrics(**{name: column[row].item() for name, column in columns.items()}) for row in range(rows)
        )
    return Result(**values)


def _write_final(final: Any, result: Result, title: str, compression: str | None) -> None:
    import h5py

    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}
    final.attrs["NX_class"] = "NXentry"
    for name, array in result.images().items():
        if name in _STACKS:
            stored = final.create_dataset(
                name, shape=array.shape, dtype=array.dtype, chunks=(1, *array.shape[1:]), **options
            )
            for index, frame in enumerate(array):
                stored[index] = frame
        else:
            final.create_dataset(name, data=array, **(options if array.ndim > 1 else {}))
    final["shift_sigma_px"] = np.asarray(result.shift_sigma_px)
    for name in _SCALARS:
        final[name] = getattr(result, name)
    text = h5py.string_dtype()
    for name, value in {"title": title, "map_method": result.map_method}.items():
        final.create_dataset(name, data=value, dtype=text)
    final.create_dataset("provenance", data=json.dumps(result.provenance, default=_plain), dtype=text)
    for name, listed in (("states", result.states), ("warnings", result.warnings)):
        final.create_dataset(name, data=np.array(listed, dtype=object), shape=(len(listed),), dtype=text)
    process = final.create_group("process")
    process.attrs["NX_class"] = "NXprocess"
    for name, value in {"program": "txm-stream", "version": txm_stream.__version__}.items():
        process.create_dataset(name, data=value, dtype=text)
    metrics = final.create_group("metrics")
    metrics.attrs["NX_class"] = "NXcollection"
    integers = {"seq", "rank", "basis_version", "map_version", "previews_skipped"}
    for name in VisitMetrics.columns():
        column = [getattr(row, name) for row in result.metrics]
        metrics.create_dataset(name, data=np.asarray(column, dtype=np.int64 if name in integers else np.float64))


def _write_views(final: Any, result: Result, pixel_nm: float | None) -> None:
    """Add the axes, the units and the NXdata groups, which hold soft links only."""
    import h5py

    for name, length in zip(("y", "x"), result.denoised.shape[1:], strict=True):
        final[name] = np.arange(length, dtype=np.float64) * (pixel_nm or 1.0)
    views: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
        "stack": ({"denoised": "denoised", "noisy": "noisy"}, ("energies_eV", "y", "x"))
    }
    if result.phase_map is not None:
        final["state"] = np.arange(1, len(result.phase_map) + 1)
        final["state"].attrs["long_name"] = f"state ({', '.join(state_names(result))})"
        views["map"] = ({"phase_map": "phase_map"}, ("state", "y", "x"))
        if result.phase_sigma is not None:
            views["map"][0]["phase_map_errors"] = "phase_sigma"
            views["sigma_of_map"] = ({"phase_sigma": "phase_sigma"}, ("state", "y", "x"))
    elif result.edge50 is not None:
        views["map"] = ({"edge50": "edge50"}, ("y", "x"))
    _write_units(final, stack_unit(result), "nm" if pixel_nm else "px")
    text = h5py.string_dtype()
    for name, (links, axes) in views.items():
        view = final.create_group(name)
        signal, *others = links
        view.attrs.update(NX_class="NXdata", signal=signal)
        view.attrs["axes"] = np.array(axes, dtype=text)
        auxiliary = [other for other in others if not other.endswith("_errors")]
        if auxiliary:
            view.attrs["auxiliary_signals"] = np.array(auxiliary, dtype=text)
        for dimension, axis in enumerate(axes):
            view.attrs[f"{axis}_indices"] = dimension
            view[axis] = h5py.SoftLink(f"/final/{axis}")
        for link, target in links.items():
            view[link] = h5py.SoftLink(f"/final/{target}")
    final.attrs["default"] = "map" if "map" in views else "stack"


def _write_units(final: Any, stack: str, pixel: str) -> None:
    units = _UNITS | dict.fromkeys(_IN_STACK_UNITS, stack) | dict.fromkeys(_PLAIN, "") | {"risk": f"{stack}^2"}
    for name, unit in (units | {"y": pixel, "x": pixel}).items():
        if name in final:
            final[name].attrs["units"] = unit


def _texts(dataset: Any) -> tuple[str, ...]:
    return tuple(dataset.asstr()[()].tolist()) if len(dataset) else ()


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it does."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
