"""What the cases share: server, proxy, streams, the reference run, and how results are read back."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine
from fault_case import Documents
from fault_processor import Troubled
from fault_proxy import FaultyProxy

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.processor import RunProcessor
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo_parts import write_references
from txm_stream.profile import Limits, Profile
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = 8
"""Few, and so near the edge that a map is well determined with any seven of them."""
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Published:
    """What a run has in Tiled."""

    status: str
    reason: str
    seqs: list[int]
    frames: int
    final: Arrays
    warnings: tuple[str, ...]


class Bench:
    """The instruments; everything is made when it is first needed."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self.facts: dict[str, Any] = {"shape": (32, 32), "photons": 4000, "seed": 2}
        self.facts |= {"chunk_size": 2, "exposure_s": 0.015}
        self.energies = [8320.0, 8336.0, 8340.0, 8343.0, 8346.0, 8349.0, 8353.0, 8400.0]
        self.references = write_references(self.txm(), folder / "references")
        self.proxy = FaultyProxy(server.port)
        self.scratch = folder / "scratch"
        self._streams: dict[Any, XanesStream] = {}
        self._quiet: dict[str, Arrays] = {}
        self._numbers = itertools.count()
        self._client: Any = None
        self.documents: Documents = []
        self.reference: Published | None = None
        self.reference_s = 0.0

    def txm(self, **changes: Any) -> SimulatedTXM:
        """Return a microscope; without changes always the same frames."""
        return SimulatedTXM(**{**self.facts, **changes})

    def target(self, way: str) -> TiledTarget:
        """Return the server as a target, "direct" or through the "proxy"."""
        return TiledTarget(self.proxy.uri if way == "proxy" else self.server.uri, self.server.api_key)

    def profile(self, **limits: Any) -> Profile:
        """Return the profile of all cases."""
        return Profile(
            references=self.references,
            scratch_dir=self.scratch,
            limits=Limits(**{"server_patience_s": 60.0, **limits}),
        )

    def stream(self, way: str, options: tuple[tuple[str, Any], ...], *, own: bool = False) -> XanesStream:
        """Return a stream with a process of its own at work; the same one for the same options."""
        key = (way, repr(options), next(self._numbers) if own else None)
        if key not in self._streams:
            given = dict(options)
            profile = self.profile(**given.pop("limits", {}))
            stream = XanesStream(profile, tiled=self.target(way), **{"processor": Troubled, **given})
            if given.get("ready", True):
                stream.ready(120)
            self._streams[key] = stream
        return self._streams[key]

    def set_reference(self, engine: RunEngine) -> None:
        """Run the scan without a fault; what it gives is the measure of all cases."""
        token = engine.subscribe(lambda name, document: self.documents.append((name, document)))
        stream = self.stream("direct", ())
        both = engine.subscribe(stream)
        began = time.monotonic()
        engine(xanes_scan(self.txm(), self.energies))
        engine.unsubscribe(token)
        engine.unsubscribe(both)
        report = stream.wait(240)
        self.reference_s = time.monotonic() - began
        assert report is not None
        assert report.status == "final", report.reason
        self.reference = self.read(report)
        assert self.reference is not None
        assert self.reference.seqs == list(range(1, ENERGIES + 1))

    def in_quiet(self, documents: Documents) -> Arrays:
        """Process documents without a fault, a worker or a server; return what ``final/`` should hold."""
        digest = hashlib.sha256()
        for name, document in documents:
            if name == "event":
                digest.update(pickle.dumps(sorted(document["data"].items())))
        key = digest.hexdigest()
        if key not in self._quiet:
            processor = RunProcessor(self.profile(), None, self.folder / "quiet" / key, live=False)
            for name, document in documents:
                processor(name, document)
            report = processor.end()
            assert report.result is not None, report.reason
            self._quiet[key] = {name: np.array(array) for name, array in report.result.images().items()}
        return self._quiet[key]

    def tree(self, *path: str) -> Any:
        """Return a node of the results."""
        if self._client is None:
            self._client = self.server.client()
        node = self._client
        for part in path:
            node = node[part]
        return node

    def read(self, report: RunReport) -> Published | None:
        """Return what a run has in Tiled, ``None`` where there is nothing."""
        with contextlib.suppress(KeyError):
            tree = self.tree(*str(report.results_path).split("/"))
            live, final = tree.get("live"), tree.get("final")
            metrics = None if live is None else live.get("metrics")
            noisy = None if live is None else live.get("noisy")
            attrs = {} if final is None else final.metadata.get("attrs", {})
            return Published(
                status=str(tree.metadata["status"]),
                reason=str(tree.metadata["reason"]),
                seqs=[] if metrics is None else metrics.read()["seq"].tolist(),
                frames=0 if noisy is None else int(noisy.shape[0]),
                final={} if final is None else {name: node.read() for name, node in final.items()},
                warnings=tuple(attrs.get("warnings", ())),
            )
        return None

    def close(self) -> None:
        """End streams and proxy."""
        for stream in self._streams.values():
            stream.close(60)
        self.proxy.close()
