"""Stored runs: find one in Tiled, read it frame by frame from its nodes, and drive it through the live path."""

from __future__ import annotations

import contextlib
import heapq
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from txm_stream.callbacks.facts import find_image_key
from txm_stream.callbacks.feeder import scratch_root
from txm_stream.callbacks.journal import LostArray
from txm_stream.callbacks.orders import DOCUMENT as ORDER
from txm_stream.callbacks.orders import Order
from txm_stream.callbacks.processor import RunProcessor
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.stream import as_target
from txm_stream.errors import NoSuchRunError, UnreachableError
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_BLOCK_BYTES = 32_000_000
_ANSWER_S = 10.0


@contextlib.contextmanager
def open_source(where: str | Path) -> Iterator[Any]:
    """Open a Tiled address, or the folder of an embedded server, as a client; a context manager.

    Raises
    ------
    UnreachableError
        Nothing answers at the address, it refuses the key, or the folder is not a server's.
    """
    text = str(where)
    if "://" not in text:
        folder = Path(text)
        if not (folder / "catalog.db").exists():
            raise UnreachableError(f"{folder} is not the folder of an embedded server (it has no catalog.db)")
        from txm_stream.callbacks.tiled_server import EmbeddedServer

        with EmbeddedServer(folder, readable_storage=_external_folders(folder / "catalog.db")) as server:
            yield server.client()
        return
    import httpx

    from txm_stream.callbacks.tiled_target import TiledTarget

    target = TiledTarget(text)
    try:
        httpx.get(target.uri, timeout=_ANSWER_S)  # Tiled's own client would retry for minutes
        client = target.connect()
    except Exception as error:
        raise UnreachableError(f"{target.uri} does not answer as a Tiled server: {_line(error)}") from error
    try:
        yield client
    finally:
        target.release(client)


def find_run(client: Any, which: str | int) -> Any:
    """Return a stored run: ``"latest"``, a uid or the beginning of one, or a scan id (its latest run).

    Raises
    ------
    NoSuchRunError
        There is none; the message says what there is.
    """
    from tiled.queries import Key, Like, SpecsQuery

    runs = client.search(SpecsQuery(include=["BlueskyRun"], exclude=[])).sort(("start.time", -1))
    name = str(which)
    if name == "latest":
        found = runs
    elif name.isdecimal() and len(name) < 8:
        found = runs.search(Key("start.scan_id") == int(name))
    else:
        found = runs.search(Like("start.uid", f"{name}%"))
    for run in found.values().head(1):
        return run
    count = len(runs)
    there = [f"{run.start['uid'][:8]} (scan {run.start.get('scan_id')})" for run in runs.values().head(5)]
    listed = f"the latest of {count}: {', '.join(there)}" if count else "there are no runs at all"
    raise NoSuchRunError(f"no run {name!r} in {'/'.join(client.path_parts) or 'the root of the catalog'}; {listed}")


