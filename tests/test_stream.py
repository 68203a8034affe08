"""XanesStream on a real RunEngine: the scan never notices it, and no frame is lost."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from ophyd.sim import SynSignal
from run_documents import FORMS, Documents, run_documents
from stream_recorders import Recorder

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.handover import BufferPool, hand_over
from txm_stream.callbacks.journal import ArrayRef, Journal, LostArray, load
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM

Kind = Literal["process", "thread"]


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return Profile(scratch_dir=tmp_path / "scratch")


@pytest.fixture
def run_engine() -> Iterator[RunEngine]:
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


def digest_of(documents: Documents) -> str:
    assembler, digest = FrameAssembler(Profile()), hashlib.sha256()
    for name, document in documents:
        for frame in assembler(name, document):
            digest.update(f"{frame.role} {frame.seq} {frame.energy_eV}".encode() + frame.image.tobytes())
    return digest.hexdigest()


def big_run(tmp_path: Path, *, seed: int = 0, **start: Any) -> Documents:
    documents = run_documents("inline", tmp_path, n=6, shape=(2, 64, 64), seed=seed)
    documents[0][1].update(start)
    return documents


@pytest.mark.parametrize(
    ("form", "kind"), [*((form, "thread") for form in FORMS), ("inline", "process"), ("ad_hdf5", "process")]
)
def test_the_worker_gets_every_document_form_unchanged(form: str, kind: Kind, profile: Profile, tmp_path: Path) -> None:
    documents = run_documents(form, tmp_path, shape=(2, 64, 64))
    with XanesStream(profile, worker=kind, processor=Recorder) as stream:
        for name, document in documents:
            stream(name, document)
            for value in document.get("data", {}).values():
                if isinstance(value, np.ndarray):
                    keep = value.copy()
                    value[:] = 0  # the camera's buffer is used again
                    document["data"]["cam_image"] = keep
        report = stream.wait(60)
    assert report is not None
    assert (report.status, report.frames_seen, report.restarts) == ("final", 9, 0)
    assert report.reason == digest_of(documents)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_two_interleaved_runs_are_kept_apart(profile: Profile, tmp_path: Path) -> None:
    runs = [big_run(tmp_path, seed=seed) for seed in (0, 1)]
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for pair in zip(*runs, strict=True):
            for name, document in pair:
                stream(name, document)
        reports = [stream.wait(30, run_uid=run[0][1]["uid"]) for run in runs]
    for run, report in zip(runs, reports, strict=True):
        assert report is not None
        assert report.reason == digest_of(run)


@pytest.mark.parametrize("trouble", ["kill", "raise", "hang"])
def test_a_worker_that_dies_or_hangs_is_replaced_and_the_result_is_complete(
    trouble: str, profile: Profile, tmp_path: Path
) -> None:
    documents = big_run(tmp_path, trouble=trouble)
    with XanesStream(profile, processor=Recorder, stuck_s=3.0) as stream:
        for name, document in documents:
            stream(name, document)
        report = stream.wait(120)
    assert report is not None
    assert (report.status, report.frames_seen, report.restarts) == ("final", 13, 1)
    assert report.reason == digest_of(documents)
    assert report.frames_lost == ()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_run_that_kills_every_worker_fails_with_the_reason_and_the_next_run_works(
    kind: Kind, profile: Profile, tmp_path: Path
) -> None:
    trouble = "kill always" if kind == "process" else "raise always"
    with XanesStream(profile, worker=kind, processor=Recorder) as stream:
        for name, document in big_run(tmp_path, trouble=trouble):
            stream(name, document)
        failed = stream.wait(120)
        for name, document in big_run(tmp_path, seed=1):
            stream(name, document)
        fine = stream.wait(120)
    assert failed is not None
    assert failed.status == "failed"
    assert "the worker died" in failed.reason
    assert fine is not None
    assert fine.status == "final"


def test_a_run_without_stop_document_is_finished_when_the_stream_is_closed(profile: Profile, tmp_path: Path) -> None:
    documents = big_run(tmp_path)[:-1]
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for name, document in documents:
            stream(name, document)
    report = stream.reports[documents[0][1]["uid"]]
    assert report.frames_seen == 13
    assert "without" in report.reason or "before the run had a stop" in report.reason


@pytest.mark.parametrize("nonsense", [("event", None), ("start", {}), ("event", {"descriptor": object()}), (None, 3)])
def test_nonsense_never_raises(nonsense: Any, profile: Profile, tmp_path: Path) -> None:
    documents = big_run(tmp_path)
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        logging.getLogger("txm_stream").disabled = True
        for index, (name, document) in enumerate(documents):
            if index == 5:
                stream(*nonsense)
            stream(name, document)
        report = stream.wait(30, run_uid=documents[0][1]["uid"])
        logging.getLogger("txm_stream").disabled = False
    assert report is not None
    assert report.frames_seen == 13


def test_with_the_disk_full_frames_go_through_memory_then_are_named(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    documents = big_run(tmp_path)
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for name, document in documents:
            stream(name, document)
        report = stream.wait(30)
    assert report is not None
    assert report.reason == digest_of(documents)

    journal = Journal(tmp_path / "x" / "frames.bin", disk_bytes=10**9, memory_bytes=40_000)
    stored = [journal.store(np.full((64, 64), index, np.uint16)) for index in range(6)]
    assert [type(entry) for entry in stored] == [np.ndarray] * 4 + [LostArray] * 2
    journal.release(stored[0])
    assert isinstance(journal.store(np.zeros((64, 64), np.uint16)), np.ndarray)
    assert "No space left" in stored[5].reason


def test_lost_frames_make_the_run_failed_and_are_named(profile: Profile, tmp_path: Path) -> None:
    documents = big_run(tmp_path)
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for name, document in documents:
            stream._room_bytes = 0 if document.get("seq_num") == 3 else 10**9
            stream(name, document)
        report = stream.wait(30)
    assert report is not None
    assert report.status == "failed"
    assert [text.split(" (")[0] for text in report.frames_lost] == ["primary 3", "flat 3"]
    assert "queue_mb" in report.frames_lost[0]


class Broken(dict[str, Any]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("torn")


def test_events_that_cannot_be_copied_routed_or_read_are_lost_by_name(profile: Profile, tmp_path: Path) -> None:
    documents = big_run(tmp_path)
    changes: dict[tuple[str, int], dict[str, Any]] = {
        ("primary", 2): {"data": Broken()},
        ("flat", 5): {"time": "never"},
    }
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for name, document in documents:
            role = str(document.get("descriptor", "")).rsplit("-", 1)[-1]
            place = (role, document.get("seq_num", 0))
            changed = {**document, **changes.get(place, {})}
            if place == ("primary", 4):
                del changed["descriptor"]
            stream(name, changed)
        report = stream.wait(30)
    assert report is not None
    assert report.status == "failed"
    named = [text.split(" (")[0] for text in report.frames_lost]
    assert named == ["primary 2", "a stream not named 4", "flat 5"]
    assert "torn" in report.frames_lost[0]


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", "|u1", "<i8"])
def test_the_journal_gives_arrays_back_exactly(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    journal = Journal(tmp_path / "frames.bin", disk_bytes=10**9, memory_bytes=0)
    arrays = [rng.integers(0, 100, (3, n, 5)).astype(dtype) for n in (1, 4, 0)] + [np.ones((4, 6), dtype).T]
    references = [journal.store(array) for array in arrays]
    journal.close()
    for array, reference in zip(arrays, references, strict=True):
        assert isinstance(reference, ArrayRef)
        back = load(reference)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


def test_a_handed_over_document_shares_nothing_that_can_change() -> None:
    pool = BufferPool()
    image = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    document = {"data": {"image": image, "small": np.arange(3), "list": [1, [2, {"deep": np.ones(2)}]], "text": "x"}}
    handed = hand_over("event", document, pool, room_bytes=1e9)
    image[:], document["data"]["small"][:] = 0, 0
    document["data"]["list"][1][1]["deep"][:] = 7
    data = handed.document["data"]
    np.testing.assert_array_equal(data["image"], np.arange(4096).reshape(64, 64))
    np.testing.assert_array_equal(data["small"], [0, 1, 2])
    np.testing.assert_array_equal(data["list"][1][1]["deep"], [1, 1])
    assert handed.nbytes == image.nbytes


def test_only_memory_that_nobody_can_write_to_is_passed_on_uncopied() -> None:
    owner = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    view = owner[:]
    view.flags.writeable = False
    sealed = owner.copy()
    sealed.flags.writeable = False
    received = np.frombuffer(owner.tobytes(), np.uint16).reshape(64, 64)
    document = {"data": {"view": view, "sealed": sealed, "received": received}}
    handed = hand_over("event", document, BufferPool(), room_bytes=1e9)
    data = handed.document["data"]
    assert not np.shares_memory(data["view"], owner)
    assert data["sealed"] is sealed
    assert data["received"] is received
    assert [buffer is None for buffer in handed.buffers] == [False, True, True]
    assert handed.nbytes == 3 * owner.nbytes


class Timer:
    """Subscribed in the stream's place; measures what the RunEngine's thread spends in it."""

    def __init__(self, stream: XanesStream) -> None:
        self.stream = stream
        self.ms: list[float] = []
        self.threads: set[int] = set()

    def __call__(self, name: str, document: Any) -> None:
        began = time.perf_counter()
        self.stream(name, document)
        self.ms.append(1e3 * (time.perf_counter() - began))
        self.threads.add(threading.get_ident())


@pytest.mark.parametrize("delivery", ["inline", "hdf5"])
def test_the_scan_does_not_notice_and_a_killed_worker_loses_nothing(
    delivery: Literal["inline", "hdf5"], run_engine: RunEngine, profile: Profile, tmp_path: Path
) -> None:
    txm = SimulatedTXM((64, 64), delivery=delivery, directory=tmp_path / "camera", seed=3)
    documents: Documents = []
    run_engine.subscribe(lambda name, document: documents.append((name, document)))
    with XanesStream(profile, processor=Recorder) as stream:
        timer = Timer(stream)
        run_engine.subscribe(timer)
        (uid,) = run_engine(xanes_scan(txm, np.linspace(8320, 8360, 6), md={"trouble": "kill"}))
        report = stream.wait(120, run_uid=uid)
    assert report is not None
    assert (report.status, report.restarts, report.frames_lost) == ("final", 1, ())
    assert report.reason == digest_of(documents)


@pytest.mark.alone
def test_hand_over_takes_no_longer_than_copying(run_engine: RunEngine, profile: Profile) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 60000, (5, 1024, 1024), dtype=np.uint16) for _ in range(3)]
    count = iter(range(10**6))
    camera = SynSignal(func=lambda: images[next(count) % 3].copy(), name="cam_image")
    energy = SynSignal(func=lambda: 8320.0 + next(count), name="energy")

    def plan() -> Any:
        yield from bps.open_run(md={"detectors": ["cam"]})
        for _ in range(30):
            yield from bps.trigger_and_read([camera, energy])
            yield from bps.sleep(0.02)
        yield from bps.close_run()

    with XanesStream(profile, processor=Recorder) as stream:
        timer = Timer(stream)
        run_engine.subscribe(timer)
        run_engine(plan())
        report = stream.wait(120)
    assert report is not None
    assert report.frames_seen == 30
    pool, copies = np.empty_like(images[0]), []
    for index in range(20):
        began = time.perf_counter()
        np.copyto(pool, images[index % 3])
        copies.append(1e3 * (time.perf_counter() - began))
    events = timer.ms[2:-1]
    print(f"\nhand-over of 10 MB: median {np.median(events):.2f} ms, p99 {np.percentile(events, 99):.2f} ms; ", end="")
    print(f"a bare copy: {np.median(copies):.2f} ms; without arrays: {timer.ms[-1]:.3f} ms")
    assert np.median(events) < 3 * np.median(copies) + 3


def test_a_run_whose_start_document_never_came_is_ignored_with_a_line(
    profile: Profile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange, whole = big_run(tmp_path), big_run(tmp_path, seed=1)
    with XanesStream(profile, worker="thread", processor=Recorder) as stream:
        for name, document in [*strange[1:], *whole]:
            stream(name, document)
        report = stream.wait(60)
    assert report is not None
    assert report.reason == digest_of(whole)
    descriptors = sum(name == "descriptor" for name, _ in strange)
    lines = [record.message for record in caplog.records if "its start document never came" in record.message]
    assert len(lines) == descriptors
