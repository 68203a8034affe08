"""One normaliser per run: keeps darks, flats and raw visits, and gives any visit's optical density at any time.

The optical density of a visit is a pure function of its raw frame, the dark and the flat chosen for it; a flat
that arrives later only changes the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Image, Mask
from txm_stream.dark_field import DarkField
from txm_stream.errors import BadFrameError
from txm_stream.flats import LEAST_VALID, Flats
from txm_stream.frame_store import FrameStore
from txm_stream.frames import Frame, mean_of_repeats
from txm_stream.optical_density import (
    CountsImage,
    OpticalDensity,
    bad_pixels,
    counts_above_dark,
    divide,
    electrons_per_adu,
    working_density,
)
from txm_stream.profile import Profile
from txm_stream.subspace.noise import noise_of_image

_DARKEST_OD = 6.0
_GAINS = 15


@dataclass
class Visit:
    """State of one visit: what is needed, besides its raw frame, to compute its optical density again."""

    index: int
    raw: int
    """Number of its raw frame in the store."""
    seq: int
    energy_eV: float
    time: float
    exposure_s: float
    repeats: int
    invalid: Mask
    """Saturated or non-finite pixels, (y, x)."""
    flat: int | None = None
    """Flat in use; ``None``: none yet."""
    rejected: str = ""
    """Why the visit has no weight; empty while it has."""
    marked: str = ""
    """Why the operator took its weight; empty where he did not."""


class Normaliser:
    """Raw frames of one run and their normalisation.

    Memory: a boolean mask per visit and flat, shared while the same pixels are invalid; the images are in ``store``.

    Parameters
    ----------
    profile
        Signal, detector noise and saturation.
    store
        Where raw frames go.
    """

    def __init__(self, profile: Profile, store: FrameStore) -> None:
        self.profile = profile
        self.store = store
        self.visits: list[Visit] = []
        self.shape: tuple[int, int] | None = None
        self._flats = Flats(store)
        self._invalid: dict[str, Mask] = {}
        self._darks = DarkField()
        self._gains: dict[str, list[float]] = {"flat": [], "sample": []}
        self._bad: Mask | None = None
        self._bad_from: tuple[int, int] = (-1, -1)

    @property
    def needs_flat(self) -> bool:
        """Whether frames are raw counts."""
        return self.profile.signal == "counts"

    @property
    def n_flats(self) -> int:
        """Flats so far."""
        return len(self._flats)

    @property
    def electrons_per_adu(self) -> float:
        """Quanta per ADU: from the profile, else the median over the first flats (or visits) with repeats, else 1."""
        given = self.profile.detector.electrons_per_adu
        if given is not None:
            return given
        measured = self._gains["flat"] or self._gains["sample"]
        return float(np.median(measured)) if measured else 1.0

    def add(self, frame: Frame) -> Visit | None:
        """Store a frame; return the new visit if it is a sample frame.

        Raises
        ------
        BadFrameError
            Wrong shape or type, or a sample frame without energy.
        """
        image = np.asarray(frame.image)
        if image.ndim not in (2, 3) or image.size == 0 or image.dtype.kind not in "uif":
            raise BadFrameError(
                f"{frame.role} frame {frame.seq} has shape {image.shape} and type {image.dtype}; "
                "expected numbers as (y, x) or (repeats, y, x)"
            )
        shape = (int(image.shape[-2]), int(image.shape[-1]))
        if self.shape is not None and shape != self.shape:
            raise BadFrameError(
                f"{frame.role} frame {frame.seq} has shape {shape}, expected {self.shape}; check the camera ROI"
            )
        if min(shape) < 32:
            raise BadFrameError(f"{frame.role} frame {frame.seq} has shape {shape}; at least 32 × 32 pixels are needed")
        energy = float("nan") if frame.energy_eV is None else float(frame.energy_eV)
        if frame.role == "sample" and not np.isfinite(energy):
            raise BadFrameError(f"sample frame {frame.seq} has no energy; check energy_key in the profile")
        self.shape = shape
        if frame.role == "dark":
            self._darks.add(image)
            return None
        mean, repeats = mean_of_repeats(image)
        highest = image.max(axis=0) if image.ndim == 3 else image
        saturated = highest >= self.profile.detector.saturation_adu if self.needs_flat else np.zeros(shape, dtype=bool)
        invalid = self._shared(frame.role, np.asarray(saturated | ~np.isfinite(mean)))
        exposure = frame.exposure_s if frame.exposure_s else 1.0
        if frame.role == "flat":
            self._flats.add(mean, frame.energy_eV, frame.time, exposure_s=exposure, repeats=repeats, invalid=invalid)
            self._measure_gain("flat", image)
            return None
        visit = Visit(len(self.visits), len(self.visits), frame.seq, energy, frame.time, exposure, repeats, invalid)
        self.store.put("raw", visit.raw, mean)
        self.visits.append(visit)
        if self.needs_flat:
            self._measure_gain("sample", image)
        return visit

    def _shared(self, role: str, invalid: Mask) -> Mask:
        """Return the last mask of the role instead of an equal one: large frames are many, and lack the same pixels."""
        if not np.array_equal(self._invalid.get(role, ()), invalid):
            self._invalid[role] = invalid
        return self._invalid[role]

    def sort_visits(self) -> None:
        """Number the visits in the order in which they were measured; one whose file was late came in later."""
        self.visits.sort(key=lambda visit: visit.seq)
        for index, visit in enumerate(self.visits):
            visit.index = index

    def _measure_gain(self, role: str, image: Image) -> None:
        gains = self._gains[role]
        if self.profile.detector.electrons_per_adu is None and image.ndim == 3 and len(gains) < _GAINS:
            dark = self.dark
            gain = electrons_per_adu(image, 0.0 if dark is None else dark, self.profile.detector.read_noise_adu)
            if gain is not None:
                gains.append(gain)

    @property
    def dark(self) -> Image | None:
        """The dark (y, x) in ADU, of all dark frames so far."""
        return self._darks.image

    def best_flat(self, visit: Visit) -> int | None:
        """Return the flat for a visit: of the same energy and nearest in time, else nearest in time."""
        return self._flats.best(visit.energy_eV, visit.time)

    def _bad_pixels(self) -> Mask | None:
        state = (self._darks.repeats, min(len(self._flats), 1))
        if state != self._bad_from:
            dark = self.dark
            self._bad = bad_pixels(dark, self._flats.single(0, dark, None) if len(self._flats) else None)
            self._bad_from = state
        return self._bad

    def pool_flats(self) -> None:
        """Replace each flat by what all flats of the run say of it; from 8 usable ones on."""
        self._flats.pool(self.dark, self._bad_pixels(), electrons_per_adu=self.electrons_per_adu)

    @property
    def flat_visits(self) -> float:
        """Number of flats that a flat in use has the noise of."""
        return self._flats.visits

    def density(self, visit: Visit, predicted: Image | None = None) -> OpticalDensity:
        """Return the optical density (or the signal itself) of a visit, with variance and mask.

        With a ``predicted`` optical density (y, x) counts are linearised about it where it is finite, see
        :func:`.working_density`.

        Sets ``visit.flat`` to the flat used and ``visit.rejected`` where the frame says nothing. Without any flat
        the frame's own 99th percentile stands for the open beam; its pattern is then part of the background.
        """
        raw = self.store.get("raw", visit.raw)
        if not self.needs_flat:
            return self._ready_signal(visit, raw)
        bad = self._bad_pixels()
        sample = counts_above_dark(raw, self.dark, bad, exposure_s=visit.exposure_s, saturation_adu=np.inf)
        sample = CountsImage(sample.counts, sample.mask & ~visit.invalid, visit.repeats, visit.exposure_s)
        visit.flat = self.best_flat(visit)
        if visit.flat is None:
            level = float(np.percentile(sample.counts[sample.mask], 99)) if sample.mask.any() else 0.0
            open_beam = np.full(raw.shape, max(level, 1e-3), dtype=np.float32)
            flat = CountsImage(open_beam, np.ones_like(sample.mask), 10**6, visit.exposure_s)
        else:
            flat = self._flats.known(visit.flat, self.dark, bad)
        read = self.profile.detector.read_noise_adu
        result = divide(sample, flat, electrons_per_adu=self.electrons_per_adu, read_noise_adu=read)
        if predicted is None:
            return self._judged(visit, result)
        better = working_density(sample, flat, predicted, electrons_per_adu=self.electrons_per_adu, read_noise_adu=read)
        return OpticalDensity(
            np.where(better.mask, better.image, result.image),
            np.where(better.mask, better.variance, result.variance),
            better.mask | result.mask,
        )

    def quanta(self) -> float:
        """Return the quanta per pixel of a typical visit, repeats together; ``inf`` where frames are not counts."""
        if not self.needs_flat or not self.visits:
            return float("inf")
        dark = 0.0 if self.dark is None else float(np.median(self.dark))
        level = [
            (float(np.median(self.store.get("raw", v.raw))) - dark) * v.repeats for v in self.visits if not v.rejected
        ]
        return self.electrons_per_adu * float(np.median(level)) if level else float("inf")

    def _ready_signal(self, visit: Visit, raw: Image) -> OpticalDensity:
        mask = ~visit.invalid
        if self.profile.signal == "transmission":
            mask = mask & (raw > 0)
            image = -np.log(np.where(mask, raw, np.float32(1)))
        else:
            image = raw
        image = np.where(mask, image, np.float32(np.nan)).astype(np.float32)
        noise = noise_of_image(image)
        if self.profile.signal == "transmission" and np.isfinite(noise):
            # shot noise in transmission: the variance of the optical density grows as 1/T
            relative = 1 / np.maximum(np.where(mask, raw, 1), 1e-3)
            variance = np.float32(noise**2) * relative / np.float32(np.median(relative[mask]))
        else:
            variance = np.full_like(image, noise**2 if np.isfinite(noise) else 1.0)
        return self._judged(visit, OpticalDensity(image, np.where(mask, variance, np.nan).astype(np.float32), mask))

    def _judged(self, visit: Visit, density: OpticalDensity) -> OpticalDensity:
        """Set ``visit.rejected`` where the frame is mostly invalid or dark."""
        valid = float(density.mask.mean())
        visit.rejected = visit.marked
        if valid < LEAST_VALID:
            visit.rejected = (
                f"only {100 * valid:.0f} % of its pixels are valid (beam lost, shutter closed or saturated)"
            )
        elif self.needs_flat and float(np.median(density.image[density.mask])) > _DARKEST_OD:
            visit.rejected = f"its median optical density is above {_DARKEST_OD:g} (beam lost or shutter closed)"
        return density
