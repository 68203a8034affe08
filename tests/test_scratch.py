"""What a killed process left in the scratch folder is finished by the next one, for the same target, and only then."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_documents import Documents
from stream_recorders import Recorder
from test_stream import big_run, digest_of

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.document_log import DocumentLog, logged_documents
from txm_stream.callbacks.scratch import CUT, Hold, left_runs, room_problem
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.profile import Profile

TARGET = TiledTarget("http://127.0.0.1:1/api/v1", path=("beamline",))
_KILLED = """
import os, pickle, signal, sys, time
profile, target, documents = pickle.load(sys.stdin.buffer)
from stream_recorders import Recorder
from txm_stream.callbacks import XanesStream
stream = XanesStream(profile, tiled=target, worker="thread", processor=Recorder)
for name, document in documents:
    stream(name, document)
log = lambda: [file for file in profile.scratch_dir.glob("*/documents") if file.stat().st_size > 1000]
while stream._feeder.queue.qsize() or not log():
    time.sleep(0.01)
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return Profile(scratch_dir=tmp_path / "scratch")


def killed_over(documents: Documents, profile: Profile, target: TiledTarget = TARGET) -> None:
    """Take documents in a process that is killed before it has processed them."""
    documents[0][1]["trouble"] = "hang"
    handed = pickle.dumps((profile, target, documents))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", _KILLED], input=handed, env=environment, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_that_a_killed_process_left_is_finished_by_the_next_one(
    whole: bool, profile: Profile, tmp_path: Path
) -> None:
    documents = big_run(tmp_path)
    documents = documents if whole else documents[:-4]
    killed_over(documents, profile)
    with XanesStream(profile, tiled=TARGET, worker="thread", processor=Recorder) as stream:
        report = stream.wait(60, run_uid=str(documents[0][1]["uid"]))
    assert report is not None
    assert report.reason == (digest_of(documents) if whole else CUT)
    assert report.frames_seen == (13 if whole else 10)
    assert report.frames_lost == ()
    assert list(profile.scratch_dir.iterdir()) == []


def test_what_is_left_waits_while_a_run_is_measured(profile: Profile, tmp_path: Path) -> None:
    killed_over(big_run(tmp_path, trouble="slow"), profile)
    measured = big_run(tmp_path, seed=1, trouble="slow")
    left_uid = str(big_run(tmp_path)[0][1]["uid"])
    with XanesStream(profile, tiled=TARGET, worker="thread", processor=Recorder) as stream:
        for name, document in measured:
            stream(name, document)
        assert stream.wait(60) is not None
        assert left_uid not in stream.reports
        assert stream.wait(60, run_uid=left_uid) is not None


def test_what_is_left_for_another_place_stays_and_is_removed_when_it_is_old(profile: Profile, tmp_path: Path) -> None:
    killed_over(big_run(tmp_path), profile)
    (folder,) = profile.scratch_dir.iterdir()
    other = TiledTarget("http://127.0.0.1:2/api/v1")
    assert list(left_runs([folder], other.name, keep_days=14)) == []
    assert folder.exists()
    held = Hold(folder)  # somebody is at work on it
    assert list(left_runs([folder], TARGET.name, keep_days=0)) == []
    held.release()
    (left,) = left_runs([folder], TARGET.name, keep_days=14)
    left.hold.release()
    old = time.time() - 15 * 86400
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (old, old))
    assert list(left_runs([folder], TARGET.name, keep_days=14)) == []
    assert not folder.exists()


def test_a_scan_that_the_disk_cannot_hold_is_named_before_its_first_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert room_problem(tmp_path, (1, 64, 64), 10, limit_gb=1.0) == ""
    assert "set scratch_dir" in room_problem(tmp_path / "not" / "there", (1, 65536, 65536), 10**6, limit_gb=1.0)
    small = Profile.from_fields({"scratch_dir": tmp_path / "scratch", "limits": {"scratch_gb": 1e-6}})
    with XanesStream(small, worker="thread", processor=Recorder) as stream:
        for name, document in big_run(tmp_path):
            stream(name, document)
    (line,) = [record.message for record in caplog.records if "needs about" in record.message]
    assert "a scan of 6 energies of 64 × 64 pixels" in line
    assert "limits.scratch_gb allows 1e-06" in line


def test_a_log_that_found_no_room_ends_with_its_last_whole_document(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path / "documents")
    log.append("start", {"uid": "a"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "documents").stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"No space|too large"):
            log.append("event", {"data": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    log.append("stop", {"run_start": "a"})
    log.close()
    assert [name for name, _ in logged_documents(tmp_path / "documents")] == ["start", "stop"]
