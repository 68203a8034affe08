"""All visits of a scan on one grid: registered together, moved once from raw, flicker corrected, borders completed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from txm_stream.alignment.batch import BatchShifts, register_batch
from txm_stream.arrays import Image, Mask, Matrix, Vector
from txm_stream.frame_store import FrameStore
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.open_beam import flicker, open_pixels
from txm_stream.registered import registered_frame, work_binning, work_image
from txm_stream.resampling import field_after_shift
from txm_stream.subspace.borders import Borders, complete_beyond
from txm_stream.subspace.gram import SmoothedGram

FILLED_AT_MOST = 0.2
"""A pixel bridged from its neighbours in more visits than this share says nothing."""


@dataclass(frozen=True, eq=False)
class AlignedScan:
    """A registered scan; its images are in the store under the kind "registered".

    ``gram`` of all visits; ``field`` (y, x) common to all of them; ``bridged`` (y, x), share of the visits in which a
    dead pixel was filled from its neighbours; ``pixel_noise`` (y, x): noise of a whitened pixel relative to the mean,
    rms 1 over the field; ``flicker`` (T,) taken off, in OD.
    """

    gram: SmoothedGram
    shifts: BatchShifts
    field: Mask
    bridged: Image
    pixel_noise: Image
    flicker: Vector
    warnings: tuple[str, ...]

    @property
    def keep(self) -> Vector:
        """Weights of the visits (T,), 0 where rejected."""
        return self.shifts.keep

    def seen(self, visit: int) -> Mask:
        """Return where a visit measured (y, x)."""
        if self.keep[visit] == 0:
            return np.zeros_like(self.field)
        shape = (self.field.shape[0], self.field.shape[1])
        return field_after_shift(shape, self.shifts.shifts_px[visit], float(self.shifts.magnification[visit]))


@dataclass(frozen=True, eq=False)
class Completed:
    """What is known of every pixel once the borders are completed.

    ``field`` (y, x): pixels of which enough is known; ``mask``: those among them that are not bridged too often;
    ``visits`` (y, x) that saw it; ``borders``: what is known of those that some did not see.
    """

    field: Mask
    mask: Mask
    visits: Image
    borders: Borders


def align_scan(normaliser: Normaliser, *, registration: bool) -> AlignedScan:
    """Register all visits, move each once from raw, correct flicker, and build the Gram matrix."""
    if normaliser.needs_flat:
        normaliser.pool_flats()
    shifts, warnings = _shifts(normaliser, registration=registration)
    if normaliser.needs_flat and normaliser.n_flats == 0:
        warnings.append("the run has no flat field: the open beam was taken from each frame, its pattern is background")
    return place_scan(normaliser, shifts, tuple(warnings))


def place_scan(
    normaliser: Normaliser,
    shifts: BatchShifts,
    warnings: tuple[str, ...],
    predicted: Callable[[Visit], Image] | None = None,
) -> AlignedScan:
    """Move every visit by known shifts, correct flicker, and build the Gram matrix.

    ``predicted`` returns what is expected of a visit where it was measured (y, x), in OD, NaN where unknown: counts are
    linearised about it.
    """
    visits, shape, store = normaliser.visits, normaliser.shape or (0, 0), normaliser.store
    told = list(warnings)
    no_open_beam = "no open-beam pixels in the field: illumination flicker is not corrected"
    field = np.ones(shape, dtype=bool)
    total, relative = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    bridged = np.zeros(shape, dtype=np.float32)
    noise = np.ones((len(visits), 2))
    for visit in visits:
        if shifts.keep[visit.index] == 0:
            store.put("registered", visit.index, np.zeros(shape, dtype=np.float32))
            continue
        moved = shifts.shifts_px[visit.index], float(shifts.magnification[visit.index])
        expected = None if predicted is None else predicted(visit)
        frame = registered_frame(normaliser.density(visit, expected), *moved)
        store.put("registered", visit.index, frame.image)
        noise[visit.index] = frame.sigma, frame.factor
        field &= frame.field
        total += frame.image
        relative += frame.relative_variance
        bridged += frame.field & ~frame.known
    used = np.float32(max(float(shifts.keep.sum()), 1.0))
    pixels = open_pixels(total / used, field) if normaliser.profile.signal != "fluorescence" else None
    if pixels is None and normaliser.needs_flat and no_open_beam not in told:
        told.append(no_open_beam)
    gains = np.zeros(len(visits))
    scan = AlignedScan(SmoothedGram(shape), shifts, field, bridged / used, np.sqrt(relative / used), gains, tuple(told))
    for visit, (sigma, factor) in zip(visits, noise, strict=True):
        image = store.get("registered", visit.index)
        seen = np.ones_like(field) if visit.rejected else scan.seen(visit.index)
        if pixels is not None and not visit.rejected:
            gains[visit.index] = flicker(image, pixels)
            image -= np.float32(gains[visit.index])
            store.put("registered", visit.index, image)
        scan.gram.partial_fit(visit.index, image, seen, sigma, factor)
    return scan


def _shifts(normaliser: Normaliser, *, registration: bool) -> tuple[BatchShifts, list[str]]:
    """Find the shifts of all visits in px of the frame; say which visits are rejected, and why."""
    visits, shape = normaliser.visits, normaliser.shape or (0, 0)
    scale = work_binning(shape)
    noise = np.ones(len(visits))
    work = None
    if registration:
        work = normaliser.store.new_stack("work", (len(visits), shape[0] // scale, shape[1] // scale))
    for visit in visits:
        density = normaliser.density(visit)
        if visit.rejected:
            noise[visit.index] = np.inf
        elif work is not None:
            work[visit.index], noise[visit.index] = work_image(density)
    if work is not None:
        energies = np.array([visit.energy_eV for visit in visits])
        shifts = register_batch(
            work, noise, energies_eV=energies, magnification=normaliser.profile.magnification
        ).enlarged(scale, shape)
    else:
        keep = np.isfinite(noise).astype(np.float64)
        shifts = BatchShifts(np.zeros((len(visits), 2)), np.zeros(len(visits)), keep, np.ones(len(visits)))
    for visit in visits:
        if shifts.keep[visit.index] == 0 and not visit.rejected:
            visit.rejected = "it could not be registered"
    rejected = [v for v in visits if v.rejected]
    return shifts, [f"visit {v.index + 1} at {v.energy_eV:.2f} eV rejected: {v.rejected}" for v in rejected]


def complete_borders(scan: AlignedScan, store: FrameStore, basis: Matrix) -> Completed:
    """Fill the borders of the registered images in ``store`` from the subspace ``basis`` (T, K) of whitened visits."""
    sigma = scan.gram.sigma.astype(np.float32)

    def read(visit: int) -> Image:
        return np.asarray(store.get("registered", visit) / sigma[visit])

    used = np.flatnonzero(scan.keep > 0)
    filled, borders = complete_beyond(read, scan.seen, used, basis, scan.field)
    for row, visit in enumerate(used):
        image = store.get("registered", int(visit))
        image[borders.beyond] = filled[row] * sigma[visit]
        store.put("registered", int(visit), image)
    visits = np.full(scan.field.shape, len(used), dtype=np.float32)
    visits[borders.beyond] = borders.seen
    return Completed(borders.field, borders.field & (scan.bridged <= FILLED_AT_MOST), visits, borders)
