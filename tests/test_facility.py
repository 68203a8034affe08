"""The facilities' set-up: results in a Tiled server with a PostgreSQL catalog and Redis streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facility as facilities
import numpy as np
import pytest
from bluesky import RunEngine
from facility import Facility, reading, target_of

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.demo_parts import write_references
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = nickel_energies(10).tolist()


@pytest.fixture(scope="module")
def facility() -> Iterator[Facility]:
    if package := facilities.missing():
        pytest.skip(f"{package} is not installed (Debian package {package})")
    with Facility() as running:
        yield running


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    references = write_references(SimulatedTXM((48, 48), seed=4), tmp_path / "references")
    return Profile(references=references, scratch_dir=tmp_path / "scratch")


def scan(engine: RunEngine, profile: Profile, target: Any, *, at_event: dict[int, Any] | None = None) -> Any:
    """Take the same scan every time; ``at_event`` says what happens at which event of the sample."""
    txm = SimulatedTXM((48, 48), photons=4000, seed=4)
    count = iter(range(1000))

    def plan() -> Any:
        for message in xanes_scan(txm, ENERGIES):
            if message.command == "save" and (happens := (at_event or {}).get(next(count))) is not None:
                happens()
            yield message

    with XanesStream(profile, tiled=target) as stream:
        token = engine.subscribe(stream)
        (uid,) = engine(plan())
        engine.unsubscribe(token)
        report = stream.wait(180, run_uid=uid)
    assert report is not None
    return report


def test_results_are_in_postgresql_and_redis_as_in_the_embedded_server(
    facility: Facility, run_engine: RunEngine, profile: Profile, shared_server: Any
) -> None:
    there = scan(run_engine, profile, target_of(facility))
    here = scan(run_engine, profile, shared_server.client())
    assert (there.status, here.status) == ("final", "final"), there.reason
    with reading(facility) as client:
        results = client["processed/txm_stream"][there.run_uid]
        embedded = shared_server.client()["processed/txm_stream"][here.run_uid]
        np.testing.assert_array_equal(results["live/metrics"].read()["seq"], np.arange(1, len(ENERGIES) + 1))
        for name in ("phase_map", "phase_sigma", "denoised"):
            np.testing.assert_array_equal(results["final"][name].read(), embedded["final"][name].read())
        assert results["live/noisy"].shape[0] == len(ENERGIES)
    assert facility.nodes() > 15, "the results are in the catalog of PostgreSQL"
    assert facility.redis_keys() > 0, "updates go through Redis"


def test_a_restart_of_the_facilitys_server_doubles_and_loses_no_row(
    facility: Facility, run_engine: RunEngine, profile: Profile
) -> None:
    def kill() -> None:
        facility.stop("tiled")

    def start() -> None:
        time.sleep(0.5)
        facility.start_tiled()

    report = scan(run_engine, profile, target_of(facility), at_event={8: kill, 14: start})
    assert report.status == "final", report.reason
    assert not report.undelivered
    with reading(facility) as client:
        results = client["processed/txm_stream"][report.run_uid]
        np.testing.assert_array_equal(results["live/metrics"].read()["seq"], np.arange(1, len(ENERGIES) + 1))
        assert results.metadata["status"] == "final"
        assert np.isfinite(results["final/phase_map"].read()).any()
