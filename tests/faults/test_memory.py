"""Scan after scan on one stream: memory stays flat, and no thread, file, connection or process is left behind."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from bluesky import RunEngine

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM, VirtualClock

SHAPE = (512, 512)
MOST_MB = 50.0


@dataclass(frozen=True)
class Holdings:
    """What a process holds; memory is anonymous memory in MB, without the pages of files."""

    memory_mb: float
    threads: int
    files: int
    connections: int

    @classmethod
    def of(cls, pid: int) -> Holdings:
        process = psutil.Process(pid)
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        (anonymous,) = [int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:")]
        sockets = len(process.net_connections(kind="tcp"))
        return cls(anonymous, process.num_threads(), process.num_fds() - sockets, sockets)


@pytest.mark.parametrize(
    ("frames", "energies"),
    [
        pytest.param(500, 24, marks=pytest.mark.slow, id="500-frames"),
        pytest.param(5000, 60, marks=pytest.mark.soak, id="5000-frames"),
    ],
)
def test_scan_after_scan_memory_stays_flat_and_nothing_is_left_behind(
    frames: int, energies: int, engine: RunEngine, tmp_path: Path
) -> None:
    clock = VirtualClock()
    txm = SimulatedTXM(SHAPE, clock=clock)
    energies_eV = list(np.linspace(8320.0, 8380.0, energies))
    profile = Profile(scratch_dir=tmp_path / "scratch")
    before = Holdings.of(psutil.Process().pid)
    taken, held, worker_held = 0, [], []
    with EmbeddedServer(tmp_path / "server") as server:
        with XanesStream(profile, tiled=server.client()) as stream:
            assert stream.ready(120)
            worker = stream._supervisor.worker.process.pid
            token = engine.subscribe(stream)
            while taken < frames:
                engine(xanes_scan(txm, energies_eV))
                report = stream.wait(600)
                assert report is not None
                assert (report.status, report.frames_lost, report.restarts) == ("final", (), 0)
                taken += report.frames_seen
                gc.collect()
                time.sleep(0.5)
                held.append(Holdings.of(psutil.Process().pid))
                worker_held.append(Holdings.of(worker))
                print(f"{taken} frames: {held[-1].memory_mb:.0f} MB, worker {worker_held[-1]}")
            engine.unsubscribe(token)
            assert list(profile.scratch_dir.iterdir()) == []
        assert not psutil.pid_exists(worker)
    after = Holdings.of(psutil.Process().pid)
    for series in (held, worker_held):
        first, last = series[1], series[-1]  # the first scan fills caches
        grown = np.median([held.memory_mb for held in series[-3:]]) - np.median(
            [held.memory_mb for held in series[1:4]]
        )
        assert grown <= MOST_MB
        assert last.threads <= first.threads
        assert last.files <= first.files
        assert last.connections <= first.connections
    assert after.threads <= before.threads
    assert after.files <= before.files
    assert after.connections <= before.connections
