"""Stored runs: open where they are, find one, and drive it through the live path."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from txm_stream.callbacks.facts import group_key
from txm_stream.callbacks.orders import DOCUMENT as ORDER
from txm_stream.callbacks.orders import Order
from txm_stream.callbacks.processor import RunProcessor
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.run_groups import RunGroups
from txm_stream.callbacks.scratch import scratch_root
from txm_stream.callbacks.stored import stored_documents
from txm_stream.callbacks.stream import as_target
from txm_stream.errors import NoSuchRunError, UnreachableError
from txm_stream.profile import Profile

_ANSWER_S = 10.0
_LONGEST_SCAN_S = 7 * 86_400.0


@contextlib.contextmanager
def open_source(where: str | Path, profile: Profile | None = None) -> Iterator[Any]:
    """Open a Tiled address, ``databroker:NAME``, or the folder of an embedded server, as a client; a context manager.

    An address without a key gets ``TILED_API_KEY``, then that of the profile.

    Raises
    ------
    UnreachableError
        Nothing answers at the address, it refuses the key, or the folder is not a server's.
    """
    text = str(where)
    if text.startswith("databroker:"):
        catalog = _open_databroker(text.removeprefix("databroker:"))
        try:
            yield catalog
        finally:
            catalog.context.http_client.close()
        return
    if "://" not in text:
        folder = Path(text)
        if not (folder / "catalog.db").exists():
            what = "holds no results" if folder.is_dir() else "does not exist"
            raise UnreachableError(
                f"{folder} {what}; give an address (http://…), or the folder that demo --output or watch --to wrote"
            )
        from txm_stream.callbacks.tiled_server import EmbeddedServer

        with EmbeddedServer(folder, readable_storage=_external_folders(folder / "catalog.db")) as server:
            yield server.client()
        return
    import httpx

    from txm_stream.callbacks.tiled_target import TiledTarget

    target = TiledTarget(text)
    if profile is not None and profile.tiled.api_key is not None and not os.environ.get("TILED_API_KEY"):
        target = replace(target, api_key=target.api_key or profile.tiled.api_key.get_secret_value())
    try:
        httpx.get(target.uri, timeout=_ANSWER_S)  # Tiled's own client would retry for minutes
        client = target.connect()
    except UnreachableError:
        raise
    except Exception as error:
        raise UnreachableError(f"{target.uri} does not answer as a Tiled server: {_line(error)}") from error
    try:
        yield client
    finally:
        target.release(client)


@contextlib.contextmanager
def open_target(to: str | None, source: str, client: Any = None, profile: Profile | None = None) -> Iterator[Any]:
    """Open where results go: an address, or a folder, whose server is started; ``client`` where it is the source."""
    if client is not None and (to is None or to == source):
        yield client
    elif to is None:
        raise UnreachableError("say where results go: --to with a Tiled address or a folder")
    elif "://" in to or to.startswith("databroker:"):
        with open_source(to, profile) as target:
            yield target
    elif client is not None and "://" not in source and Path(to).resolve() == Path(source).resolve():
        yield client
    else:
        from txm_stream.callbacks.tiled_server import EmbeddedServer

        with EmbeddedServer(to) as server:
            yield server.client()


def find_run(client: Any, which: str | int) -> Any:
    """Return a stored run: ``"latest"``, a uid or the beginning of one, or a scan id (its latest run).

    The container is one that Tiled writes itself, or a catalog of databroker (MongoDB).

    Raises
    ------
    NoSuchRunError
        There is none; the message says what there is.
    """
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns
    from tiled.queries import Key, Like, SpecsQuery

    if isinstance(client, CatalogOfBlueskyRuns) and not client.is_sql:
        return _find_in_databroker(client, str(which))
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


def find_scan(client: Any, which: str | int, profile: Profile) -> list[Any]:
    """Return the runs of a stored scan: usually the one that :func:`find_run` finds; where the profile says that every
    energy is a run (``profile.group``), all of the scan that it belongs to, in the order of time.

    Of a databroker catalog (MongoDB) only the one run is returned.
    """
    from tiled.queries import Comparison, Key, SpecsQuery

    run = find_run(client, which)
    if group_key(profile.group, run.start) is None or not hasattr(client, "sort"):
        return [run]
    runs = client.search(SpecsQuery(include=["BlueskyRun"], exclude=[]))
    runs = runs.search(Key("start.plan_name") == run.start["plan_name"]).sort(("start.time", 1))
    at = float(run.start["time"])
    for sense, limit in (("ge", at - _LONGEST_SCAN_S), ("le", at + _LONGEST_SCAN_S)):
        runs = runs.search(Comparison(sense, "start.time", limit))
    groups = RunGroups(profile)
    scans: list[list[Any]] = [[]]
    for other in runs.values():
        for kind, _ in groups("start", other.start):
            scans += [[other]] if kind == "start" else []
            scans[-1] += [other] if kind == "part" else []
        groups("stop", {**(other.metadata.get("stop") or {}), "run_start": other.start["uid"]})
    uid = run.start["uid"]
    return next((scan for scan in scans if any(other.start["uid"] == uid for other in scan)), [run])


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
        A run of a Tiled catalog, see :func:`find_run`, or the list of the runs of one scan, see :func:`find_scan`.
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
    processor = RunProcessor(
        profile, as_target(to, same_process=True, access_tags=profile.tiled.access_tags), folder, live=False
    )
    count = 0
    try:
        for name, document in _documents(run if isinstance(run, list) else [run], profile):
            if name == "stop":
                for order in orders:
                    processor(ORDER, order.document(str(document["run_start"])))
            processor(name, document)
            count += name == "event"
            if progress is not None:
                progress(count)
    finally:
        report = processor.end("the replay was interrupted")
        if not report.undelivered:
            shutil.rmtree(folder, ignore_errors=True)
    return replace(report, scratch=str(folder) if report.undelivered else None)


def _documents(runs: list[Any], profile: Profile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the documents of a scan's runs as those of one run."""
    groups = RunGroups(profile)
    for run in runs:
        for name, document in stored_documents(run, profile):
            yield from groups(name, document)
    yield from groups.close()


def _find_in_databroker(catalog: Any, which: str) -> Any:
    """Use the look-ups of a databroker catalog: Mongo has no query by spec or by pattern."""
    is_scan_id = which.isdecimal() and len(which) < 8
    try:
        return catalog[-1 if which == "latest" else int(which) if is_scan_id else which]
    except (KeyError, IndexError) as error:
        raise NoSuchRunError(f"no run {which!r} in this catalog of {len(catalog)} runs: {_line(error)}") from error


def _open_databroker(name: str) -> Any:
    """Open a catalog that databroker knows by name (a profile of Tiled's client)."""
    import databroker

    if name not in list(databroker.catalog):
        there = ", ".join(sorted(databroker.catalog)) or "none"
        raise UnreachableError(f"databroker knows no catalog {name!r}; known are: {there} (tiled profile list)")
    try:
        return databroker.catalog[name]
    except Exception as error:
        raise UnreachableError(f"databroker's catalog {name!r} cannot be opened: {_line(error)}") from error


def _external_folders(catalog: Path) -> list[Path]:
    """Return the folders of the camera files that a catalog refers to."""
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        uris = [row[0] for row in connection.execute("select data_uri from assets where not is_directory")]
    return sorted({Path(url2pathname(urlparse(uri).path)).parent for uri in uris if uri.startswith("file:")})


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
