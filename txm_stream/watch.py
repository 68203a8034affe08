"""Watching a beamline from the command line: open source and target, process run by run, end in order."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from txm_stream.profile import Profile

if TYPE_CHECKING:
    from txm_stream.callbacks.report import RunReport
    from txm_stream.callbacks.source_address import SourceAddress
    from txm_stream.callbacks.watch import Source, Watch
    from txm_stream.callbacks.watch_folder import WatchFolder

logger = logging.getLogger("txm_stream")


def watch_source(
    address: SourceAddress,
    *,
    to: str | None,
    profile: Profile | None = None,
    references: tuple[Path, ...] = (),
    fill_from: str | None = None,
    most_runs: int | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Process every XANES run of a source until Ctrl-C or SIGTERM; return the figures of the JSON line.

    Parameters
    ----------
    address
        0MQ proxy, Kafka topics, Tiled server or folder.
    to
        Address of a Tiled server, or the folder of an embedded one; ``None``: back to a Tiled source.
    profile, references
        Default: the simulated beamline; the profile's references.
    fill_from
        Tiled server or folder that has the raw runs: what the source loses is fetched there.
    most_runs
        End after so many runs.
    say
        Prints the one line at the end.

    Raises
    ------
    UnreachableError
        Source or target do not answer, or another watch follows this source for this target.
    MissingPackageError
        The packages for this source are not installed.
    """
    from txm_stream.callbacks.scratch import scratch_root
    from txm_stream.callbacks.sources import open_source, open_target
    from txm_stream.callbacks.watch import Watch
    from txm_stream.callbacks.watch_folder import WatchFolder

    profile = profile or Profile()
    if references:
        profile = profile.model_copy(update={"references": references})
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals_set(ended))
        stack.enter_context(_log_lines())
        is_tiled = address.kind == "tiled"
        client = stack.enter_context(open_source(address.where, profile)) if is_tiled else None
        target = stack.enter_context(open_target(to, address.where if is_tiled else "", client, profile))
        raw = stack.enter_context(open_source(fill_from, profile)) if fill_from is not None else None
        folder = WatchFolder(
            scratch_root(profile),
            str(replace(address, where=_without_key(address.where))),
            _without_key(to or address.where),
            keep_documents=address.kind == "zmq",
            disk_bytes=profile.limits.scratch_gb * 1e9,
        )
        stack.callback(folder.close)
        watch = Watch(target, profile, folder, find=_finder(raw))
        stack.callback(watch.close)
        source = _source(address, client, profile, folder, watch)
        watch.resume()
        logger.info("watching %s; results go to %s", address.where, target.context.api_uri)
        watch.follow(source, ended, most_runs=most_runs)
        watch.close()
        say(_summary(watch))
        return {"runs": [_figures(report) for report in watch.reports], "open": [cut.run_uid for cut in watch.cut]}


def _source(address: SourceAddress, client: Any, profile: Profile, folder: WatchFolder, watch: Watch) -> Source:
    if address.kind == "tiled":
        from txm_stream.callbacks.tiled_source import TiledSource

        return TiledSource(
            client,
            profile,
            since=folder.since,
            resumed=folder.resumed,
            wanted=watch.wanted,
            interesting=watch.is_interesting,
        )
    if address.kind == "kafka":
        from txm_stream.callbacks.kafka_source import KafkaSource

        kafka = KafkaSource(address.where, address.topics, group=f"txm-stream-{folder.path.name}")
        watch.on_settled = kafka.settled
        return kafka
    from txm_stream.callbacks.zmq_source import ZmqSource

    host, _, port = address.where.rpartition(":")
    return ZmqSource(host, int(port), prefix=address.prefix)


def _finder(raw: Any) -> Callable[[str], Any] | None:
    """Return ``find(uid)`` → the stored run, or ``None``."""
    if raw is None:
        return None
    from txm_stream.callbacks.sources import find_run
    from txm_stream.errors import NoSuchRunError

    def find(uid: str) -> Any:
        try:
            return find_run(raw, uid)
        except NoSuchRunError:
            return None

    return find


@contextlib.contextmanager
def _signals_set(ended: threading.Event) -> Iterator[None]:
    """Have the first SIGINT or SIGTERM end the watch in order, and the second at once."""

    def end(number: int, _: Any) -> None:
        ended.set()
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _log_lines() -> Iterator[None]:
    """Show what is logged, from INFO on, as lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _without_key(where: str) -> str:
    return where.partition("?")[0] if "://" in where else str(Path(where).resolve())


def _summary(watch: Watch) -> str:
    final = sum(report.status == "final" for report in watch.reports)
    text = f"{len(watch.reports)} runs done: {final} final, {len(watch.reports) - final} failed"
    for report in watch.cut:
        text += f"; run {report.run_uid[:8]} was open after {report.visits} energies and is taken up at the next start"
    return text


def _figures(report: RunReport) -> dict[str, Any]:
    return {
        "run_uid": report.run_uid,
        "scan_id": report.scan_id,
        "status": report.status,
        "reason": report.reason,
        "energies": report.visits,
        "frames": report.frames_seen,
        "frames_lost": list(report.frames_lost),
        "latency_s_median": report.latency_s_median if math.isfinite(report.latency_s_median) else None,
        "results_path": report.results_path,
    }
