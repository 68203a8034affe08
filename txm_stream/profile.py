"""Profile: where the data are, what the detector is, and how much memory and disk may be used.

A profile never says how to process (rank, noise, regularisation come from the data). It is a TOML file
checked by pydantic; :class:`Profile` without arguments is the simulated beamline.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from txm_stream.errors import BadProfileError

Magnification = Literal["constant", "proportional", "fitted"]
Signal = Literal["counts", "transmission", "optical-density", "fluorescence"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Documents(_Section):
    """Where frames and energies are in the event documents."""

    primary: str = "primary"
    """Stream of sample frames."""
    flat: str = "flat"
    """Stream of flat frames (sample out)."""
    dark: str = "dark"
    """Stream of dark frames (shutter closed)."""
    image_key: str | None = None
    """Data key of the image; default: start["detectors"][0] + "_image"."""
    energy_key: str = "energy"
    """Data key of the photon energy."""
    energy_unit: Literal["eV", "keV"] = "eV"
    """Unit of the photon energy in the documents."""
    exposure_key: str = "exposure_time"
    """Key of the exposure time in s: looked up in the event, then in the start document."""


class Detector(_Section):
    """Noise model of the camera: var = counts / electrons_per_adu + read_noise_adu**2."""

    electrons_per_adu: Annotated[float, Field(gt=0)] | None = None
    """Detected quanta per ADU; default: measured from repeats or flats."""
    read_noise_adu: Annotated[float, Field(ge=0)] = 0.0
    """Read noise of one frame, rms, in ADU."""
    saturation_adu: Annotated[float, Field(gt=0)] = 65535.0
    """Counts at and above this value are invalid."""


class Limits(_Section):
    """How much room txm-stream may take."""

    queue_mb: Annotated[int, Field(ge=16)] = 512
    """Frames held in memory between the RunEngine and the worker; the rest waits on disk."""
    scratch_gb: Annotated[float, Field(gt=0)] = 200.0
    """Disk for raw frames, working files and undelivered results."""
    live_pixels: Annotated[int, Field(ge=64 * 64)] = 1024 * 1024
    """Live images with more pixels are binned for display; the final result never is."""
    max_visits: Annotated[int, Field(ge=2)] = 4096
    """A scan with more visits than this is refused."""
    server_patience_s: Annotated[float, Field(ge=0)] = 60.0
    """After the scan: how long to wait for an absent results server before the rest is left in the spool."""


class Profile(_Section):
    """Everything txm-stream must be told about a beamline."""

    name: str = "sim"
    """Name of the beamline, written into every result."""
    signal: Signal = "counts"
    """What an image holds: raw counts (with flats), I/I0, optical density, or fluorescence yield."""
    registration: bool = True
    """Correct the jitter of the image; switch off only for data that are already registered."""
    magnification: Magnification = "constant"
    """How the image grows with energy: "constant" (the instrument holds it), "proportional" (a pixel on the sample
    grows as the energy), or "fitted" (linear in energy, the slope from the data)."""
    references: tuple[Path, ...] = ()
    """Reference spectra, one file per state or one library; empty: edge-50 live, VCA at the end."""
    results_path: tuple[str, ...] = ("processed", "txm_stream")
    """Container of results below the Tiled root."""
    scratch_dir: Path | None = None
    """Folder for raw frames and undelivered results; default: a folder in the system's temporary directory."""
    documents: Documents = Documents()
    detector: Detector = Detector()
    limits: Limits = Limits()

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a TOML profile; relative paths in it are taken from the file's own folder.

        Raises
        ------
        BadProfileError
            The file cannot be read, is not TOML, or a field is unknown or out of range.
        """
        path = Path(path)
        try:
            fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadProfileError(f"profile {path} cannot be read: {error.strerror}; give a TOML file") from error
        except tomllib.TOMLDecodeError as error:
            raise BadProfileError(f"profile {path} is not valid TOML: {error}") from error
        for key in ("references", "scratch_dir"):
            if isinstance(fields.get(key), str):
                fields[key] = path.parent / fields[key]
            elif isinstance(fields.get(key), list):
                fields[key] = [path.parent / entry for entry in fields[key]]
        return cls.from_fields(fields, where=f"profile {path}")

    @classmethod
    def from_fields(cls, fields: dict[str, Any], *, where: str = "profile") -> Profile:
        """Check a mapping of fields; the first problem becomes one clear line."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "(top level)"
            raise BadProfileError(f"{where}: field {field}: {first['msg']} (got {first.get('input')!r})") from error