def stored_documents(run: Any, profile: Profile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents of a stored run with the images in the events, all streams in the order of time.

    Notes
    -----
    Reads nodes, not ``run.documents()`` (which turns images into lists). Memory: one block of frames per stream.
    A frame that the server cannot read becomes a lost one, not an error.
    """
    start = _plain(run.start)
    yield "start", start
    streams = {profile.documents.primary, profile.documents.flat, profile.documents.dark}
    events = []
    for name in [name for name in run if name in streams]:
        descriptors = [_plain(descriptor) for descriptor in run[name].descriptors]
        for descriptor in descriptors:
            yield "descriptor", {"name": name, "run_start": start["uid"], **descriptor}
        events.append(_events(name, run[name], start, descriptors, profile))
    for event in heapq.merge(*events, key=lambda event: (event["time"], event["uid"])):
        yield "event", event
    stop = _plain(run.stop) if run.stop else {"run_start": start["uid"], "exit_status": "abort", "reason": "no stop"}
    yield "stop", stop


def replay(
    run: Any,
    *,
    to: Any = None,
    profile: Profile | None = None,
    orders: Sequence[Order] = (),
    progress: Callable[[int], None] | None = None,
) -> RunReport:
    """Process a stored run as if it were live; return its report, with the result in it.

    Parameters
    ----------
    run
        A run of a Tiled catalog, see :func:`find_run`.
    to
        A Tiled client or ``TiledTarget`` to publish to; ``None``: only return the result.
    profile
        Where the data are; default: the simulated beamline.
    orders
        The operator's, obeyed before the final pass; see :func:`.recorded_orders`.
    progress
        Called with the number of events read so far.
    """
    profile = profile or Profile()
    root = scratch_root(profile)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="replay-", dir=root))
    processor = RunProcessor(profile, as_target(to, same_process=True), folder, live=False)
    count = 0
    try:
        for name, document in stored_documents(run, profile):
            if name == "stop":
                for order in orders:
                    processor(ORDER, order.document(str(run.start["uid"])))
            processor(name, document)
            count += name == "event"
            if progress is not None:
                progress(count)
    finally:
        report = processor.end("the replay was interrupted")
        if not report.undelivered:
            shutil.rmtree(folder, ignore_errors=True)
    return replace(report, scratch=str(folder) if report.undelivered else None)


def _external_folders(catalog: Path) -> list[Path]:
    """Return the folders of the camera files that a catalog refers to."""
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        uris = [row[0] for row in connection.execute("select data_uri from assets where not is_directory")]
    return sorted({Path(url2pathname(urlparse(uri).path)).parent for uri in uris if uri.startswith("file:")})


def _events(
    name: str, node: Any, start: dict[str, Any], descriptors: list[dict[str, Any]], profile: Profile
) -> Iterator[dict[str, Any]]:
    image_key = find_image_key(profile.documents, start, descriptors[0]) if descriptors else None
    columns = set(node)
    if image_key is None or image_key not in columns or "seq_num" not in columns:
        logger.warning("stream %s of the stored run has no image and is left out", name)
        return
    wanted = {"seq_num", "time", profile.documents.energy_key, "XEng", profile.documents.exposure_key} & columns
    table = {column: np.asarray(node[column].read()) for column in wanted}
    image = node[image_key]
    block = max(1, _BLOCK_BYTES // max(int(np.prod(image.shape[1:])) * image.dtype.itemsize, 1))
    rows = np.argsort(table["seq_num"], kind="stable")
    frames: Any = None
    failures: list[str] = []
    for place, row in enumerate(rows):
        if place % block == 0:
            frames = _read_block(image, place, min(place + block, len(rows)), failures)
        time = float(table["time"][row])
        descriptor = [entry for entry in descriptors if entry["time"] <= time][-1:] or descriptors[:1]
        data = {column: table[column][row].item() for column in wanted - {"seq_num", "time"}}
        data[image_key] = frames[place % block]
        seq = int(table["seq_num"][row])
        uid = f"{descriptor[0]['uid']}/{seq}"
        yield {"uid": uid, "descriptor": descriptor[0]["uid"], "seq_num": seq, "time": time, "data": data}


def _read_block(image: Any, first: int, last: int, failures: list[str]) -> Any:
    """Read rows ``first`` to ``last``; one by one where they cannot be read together.

    Every failure costs the patience of Tiled's client: after three in a row the rest of the stream is given up.
    """
    if len(failures) >= 3:
        return [LostArray(failures[-1])] * (last - first)
    try:
        if last > image.shape[0]:
            raise IndexError(f"the stored array has {image.shape[0]} rows")
        frames = np.asarray(image[first:last])
        failures.clear()
        return frames
    except Exception as error:
        if last - first == 1:
            failures.append(f"the server cannot read it: {_line(error)}")
            return [LostArray(failures[-1])]
        return [_read_block(image, row, row + 1, failures)[0] for row in range(first, last)]


def _plain(document: Any) -> dict[str, Any]:
    return dict(document.to_dict() if hasattr(document, "to_dict") else document)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
