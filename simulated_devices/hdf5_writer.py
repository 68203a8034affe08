"""Frames into HDF5 files that others may read while they grow, and the documents that point to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import h5py
import numpy as np
from numpy.typing import NDArray

DATASET = "/entry/data/data"


class Hdf5Writer:
    """One HDF5 file with frames (n, y, x) uint16, readable with SWMR, and its Resource and Datum documents.

    Notes
    -----
    Legacy documents of spec ``AD_HDF5``: datum ``point_number`` p means frames p * chunk_size to
    (p + 1) * chunk_size. The file is flushed after every event.
    """

    def __init__(self, directory: Path, shape: tuple[int, int], chunk_size: int) -> None:
        self.path = directory / f"{uuid4()}.h5"
        self._chunk_size = chunk_size
        self._points = 0
        self._uid = str(uuid4())
        self._file = h5py.File(self.path, "w", libver="latest")
        self._data = self._file.create_dataset(
            DATASET, shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="<u2"
        )
        self._file.swmr_mode = True

    def resource(self) -> dict[str, Any]:
        """Return the Resource document (without ``run_start``)."""
        return {
            "uid": self._uid,
            "spec": "AD_HDF5",
            "root": str(self.path.parent),
            "resource_path": self.path.name,
            "resource_kwargs": {"frame_per_point": self._chunk_size},
            "path_semantics": "posix",
        }

    def append(self, frames: NDArray[np.uint16]) -> dict[str, Any]:
        """Write the frames (chunk_size, y, x) of one event, flush, and return their Datum document."""
        point = self._points
        self._data.resize(self._data.shape[0] + len(frames), axis=0)
        self._data[-len(frames) :] = frames
        self._data.flush()
        self._points += 1
        return {"datum_id": f"{self._uid}/{point}", "resource": self._uid, "datum_kwargs": {"point_number": point}}

    def close(self) -> None:
        """Close the file."""
        self._file.close()
