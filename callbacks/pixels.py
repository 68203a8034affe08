"""Pixels of external assets, read directly: HDF5 (SWMR), TIFF and NPY files, late ones waited for.

Two ideas meet here: :func:`locate_datum` and :func:`locate_stream` say *where* an event's frames are, and
:class:`PixelReader` reads them. Files are opened without file locks first: a reader's lock could keep
the camera's own writer out, and acquisition comes first.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from numpy.typing import NDArray

from txm_stream.errors import MissingFramesError

PathMap = Sequence[tuple[str, str]]
_MOST_FILES = 10_000
_OPEN_FILES = 4


class FrameUnreadableError(MissingFramesError):
    """The pixels of a frame could not be read before the deadline; the message names the frame."""


@dataclass(frozen=True)
class AssetRef:
    """Where the pixels of one event are.

    ``kind`` is "hdf5", "tiff" or "npy". HDF5: rows ``index * frames`` to ``(index + 1) * frames`` of a
    dataset (frame, y, x), or row ``index`` where the dataset already has one axis more. TIFF and NPY: one
    file after the other. ``only``: numbers of the event's frames that are wanted, ascending; empty: all.
    """

    kind: str
    paths: tuple[str, ...]
    dataset: str = ""
    index: int = 0
    frames: int = 1
    only: tuple[int, ...] = ()


def map_path(path: str, path_map: PathMap) -> str:
    """Replace the first matching prefix, for files that are mounted elsewhere here than at the camera."""
    for old, new in path_map:
        if path.startswith(old):
            return new + path[len(old) :]
    return path


def locate_datum(resource: Mapping[str, Any], kwargs: Mapping[str, Any], *, default_index: int) -> AssetRef:
    """Return where a Resource/Datum pair (AD_HDF5…, AD_TIFF, NPY_SEQ) keeps its pixels.

    Raises
    ------
    FrameUnreadableError
        The resource's spec is none of these.
    """
    spec = str(resource["spec"])
    options = resource.get("resource_kwargs", {})
    path = os.path.join(str(resource.get("root", "")), str(resource.get("resource_path", "")).lstrip("/"))
    if not resource.get("root"):
        path = str(resource.get("resource_path", ""))
    frames = int(options.get("frame_per_point", 1) or 1)
    index = next((int(kwargs[key]) for key in ("point_number", "index", "frame") if key in kwargs), default_index)
    if "indices" in kwargs:
        index = int(kwargs["indices"]["start"])
    if "HDF5" in spec:
        dataset = str(options.get("dataset") or options.get("path") or "/entry/data/data")
        return AssetRef("hdf5", (path,), dataset, index, frames)
    if "TIFF" in spec:
        numbers = range(index * frames, index * frames + _checked_files(frames))
        template, filename = str(options["template"]), str(options.get("filename", ""))
        folder = os.path.join(path, "")
        return AssetRef("tiff", tuple(template % (folder, filename, number) for number in numbers), frames=frames)
    if spec == "NPY_SEQ":
        return AssetRef("npy", (f"{path}_{index}.npy",), frames=frames)
    raise FrameUnreadableError(f"resource spec {spec!r} is not known; known are AD_HDF5…, HDF5, AD_TIFF and NPY_SEQ")


def locate_stream(resource: Mapping[str, Any], index: int, shape: Sequence[int]) -> AssetRef:
    """Return where row ``index`` of a StreamResource keeps its pixels; ``shape`` is the descriptor's for one event."""
    mimetype = str(resource["mimetype"])
    options = resource.get("parameters", {})
    uri = str(resource["uri"])
    path = unquote(urlparse(uri).path) if "://" in uri else uri
    frames = int(options.get("multiplier") or options.get("frame_per_point") or (shape[0] if len(shape) == 3 else 1))
    if mimetype == "application/x-hdf5" and not options.get("template"):
        return AssetRef("hdf5", (path,), str(options.get("dataset") or options.get("path") or ""), index, frames)
    kind = {"multipart/related;type=image/tiff": "tiff", "multipart/related;type=application/x-npy": "npy"}.get(
        mimetype
    )
    if kind is None:
        raise FrameUnreadableError(f"files of type {mimetype!r} are not known; known are HDF5, TIFF and NPY")
    from bluesky_tiled_plugins.utils import compile_template

    template = str(compile_template(options.get("template", "%s_%d.npy"), options.get("filename", "")))
    chunk = tuple(options.get("chunk_shape", ()))
    per_file = chunk[0] if len(chunk) == len(shape) == 3 else 1
    files = _checked_files(int(options.get("files_per_datum") or max(frames // per_file, 1)))
    tails = (template.format(index * files + number) for number in range(files))
    paths = tuple(path + (tail.lstrip("/") if path.endswith("/") else tail) for tail in tails)
    return AssetRef(kind, paths, frames=frames)


def _checked_files(count: int) -> int:
    """Return how many files one event has, where that can be."""
    if count > _MOST_FILES:
        raise FrameUnreadableError(f"{count} files for one event, at most {_MOST_FILES} are possible")
    return count


class PixelReader:
    """Read assets; keep the last few HDF5 files open.

    Parameters
    ----------
    path_map
        Prefixes ``(from, to)`` of paths, for files that are mounted elsewhere here.
    patience_s
        How long one read waits for a file or row that is not there yet.
    """

    def __init__(self, *, path_map: PathMap = (), patience_s: float = 2.0) -> None:
        self.path_map = tuple(path_map)
        self.patience_s = patience_s
        self._files: OrderedDict[str, Any] = OrderedDict()

    def read(self, asset: AssetRef, *, name: str, patience_s: float | None = None) -> NDArray[Any]:
        """Return the event's frames, ``(y, x)`` or ``(frame, y, x)``, in the type of the file.

        Raises
        ------
        FrameUnreadableError
            Still not readable after ``patience_s``; says ``name``, the file and the last cause.
        """
        patience_s = self.patience_s if patience_s is None else patience_s
        deadline, pause = time.monotonic() + patience_s, 0.005
        while True:
            try:
                return self._read(asset)
            except Exception as error:
                self.forget(asset)
                if time.monotonic() + pause > deadline:
                    text = f"{name}: {asset.paths[0]} is not readable after {patience_s:g} s ({error})"
                    raise FrameUnreadableError(text) from error
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def forget(self, asset: AssetRef) -> None:
        """Close the asset's file, so that the next read opens it afresh."""
        file = self._files.pop(asset.paths[0], None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close every file."""
        while self._files:
            self._files.popitem()[1].close()

    def _read(self, asset: AssetRef) -> NDArray[Any]:
        if asset.kind == "hdf5":
            return self._read_hdf5(asset)
        if asset.kind == "tiff":
            import tifffile

            images = [np.asarray(tifffile.imread(map_path(path, self.path_map))) for path in asset.paths]
        else:
            images = [np.load(map_path(path, self.path_map), allow_pickle=False) for path in asset.paths]
        if len(images) == 1 and not asset.only:
            return images[0]
        frames = np.concatenate([image.reshape(-1, *image.shape[-2:]) for image in images])
        return frames[list(asset.only)] if asset.only else frames

    def _read_hdf5(self, asset: AssetRef) -> NDArray[Any]:
        file = self._files.get(asset.paths[0])
        if file is None:
            file = self._files[asset.paths[0]] = _open_hdf5(map_path(asset.paths[0], self.path_map))
        self._files.move_to_end(asset.paths[0])
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        dataset = file[asset.dataset]
        dataset.id.refresh()
        if dataset.ndim > 3:
            if asset.index >= dataset.shape[0]:
                raise IndexError(f"row {asset.index} is not there yet, the dataset has {dataset.shape[0]}")
            _check_written(dataset, asset.index, asset.index + 1)
            return np.asarray(dataset[asset.index, list(asset.only)] if asset.only else dataset[asset.index])
        first, last = asset.index * asset.frames, (asset.index + 1) * asset.frames
        if last > dataset.shape[0]:
            raise IndexError(f"frame {last - 1} is not there yet, the dataset has {dataset.shape[0]}")
        _check_written(dataset, first, last)
        return np.asarray(dataset[[first + number for number in asset.only]] if asset.only else dataset[first:last])


def _check_written(dataset: Any, first: int, last: int) -> None:
    """Raise where a chunk is not in the file yet, or cut off: HDF5 would read zeros there."""
    if not dataset.chunks:
        return
    size = os.path.getsize(dataset.file.filename)
    bounds = [(first, last), *((0, extent) for extent in dataset.shape[1:])]
    grid = (range(low - low % step, high, step) for (low, high), step in zip(bounds, dataset.chunks, strict=True))
    for corner in product(*grid):
        chunk = dataset.id.get_chunk_info_by_coord(corner)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
            raise OSError(f"the dataset has frame {corner[0]}, but the file does not hold it yet")


def _open_hdf5(path: str) -> Any:
    """Open without a lock while a SWMR writer is at work; else only once the writer has closed the file."""
    import h5py

    try:
        file = h5py.File(path, "r", swmr=True, libver="latest", locking=False)
    except FileNotFoundError:
        raise
    except OSError:
        return h5py.File(path, "r")
    superblock = file.id.get_create_plist().get_version()[0]
    if superblock >= 3:
        return file
    file.close()  # an old-format file has no SWMR mark: without a lock a half-written one would look complete
    return h5py.File(path, "r")
