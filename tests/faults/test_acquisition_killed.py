"""The process with the RunEngine is killed: its worker finishes the run alone, and what waits is delivered later."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_bench import Bench
from fault_case import EVENTS, Documents
from test_faults import same

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.scratch import Hold
from txm_stream.callbacks.spool import Spool
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.errors import StorageFullError

MOMENTS = [
    pytest.param("middle", marks=pytest.mark.slow),
    pytest.param("early", marks=pytest.mark.soak),
    pytest.param("late", marks=pytest.mark.soak),
]


def killed(bench: Bench, tmp: Path, moment: str, *victims: str) -> tuple[str, Documents]:
    """Kill an acquisition at a moment; return the run and the documents it got so far."""
    at = EVENTS[moment]
    limits = {"server_patience_s": 1.0}
    settings = {
        "uri": bench.server.uri,
        "key": bench.server.api_key,
        "profile": {
            "references": [str(path) for path in bench.references],
            "scratch_dir": str(tmp / "scratch"),
            "limits": limits,
        },
        "txm": bench.facts,
        "energies": bench.energies,
        "uid_file": str(tmp / "uid"),
        "at": at,
        "victims": victims,
    }
    script = Path(__file__).with_name("acquisition.py")
    done = subprocess.run([sys.executable, str(script), json.dumps(settings)], check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL
    events = [document for name, document in bench.documents if name == "event"]
    last = next(i for i, (_, document) in enumerate(bench.documents) if document is events[at - 1])
    return (tmp / "uid").read_text(), bench.documents[: last + 1]


def within(seconds: float, happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.2)
    return happens()


def finish_what_is_left(bench: Bench, tmp: Path) -> None:
    """Let the next stream do it."""
    profile = bench.profile().model_copy(update={"scratch_dir": tmp / "scratch"})
    with XanesStream(profile, tiled=TiledTarget(bench.server.uri, bench.server.api_key)):
        assert within(120, lambda: not any((tmp / "scratch").iterdir()))


def check(bench: Bench, uid: str, documents: Documents, what: str, moment: str, table_row: Callable[..., None]) -> None:
    """What there was of the run is in Tiled, whole, with its reason."""
    path = "/".join((*bench.profile().results_path, uid))
    published = bench.read(RunReport(uid, "final", results_path=path))
    assert published is not None
    visits = EVENTS[moment] // 2
    lost, doubled = visits - len(set(published.seqs)), len(published.seqs) - len(set(published.seqs))
    table_row(what, moment, published.status, str(lost), str(doubled), "-", "-")
    assert published.status == "final"
    assert published.reason == "the acquisition ended without a stop document"
    assert published.seqs == list(range(1, visits + 1))
    same(published.final, bench.in_quiet(documents))


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_worker_of_a_killed_acquisition_finishes_its_run(
    moment: str, bench: Bench, tmp_path: Path, table_row: Callable[..., None]
) -> None:
    uid, documents = killed(bench, tmp_path, moment)
    tree = bench.tree(*bench.profile().results_path)
    assert within(120, lambda: uid in tree and tree[uid].metadata["status"] != "live")
    assert within(60, lambda: not any((tmp_path / "scratch").iterdir()))
    check(bench, uid, documents, "acquisition killed", moment, table_row)


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_a_killed_acquisition_could_not_deliver_is_delivered_from_its_spool(
    moment: str, bench: Bench, tmp_path: Path, table_row: Callable[..., None]
) -> None:
    def left() -> bool:
        spools = sorted((tmp_path / "scratch").rglob("spool"))
        try:
            return bool([file for spool in spools for file in files(Spool(spool))])
        except StorageFullError:  # the worker is still at it
            return False

    def files(spool: Spool) -> list[Path]:
        spool.release()
        return spool.files()

    bench.server.kill()
    try:
        uid, documents = killed(bench, tmp_path, moment)
        assert within(120, left)
    finally:
        bench.server.start()
    finish_what_is_left(bench, tmp_path)
    check(bench, uid, documents, "acquisition killed, Tiled away", moment, table_row)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_whose_acquisition_and_worker_were_killed_is_finished_by_the_next_stream(
    moment: str, bench: Bench, tmp_path: Path, table_row: Callable[..., None]
) -> None:
    uid, documents = killed(bench, tmp_path, moment, "worker")
    results = bench.tree(*bench.profile().results_path)
    assert uid not in results or results[uid].metadata["status"] == "live"
    (folder,) = (tmp_path / "scratch").glob(f"{uid[:8]}-*")
    dying = Hold(folder)  # a process of 600 MB takes its time
    threading.Timer(4.0, dying.release).start()
    finish_what_is_left(bench, tmp_path)
    check(bench, uid, documents, "acquisition and worker killed", moment, table_row)
