"""Flats of a run: which of them a visit is divided by, and what all of them together say of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from txm_stream.arrays import Image, Mask
from txm_stream.flat_field import LEAST_FLATS, DynamicFlatField
from txm_stream.frame_store import FrameStore
from txm_stream.optical_density import CountsImage, counts_above_dark

LEAST_VALID = 0.5
"""Share of pixels below which a frame says nothing."""
_SAME_ENERGY_EV = 0.05


@dataclass(frozen=True)
class _Flat:
    energy_eV: float | None
    time: float
    exposure_s: float
    repeats: int
    invalid: Mask


class Flats:
    """Flats of a run, in the order in which they came; their images are in ``store``."""

    def __init__(self, store: FrameStore) -> None:
        self._store = store
        self._flats: list[_Flat] = []
        self._pool: DynamicFlatField | None = None
        self._in_pool: dict[int, int] = {}
        self._pooled = 0

    def __len__(self) -> int:
        return len(self._flats)

    def add(
        self, mean: Image, energy_eV: float | None, time: float, *, exposure_s: float, repeats: int, invalid: Mask
    ) -> None:
        """Take a flat: the mean (y, x) of its repeats in ADU, where it is invalid, and when it was measured."""
        self._store.put("flat", len(self._flats), mean)
        self._flats.append(_Flat(energy_eV, time, exposure_s, repeats, invalid))

    def best(self, energy_eV: float, time: float) -> int | None:
        """Return the flat for a visit: of the same energy and nearest in time, else nearest in time."""
        if not self._flats:
            return None

        def distance(index: int) -> tuple[bool, float]:
            flat = self._flats[index]
            same = flat.energy_eV is not None and abs(flat.energy_eV - energy_eV) < _SAME_ENERGY_EV
            return (not same, abs(flat.time - time))

        return min(range(len(self._flats)), key=distance)

    def single(self, index: int, dark: Image | None, bad: Mask | None) -> CountsImage:
        """Return a flat above dark, by itself."""
        flat = self._flats[index]
        image = self._store.get("flat", index)
        counts = counts_above_dark(image, dark, bad, exposure_s=flat.exposure_s, saturation_adu=np.inf)
        return CountsImage(counts.counts, counts.mask & ~flat.invalid, flat.repeats, flat.exposure_s)

    def pool(self, dark: Image | None, bad: Mask | None, *, electrons_per_adu: float) -> None:
        """Replace each flat by what all flats of the run say of it; from 8 usable ones on."""
        self._pool = None
        if len(self) < LEAST_FLATS:
            return
        levels = []
        for i in range(len(self)):
            flat = self.single(i, dark, bad)
            levels.append(float(np.median(flat.counts[flat.mask])) if flat.mask.any() else 0.0)
        usable = [i for i, level in enumerate(levels) if level > 0.2 * float(np.median(levels))]
        mask = np.ones(self._flats[0].invalid.shape, dtype=bool)
        for i in usable:
            flat = self.single(i, dark, bad)
            mask &= flat.mask & (flat.counts > 0)
        if len(usable) < LEAST_FLATS or mask.mean() < LEAST_VALID:
            return
        repeats = float(np.median([self._flats[i].repeats for i in usable]))
        relative = 1.0 / np.sqrt(electrons_per_adu * float(np.median([levels[i] for i in usable])) * repeats)
        self._pooled = len(self)
        self._in_pool = {i: position for position, i in enumerate(usable)}
        self._pool = DynamicFlatField(lambda i: self.single(usable[i], dark, bad).counts, len(usable), mask, relative)

    @property
    def visits(self) -> float:
        """Number of flats that a flat in use has the noise of."""
        return 1.0 if self._pool is None else 1.0 / self._pool.variance_share

    def known(self, index: int, dark: Image | None, bad: Mask | None) -> CountsImage:
        """Return a flat above dark as it is used: as all flats of the run tell it, where they were pooled."""
        flat = self.single(index, dark, bad)
        if self._pool is None:
            return flat
        if index in self._in_pool:
            pooled = self._pool.flat(self._in_pool[index])
        elif index >= self._pooled and flat.mask.any():  # came after the pool, while the scan runs
            pooled = np.where(flat.mask, self._pool.like(flat.counts, flat.mask), flat.counts)
        else:
            return flat
        return replace(flat, counts=pooled, repeats=flat.repeats / self._pool.variance_share)
