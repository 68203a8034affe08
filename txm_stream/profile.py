"""Profile: where the data are, what the detector is, and how much memory and disk may be used.

A profile never says how to process (rank, noise, regularisation come from the data). It is a TOML file
checked by pydantic; :class:`Profile` without arguments is the simulated beamline.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

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


class Group(_Section):
    """Scans of one run per energy, as 3-D XANES is measured: at every energy a fly scan of the sample's rotation."""

    plans: tuple[str, ...] = ()
    """Plans whose runs are the energies of one scan; empty: every run is a scan of its own."""
    key: str = "note"
    """Key of the start document that names the scan."""
    until: str = "_energy="
    """The name ends before this text; a run of these plans without it belongs to no scan. Empty: the whole value."""
    frames: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=32)] = (0,)
    """Projections that get a map of their own: numbers of the frames of a run, from 0, ascending."""
    patience_s: Annotated[float, Field(ge=0)] = 900.0
    """The scan is over when no further run of it has begun for so long."""

    @model_validator(mode="after")
    def _frames_ascend(self) -> Group:
        if any(later <= earlier for earlier, later in itertools.pairwise(self.frames)):
            raise ValueError(f"frames must ascend, got {list(self.frames)}")
        return self


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
    scratch_days: Annotated[float, Field(gt=0)] = 14.0
    """What a killed process left is finished by the next one; what nobody came for is removed after so many days."""
    live_pixels: Annotated[int, Field(ge=64 * 64)] = 1024 * 1024
    """Live images with more pixels are binned for display; the final result never is."""
    max_visits: Annotated[int, Field(ge=2)] = 4096
    """A scan with more visits than this is refused."""
    server_patience_s: Annotated[float, Field(ge=0)] = 60.0
    """After the scan: how long to wait for an absent results server before the rest is left in the spool."""


class Tiled(_Section):
    """What is said to the Tiled server that takes the results."""

    access_tags: tuple[str, ...] = ()
    """Access tags of all results; empty: the server's default. They must be defined there."""
    specs: tuple[str, ...] = ()
    """Specs of a run's results beside "TXMStream", for viewers that look for them."""
    api_key: SecretStr | None = None
    """API key for addresses without one, after TILED_API_KEY; only its owner may be able to read the file. Without any
    key the login kept by "tiled login" is used."""


class Steering(_Section):
    """How a scan may be steered: where energies may lie, what time they cost, when the map is good enough."""

    windows_eV: tuple[tuple[float, float], ...] = ()
    """Allowed energies in eV, (lowest, highest) of each window; default: from the lowest to the highest planned one, or
    60 eV before to 120 eV after the references' edge."""
    step_eV: Annotated[float, Field(gt=0)] = 0.5
    """Grid of energies to choose from in eV."""
    least_step_eV: Annotated[float, Field(ge=0)] = 0.0
    """Two different energies are at least so far apart, in eV."""
    backlash_eV: Annotated[float, Field(ge=0)] = 0.0
    """An energy is approached from below: a move down first goes so much further down, in eV."""
    move_s: Annotated[float, Field(ge=0)] = 3.0
    """Time of a move to another energy, settling included, in s."""
    move_s_per_eV: Annotated[float, Field(ge=0)] = 0.0
    """What a move takes longer for every eV of its way, in s."""
    exposure_s: Annotated[float, Field(gt=0)] = 0.5
    """Time of one visit, all frames and read-out, in s."""
    flat_s: Annotated[float, Field(ge=0)] = 2.5
    """Time of one flat of a single exposure, sample out and in again, in s; each further one takes ``exposure_s``."""
    flats: Literal["new", "each", "none"] = "new"
    """Flats: "each" visit; "new": at an energy that has none yet, and until there are eight; "none"."""
    flat_exposures: Annotated[int, Field(ge=1)] = 4
    """Exposures of one flat, in turn while the sample is out: their noise is in every visit that comes after."""
    target_rmse: Annotated[float, Field(gt=0)] | None = None
    """Stop when the final map's predicted rms error of an abundance falls below this."""
    most_visits: Annotated[int, Field(ge=5)] = 500
    """Stop after so many visits: the dose."""
    most_s: Annotated[float, Field(gt=0)] | None = None
    """Stop after so long, in s."""
    least_gain: Annotated[float, Field(ge=0, lt=1)] = 0.002
    """Stop when no further visit would lower the predicted error by more than this share."""
    deadline_s: Annotated[float, Field(gt=0)] = 0.5
    """A plan waits no longer for advice; then it takes older advice or the next planned energy."""

    @property
    def whole_flat_s(self) -> float:
        """Time of one flat with all its exposures in s."""
        return self.flat_s + (self.flat_exposures - 1) * self.exposure_s

    @model_validator(mode="after")
    def _windows_are_ranges(self) -> Steering:
        for low, high in self.windows_eV:
            if not 0 < low < high:
                raise ValueError(f"a window must be (lowest, highest) in eV, got ({low:g}, {high:g})")
        return self


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
    group: Group = Group()
    detector: Detector = Detector()
    limits: Limits = Limits()
    tiled: Tiled = Tiled()
    steering: Steering = Steering()

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a TOML profile; relative paths in it are taken from the file's own folder.

        Raises
        ------
        BadProfileError
            The file cannot be read, is not TOML, holds an API key that others can read, or a field is unknown or out
            of range.
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
        profile = cls.from_fields(fields, where=f"profile {path}")
        if profile.tiled.api_key is not None and path.stat().st_mode & 0o077:
            raise BadProfileError(f"profile {path} holds an API key, and others can read it: chmod 600 {path}")
        return profile

    @classmethod
    def from_fields(cls, fields: dict[str, Any], *, where: str = "profile") -> Profile:
        """Check a mapping of fields; the first problem becomes one clear line."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "(top level)"
            raise BadProfileError(f"{where}: field {field}: {first['msg']} (got {first.get('input')!r})") from error


_NOT_SAID = re.compile(r"Annotated\[(\w+), FieldInfo\(.*\)\]|typing\.|pathlib\.")
"""What Python adds to the name of a type."""


@dataclass(frozen=True)
class FieldFacts:
    """One field of a profile: its full name, type, value in this profile, default, and what it means."""

    name: str
    kind: str
    value: Any
    default: Any
    meaning: str

    @property
    def is_default(self) -> bool:
        """Whether the profile leaves it alone."""
        return bool(self.value == self.default)


def describe_fields(section: BaseModel, *, prefix: str = "") -> list[FieldFacts]:
    """Return every field of a profile, sections in the order in which they are declared."""
    plain, sections = [], []
    for name, facts in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, _Section):
            sections += describe_fields(value, prefix=f"{prefix}{name}.")
        else:
            kind = getattr(facts.annotation, "__name__", "") if isinstance(facts.annotation, type) else ""
            kind = _NOT_SAID.sub(r"\1", kind or str(facts.annotation))
            meaning = " ".join((facts.description or "").split())
            plain.append(FieldFacts(f"{prefix}{name}", kind, value, facts.default, meaning))
    return plain + sections
