"""The simulated camera: one event is ``chunk_size`` frames, inline or in HDF5 files."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus

from txm_stream.simulated_devices.clock import Clock, RealClock
from txm_stream.simulated_devices.hdf5_writer import Hdf5Writer
from txm_stream.simulated_devices.microscope import Microscope

Delivery = Literal["inline", "hdf5"]


class SimulatedCamera(Device):  # type: ignore[misc]
    """Camera whose data key is ``<name>_image``: counts in ADU, uint16 (chunk_size, y, x).

    Parameters
    ----------
    microscope
        What is in front of it.
    exposure_s
        Real time that one frame takes in s; 0 takes as long as the simulation needs.
    delivery
        ``"inline"``: arrays in the events; ``"hdf5"``: files and legacy Resource and Datum documents. A stage
        opens new files.
    directory
        Where the files go.
    shared_file
        One file per stage for samples, flats and darks together, as some beamlines do; else one for each.
    readout_s
        Time of the read-out after each event in s.
    clock
        Default: real time.

    Attributes
    ----------
    exposure_time, chunk_size
        Exposure of a frame in s and frames per event; may be configured in mid-run, as where flats are taken otherwise.
    hangs
        So many of the next exposures never end, as with a camera that lost its trigger.
    """

    exposure_time = Component(Signal, value=0.1, kind="config")
    chunk_size = Component(Signal, value=1, kind="config")

    def __init__(
        self,
        *,
        name: str,
        microscope: Microscope,
        exposure_s: float = 0.0,
        delivery: Delivery = "inline",
        directory: Path | None = None,
        shared_file: bool = False,
        readout_s: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name=name)
        if delivery not in ("inline", "hdf5") or (delivery == "hdf5" and directory is None):
            raise ValueError(f"delivery={delivery!r}, directory={directory}: give 'inline', or 'hdf5' and a directory")
        self._microscope = microscope
        self.hangs = 0
        self._exposure_s = exposure_s
        self._readout_s = readout_s
        self._clock: Clock = clock or RealClock()
        self._delivery = delivery
        self._directory = None if directory is None else Path(directory).resolve()
        self._shared_file = shared_file
        self._key = f"{name}_image"
        self._writers: dict[str, Hdf5Writer] = {}
        self._documents: deque[tuple[str, dict[str, Any]]] = deque()
        self._staged_now = False
        self._image: dict[str, Any] = {}
        self._busy = threading.Lock()
        self._nominal_s = exposure_s or 0.1
        self.exposure_time.put(self._nominal_s)
        self.chunk_size.put(microscope.chunk_size)

    def stage(self) -> list[Any]:
        """Get ready; HDF5 files are opened with the first frame of their kind."""
        staged: list[Any] = super().stage()
        self._image = {}
        self._documents.clear()
        self._staged_now = True
        return staged

    def unstage(self) -> list[Any]:
        """Wait for the exposure under way and close the files."""
        with self._busy:
            unstaged: list[Any] = super().unstage()
            self._staged_now = False
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()
        return unstaged

    def trigger(self) -> Any:
        """Start one event on a thread; the status is done when its frames are there, or carries the error."""
        if self._delivery == "hdf5" and not self._staged_now:
            raise RuntimeError(f"{self.name} writes HDF5 and is not staged; stage it before the first trigger")
        status = DeviceStatus(self)
        threading.Thread(target=self._acquire, args=(status,), daemon=True, name=f"{self.name}-exposure").start()
        return status

    def _acquire(self, status: Any) -> None:
        try:
            with self._busy:
                if self.hangs > 0:
                    self.hangs -= 1
                    return
                count, exposure = int(self.chunk_size.get()), float(self.exposure_time.get()) / self._nominal_s
                ready = self._clock.now() + self._exposure_s * exposure * count + self._readout_s
                role, frames = self._microscope.expose(frames=count, exposure=exposure)
                frames.flags.writeable = False  # every exposure has memory of its own: nobody need copy it
                value: Any = frames
                if self._delivery == "hdf5":
                    datum = self._writer("all" if self._shared_file else role).append(frames)
                    self._documents.append(("datum", datum))
                    value = datum["datum_id"]
                self._clock.sleep(ready - self._clock.now())
                self._image = {self._key: {"value": value, "timestamp": time.time()}}
        except Exception as error:  # whatever it is, the RunEngine must hear of it
            status.set_exception(error)
        else:
            status.set_finished()

    def _writer(self, kind: str) -> Hdf5Writer:
        if self._directory is None or not self._staged_now:
            raise RuntimeError(f"{self.name} was unstaged in mid-exposure; the frames of this event are dropped")
        if kind not in self._writers:
            self._directory.mkdir(parents=True, exist_ok=True)
            writer = Hdf5Writer(self._directory, self._microscope.detector.shape, int(self.chunk_size.get()))
            self._writers[kind] = writer
            self._documents.append(("resource", writer.resource()))
        return self._writers[kind]

    def read(self) -> dict[str, Any]:
        """Return the frames of the last event, or the datum id that points to them."""
        if not self._image:
            raise RuntimeError(f"{self.name} has no image yet; trigger it first")
        return dict(self._image)

    def describe(self) -> dict[str, Any]:
        """Describe the image: shape (chunk_size, y, x), uint16."""
        key: dict[str, Any] = {
            "source": f"SIM:{self.name}",
            "dtype": "array",
            "dtype_numpy": "<u2",
            "shape": [int(self.chunk_size.get()), *self._microscope.detector.shape],
            "units": "ADU",
        }
        if self._delivery == "hdf5":
            key["external"] = "FILESTORE:"
        return {self._key: key}

    def collect_asset_docs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Hand out the Resource and Datum documents that are new."""
        while self._documents:
            yield self._documents.popleft()
