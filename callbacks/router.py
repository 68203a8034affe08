"""Which run a document belongs to: the runs of one RunEngine may be interleaved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunRouter:
    """Tell the run of each document from the references between documents.

    Resources may leave out their run; such a document, and what refers to it, goes to every open run
    (a run that has no use for it ignores it). Runs are forgotten with their stop document.
    """

    def __init__(self) -> None:
        self._open: dict[str, set[str]] = {}
        self._runs: dict[str, str] = {}

    def route(self, name: str, document: Mapping[str, Any]) -> list[str]:
        """Return the uids of the runs that need this document; empty where it belongs to no open run."""
        if name == "start":
            self._open[str(document["uid"])] = set()
            return [str(document["uid"])]
        run = self._run_of(name, document)
        if run is None:
            return list(self._open) if name in ("resource", "stream_resource", "datum", "datum_page") else []
        if run not in self._open:
            return []
        if name in ("descriptor", "resource", "stream_resource"):
            self._runs[str(document["uid"])] = run
            self._open[run].add(str(document["uid"]))
        elif name == "stop":
            for uid in self._open.pop(run):
                self._runs.pop(uid, None)
        return [run]

    def _run_of(self, name: str, document: Mapping[str, Any]) -> str | None:
        if name in ("descriptor", "stop", "resource", "stream_resource", "order", "part", "part_stop"):
            run = document.get("run_start")
            return None if run is None else str(run)
        reference = document["resource"] if name in ("datum", "datum_page") else document["descriptor"]
        return self._runs.get(str(reference))
