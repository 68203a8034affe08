"""Which of a beamline's runs are XANES runs: the others are left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from txm_stream.callbacks.facts import EnergyReader, find_image_key, group_key
from txm_stream.callbacks.router import RunRouter
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

Document = Mapping[str, Any]


class XanesRuns:
    """Passes on the documents of XANES runs, each run from its start on.

    Parameters
    ----------
    profile
        Which streams and keys hold images and energies.
    wanted
        Called with a start document: whether the run is to be processed at all.
    pass_on
        Called with ``(run uids, name, document)``.
    leave_out
        Called with the uid of a run that came to its end and is none.

    Notes
    -----
    A run is a XANES run when one of its image streams has an image, and an energy is in that stream or in the
    start document. Until that is known its documents are held: in memory, usually a dark image or none.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        wanted: Callable[[Document], bool],
        pass_on: Callable[[list[str], str, Document], None],
        leave_out: Callable[[str], None] = lambda uid: None,
    ) -> None:
        documents = profile.documents
        self.profile = profile
        self.wanted = wanted
        self.pass_on = pass_on
        self.leave_out = leave_out
        self._router = RunRouter()
        self._energies = EnergyReader(documents)
        self._names = (documents.primary, documents.flat, documents.dark)
        self._starts: dict[str, Document] = {}
        self._held: dict[str, list[tuple[str, Document]]] = {}
        self._passing: set[str] = set()

    def __call__(self, name: str, document: Document) -> None:
        """Take a document of any run."""
        if name == "start":
            if not self.wanted(document):
                return
            self._starts[str(document["uid"])] = document
            self._held[str(document["uid"])] = []
        elif name == "stop" and document.get("run_start") not in self._starts:
            return
        uids = self._router.route(name, document)
        for uid in uids:
            if uid in self._held:
                self._held[uid].append((name, document))
        passing = [uid for uid in uids if uid in self._passing]
        if passing:
            self.pass_on(passing, name, document)
        if name == "descriptor":
            for uid in uids:
                self._judge(uid, document)
        if name == "stop":
            self._end(uids[0])

    def is_interesting(self, uid: str) -> bool:
        """Whether documents of this run are passed on, or may be."""
        return uid in self._held or uid in self._passing

    def _judge(self, uid: str, descriptor: Document) -> None:
        if uid not in self._held or descriptor.get("name") not in self._names:
            return
        if self._is_xanes(self._starts[uid], descriptor):
            self._passing.add(uid)
            for entry in self._held.pop(uid):
                self.pass_on([uid], *entry)
        elif descriptor["name"] == self._names[0]:
            del self._held[uid]

    def _is_xanes(self, start: Document, descriptor: Document) -> bool:
        documents = self.profile.documents
        if find_image_key(documents, start, descriptor) is None:
            return False
        group = self.profile.group
        if start.get("plan_name") in group.plans and group_key(group, start) is None:
            return False  # tomography at one energy
        keys = {documents.energy_key, "XEng"}
        return bool(self._energies.energies_eV(start)) or any(
            keys & set(where) for where in (start, descriptor["data_keys"])
        )

    def _end(self, uid: str) -> None:
        self._held.pop(uid, None)
        del self._starts[uid]
        if uid not in self._passing:
            logger.info("run %s is left out: no stream of it has an image and an energy", uid[:8])
            self.leave_out(uid)
        self._passing.discard(uid)
