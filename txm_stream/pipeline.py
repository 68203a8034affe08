"""The one path: frames in, Snapshot out. Live, replay, watch and file processing all drive this class."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from txm_stream.device import fixed_threads
from txm_stream.final_pass import final_pass
from txm_stream.frame_store import FrameStore, release_heap
from txm_stream.frames import Frame, Scan
from txm_stream.live_view import LiveView
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.profile import Profile
from txm_stream.results import Result, Snapshot, VisitUpdate
from txm_stream.unmixing.references import References, load_references

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
    The way of the data: ``normaliser`` (counts → optical density) → ``live_view`` (registration, subspace, preview,
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
        return VisitUpdate(visit.index, visit.energy_eV, noisy, first)

    def snapshot(self) -> Snapshot:
        """Compute previews and map of what is there now (skippable: it changes no answer)."""
        return Snapshot() if self._live is None else self._live.snapshot()

    def settle(self) -> list[VisitUpdate]:
        """Do what :meth:`snapshot` put off; call it when nobody waits (the next snapshot does it otherwise).

        An early visit that was placed by too little is placed again and returned, one for every visit shown: what it
        costs to show it must not delay the next one.
        """
        if self._live is None:
            return []
        self._live.settle()
        if self._placed_again_at == len(self._shown):
            return []
        self._placed_again_at = len(self._shown)
        weak = self._live.weakest()
        return [] if weak is None else [self._show(self._normaliser.visits[weak], anew=True)]

    def add(self, frame: Frame) -> Snapshot:
        """Ingest a frame and return a snapshot."""
        self.ingest(frame)
        return self.snapshot()

    def finish(self) -> Result:
        """Return the final result: a pure function of the frames, whatever was shown live.

        Its stacks are memory-mapped files that :meth:`close` removes: copy what must outlive the pipeline.

        Raises
        ------
        MissingFramesError
            No sample frame can be used.
        """
        self._live = None
        release_heap()
        with fixed_threads():
            return final_pass(self._normaliser, self.references, registration=self.profile.registration, seed=self.seed)

    def close(self) -> None:
        """Remove working files."""
        self._store.close()
        if self._folder.is_dir():
            self._folder.rmdir()
