"""The one path: frames in, Snapshot out. Live, replay, watch and file processing all drive this class."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from txm_stream.device import fixed_threads
from txm_stream.errors import BadOrderError
from txm_stream.final_pass import final_pass
from txm_stream.flat_field import LEAST_FLATS
from txm_stream.frame_store import FrameStore, release_heap
from txm_stream.frames import Frame, Scan
from txm_stream.live import Endmembers, LiveView, find_endmembers
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.profile import Profile
from txm_stream.results import Result, Snapshot, VisitUpdate
from txm_stream.unmixing.references import References, load_references
from txm_stream.unmixing.region import region_facts

_RENEWED_UP_TO = 512
"""Larger frames keep their single flats while the scan runs: there is no time to divide them again."""
_RENEWED_AT_ONCE = 2

logger = logging.getLogger("txm_stream")


class Pipeline:
    """Process the frames of one run at one sample position.

    Parameters
    ----------
    profile
        Where the data are; its references are loaded here.
    scan
        Facts of the scan, kept for provenance.
    references
        Reference spectra; default: those of the profile, none: edge-50 live and VCA at the end.
    scratch
        Folder for working files; default: a new temporary one. A subfolder is made in it and removed by :meth:`close`.
    seed
        Seed of the bootstrap.

    Notes
    -----
    The way of the data: ``normaliser`` (counts → optical density) → ``live`` (registration, subspace, preview,
    map; a cache) and, in :meth:`finish`, ``final_pass`` (the same from scratch, in visit order).
    Memory grows by a sixteenth of a frame per visit; frames are on disk.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        scan: Scan | None = None,
        references: References | None = None,
        scratch: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.profile = profile
        self.scan = scan
        if references is None and profile.references:
            references = load_references(profile.references)
        self.references = references
        self.seed = seed
        parent = scratch or profile.scratch_dir
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="txm-stream-", dir=parent))
        self._store = FrameStore(self._folder / "frames")
        self._normaliser = Normaliser(profile, self._store)
        self._live: LiveView | None = None
        self._shown: set[int] = set()
        self._placed_again_at = 0
        self._pooled_at = 0
        self._single: list[int] = []
        self._regions: list[tuple[int, int, int, int]] = []

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def keep(self, frame: Frame) -> None:
        """Take a frame for :meth:`finish` alone; nothing of it is shown.

        Raises
        ------
        BadFrameError
            The frame does not fit; nothing is changed.
        """
        self._normaliser.add(frame)

    def ingest(self, frame: Frame) -> list[VisitUpdate]:
        """Take a frame into the statistics; return the visits that became visible or changed (often none or one).

        A sample frame is normalised at once with the best flat so far. The very first one waits for its flat; when a
        second comes and there is still none, both go on without (see :meth:`.Normaliser.density`). A flat that is
        better than the one in use replaces the visit exactly.

        Raises
        ------
        BadFrameError
            The frame does not fit; the statistics are unchanged.
        """
        visit = self._normaliser.add(frame)
        if frame.role == "dark":
            return []
        if frame.role == "flat":
            changed = [
                v
                for v in self._normaliser.visits
                if v.index not in self._shown or v.flat != self._normaliser.best_flat(v)
            ]
            return [self._show(v) for v in changed]
        if visit is None:
            return []
        if self._normaliser.needs_flat and self._normaliser.n_flats == 0 and visit.index == 0:
            return []
        return [self._show(v) for v in self._normaliser.visits if v.index not in self._shown]

    def _show(self, visit: Visit, *, anew: bool = False) -> VisitUpdate:
        density = self._normaliser.density(visit)
        if self._live is None:
            shape = (density.image.shape[0], density.image.shape[1])
            self._live = LiveView(
                shape,
                self.references,
                self._store,
                registration=self.profile.registration,
                seed=self.seed,
                proportional=self.profile.magnification == "proportional",
            )
        first = visit.index not in self._shown
        noisy = self._live.include(visit, density, anew=anew)
        self._shown.add(visit.index)
        return VisitUpdate(visit.index, visit.energy_eV, noisy, first, self._live.noise_of(visit.index))

    def mark(self, index: int, reason: str) -> list[VisitUpdate]:
        """Take the weight of a visit (numbered from 0) for a ``reason``, with none give it back; return what changed.

        Raises
        ------
        BadOrderError
            There is no such visit yet.
        """
        visits = self._normaliser.visits
        if not 0 <= index < len(visits):
            raise BadOrderError(f"visit {index + 1} is not there: {len(visits)} so far; wait for it")
        visits[index].marked = reason
        return [self._show(visits[index], anew=not reason)] if index in self._shown else []

    def refit(self, region: tuple[int, int, int, int]) -> None:
        """Have the mean spectrum of a region (y0, y1, x0, x1) fitted in :meth:`finish`, with its own energy shift.

        Raises
        ------
        BadOrderError
            It does not lie in the frame.
        """
        shape = self._normaliser.shape
        if shape is not None and (region[1] > shape[0] or region[3] > shape[1]):
            raise BadOrderError(f"region {region} reaches beyond the frame of {shape[0]} x {shape[1]} pixels")
        self._regions.append(region)

    def snapshot(self) -> Snapshot:
        """Compute previews and map of what is there now (skippable: it changes no answer)."""
        if self._live is None:
            return Snapshot()
        flats = self._normaliser.n_flats
        pooled_later = flats >= LEAST_FLATS and not self._pooled_at
        self._live.flat_share = 1 / flats if pooled_later else 1.0
        return self._live.snapshot()

    def settle(self, *, forecast: bool = True) -> list[VisitUpdate]:
        """Do what :meth:`snapshot` put off; call it when nobody waits (the next snapshot does it otherwise).

        An early visit that was placed by too little is placed again, and visits that were divided by single flats are
        divided by pooled ones, one at a time: what it costs to show it must not delay the next one. They are returned.
        The ``forecast`` of the final map takes up to a second.
        """
        if self._live is None:
            return []
        self._live.settle(forecast=forecast)
        renewed = self._renew()
        if renewed:
            return renewed
        if self._placed_again_at == len(self._shown):
            return []
        self._placed_again_at = len(self._shown)
        weak = self._live.weakest()
        return [] if weak is None else [self._show(self._normaliser.visits[weak], anew=True)]

    def _renew(self) -> list[VisitUpdate]:
        """Pool the flats when there are twice as many as the last time; show a visit or two with them."""
        flats = self._normaliser.n_flats
        small = max(self._normaliser.shape or (0, 0)) <= _RENEWED_UP_TO
        if small and flats >= max(LEAST_FLATS, 2 * self._pooled_at):
            self._normaliser.pool_flats()
            self._pooled_at = flats
            self._single = sorted(self._shown)
        renewed: list[VisitUpdate] = []
        while self._single and len(renewed) < _RENEWED_AT_ONCE:
            visit = self._normaliser.visits[self._single.pop()]
            if not visit.rejected:
                renewed.append(self._show(visit))
        return renewed

    @property
    def n_visits(self) -> int:
        """Number of sample frames taken in."""
        return len(self._normaliser.visits)

    @property
    def final_rmse(self) -> float:
        """Expected abundance RMSE of the final map, were the scan to end now, as of the last :meth:`settle`; or NaN."""
        return float("nan") if self._live is None else self._live.chemistry.final_rmse

    def endmembers(self, snapshot: Snapshot) -> Endmembers | None:
        """Return where the images of a snapshot change and the spectra in them; ``None`` with references given."""
        if self.references is not None:
            return None
        return find_endmembers(snapshot, rng=np.random.default_rng(self.seed))

    def add(self, frame: Frame) -> Snapshot:
        """Ingest a frame and return a snapshot."""
        self.ingest(frame)
        return self.snapshot()

    def finish(self) -> Result:
        """Return the final result: a pure function of the frames, in the order of ``seq``, whatever was shown live.

        Its stacks are memory-mapped files that :meth:`close` removes: copy what must outlive the pipeline.

        Raises
        ------
        MissingFramesError
            No sample frame can be used.
        """
        self._live = None
        self._normaliser.sort_visits()
        release_heap()
        with fixed_threads():
            result = final_pass(
                self._normaliser, self.references, registration=self.profile.registration, seed=self.seed
            )
            if not self._regions:
                return result
            found = [region_facts(result.noisy, result.energies_eV, self.references, box) for box in self._regions]
            return replace(result, provenance=result.provenance | {"regions": found})

    def close(self) -> None:
        """Remove working files."""
        self._store.close()
        if self._folder.is_dir():
            self._folder.rmdir()
