"""The operator's hand: bad frames, regions, the advice; obeyed live, from the command line and in a replay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps

from txm_stream.callbacks import EnergyAdvisor, XanesStream, adaptive_xanes
from txm_stream.callbacks.orders import OrderFiles, make_order, orders_of, recorded_orders
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.sources import find_run, replay
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.demo_parts import write_references
from txm_stream.errors import BadOrderError
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Profile, Steering
from txm_stream.simulated_devices import SimulatedTXM

ENERGIES = nickel_energies(12).tolist()


@pytest.fixture
def txm() -> SimulatedTXM:
    return SimulatedTXM((48, 48), photons=4000, seed=4)


@pytest.fixture
def profile(tmp_path: Path, txm: SimulatedTXM) -> Profile:
    return Profile(references=write_references(txm, tmp_path / "references"), scratch_dir=tmp_path / "scratch")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "results") as server:
        yield server


def until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def order_from_outside(*arguments: str, key: str = "") -> str:
    command = [sys.executable, "-c", "from txm_stream.cli import main; main()", "order", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"TILED_API_KEY": key}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_orders_of_a_running_scan_are_obeyed_kept_and_replayed(
    run_engine: RunEngine, profile: Profile, txm: SimulatedTXM, server: EmbeddedServer, tmp_path: Path
) -> None:
    settings = tmp_path / "profile.toml"
    settings.write_text(f'scratch_dir = "{profile.scratch_dir}"\n')
    client = server.client()
    from bluesky_tiled_plugins import TiledWriter

    run_engine.subscribe(TiledWriter(client))
    with XanesStream(profile, tiled=client) as stream:
        run_engine.subscribe(stream)

        def plan() -> Any:
            for message in xanes_scan(txm, ENERGIES):
                if message.command == "close_run":
                    stream.order("reject", visit=3, reason="the sample jumped")
                    stream.order("reject", visit=5)
                    stream.order("accept", visit=5)
                    stream.order("reject", visit=40)
                    stream.order("region", region=(16, 32, 16, 32))
                    told = order_from_outside("latest", "reject", "--visit", "7", "--profile", str(settings))
                    assert "is told: reject 7" in told
                    yield from bps.sleep(1.5)
                yield message

        (uid,) = run_engine(plan())
        report = stream.wait(120)
    assert report is not None
    assert report.status == "final", report.reason
    results = client["processed/txm_stream"][uid]
    kept = results.metadata["orders"]
    assert [order["action"] for order in kept] == ["reject", "reject", "accept", "reject", "region", "reject"]
    assert "visit 40 is not there: 12 so far" in kept[3]["refused"]
    assert len(recorded_orders(results.metadata)) == 5
    provenance = results["final"].metadata["attrs"]["provenance"]
    assert provenance["visits_rejected"] == {"3": "by the operator: the sample jumped", "7": "by the operator"}
    (region,) = provenance["regions"]
    assert region["region"] == [16, 32, 16, 32]
    assert sum(region["abundances"]) == pytest.approx(1)

    live = {name: results["final"][name].read() for name in ("phase_map", "denoised")}
    again = replay(find_run(client, uid), profile=profile, orders=orders_of(client, profile.results_path, uid))
    assert again.result is not None
    np.testing.assert_array_equal(again.result.phase_map, live["phase_map"])
    np.testing.assert_array_equal(again.result.denoised, live["denoised"])
    assert "kept with the results" in order_from_outside(
        uid[:8], "accept", "--visit", "3", "--from", server.uri, "--profile", str(settings), key=server.api_key
    )
    assert [order.action for order in orders_of(client, profile.results_path, uid)][-1] == "accept"


def test_the_operator_takes_the_advice_over_and_gives_it_back(
    run_engine: RunEngine, profile: Profile, txm: SimulatedTXM
) -> None:
    planned = nickel_energies(41).tolist()
    profile = profile.model_copy(update={"steering": Steering(most_visits=14, deadline_s=20.0, least_gain=0.0)})
    chosen: list[tuple[float, str]] = []
    with XanesStream(profile, worker="thread") as stream:

        class Watched(EnergyAdvisor):
            def next(self, seq: int, **known: Any) -> Any:
                if seq == 6:
                    stream.order("measure", energies_eV=(8351.0, 8347.0), reason="a hunch")
                elif seq == 9:
                    stream.order("freeze")
                elif seq == 12:
                    stream.order("release")
                if seq in (6, 9, 12):
                    until(lambda: ("operator" in stream.advice(seq, timeout=5).reason) == (seq < 12))
                choice = super().next(seq, **known)
                chosen.append((choice.energy_eV or 0.0, choice.reason))
                return choice

        run_engine.subscribe(stream)
        run_engine(adaptive_xanes(txm, Watched(stream, planned), planned))
        report = stream.wait(120)
    assert report is not None
    assert report.visits == 14
    assert [energy for energy, _ in chosen[6:8]] == [8351.0, 8347.0]
    assert all("operator's choice" in reason for _, reason in chosen[6:8])
    assert "operator" not in chosen[8][1]
    assert [energy for energy, _ in chosen[9:12]] == [e for e in planned if e in [x for x, _ in chosen[9:12]]]
    assert all("planned list goes on" in reason for _, reason in chosen[9:12])
    assert "operator" not in chosen[12][1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "reject"}, "reject needs visit"),
        ({"action": "reject", "visit": 0}, "visit: .*greater than or equal to 1"),
        ({"action": "dance"}, "action: .*'reject', 'accept'"),
        ({"action": "region", "region": (5, 2, 0, 4)}, "expected y0 < y1"),
        ({"action": "measure", "energies_eV": ()}, "energies_eV"),
    ],
)
def test_an_incomplete_order_is_one_clear_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOrderError, match=message):
        make_order(**fields)


def test_orders_for_runs_that_are_not_there(profile: Profile, tmp_path: Path) -> None:
    files, outside = OrderFiles(tmp_path), OrderFiles(tmp_path)
    with pytest.raises(BadOrderError, match="no run begins with 'abc'"):
        outside.leave("abc", make_order(action="freeze"))
    folder = tmp_path / "abcdef-1"
    folder.mkdir()
    files.open("abcdef", folder)
    assert outside.leave("latest", make_order(action="freeze")) == outside.leave("abc", make_order(action="release"))
    assert [(uid, document["action"]) for uid, document in files.take()] == [
        ("abcdef", "freeze"),
        ("abcdef", "release"),
    ]
    assert files.take() == []
    dead = tmp_path / "abcd00-1"  # its process was killed: nobody holds the lock
    dead.mkdir()
    (dead / "abcd00.orders").touch()
    assert outside.leave("abcd", make_order(action="freeze")) == "abcdef"
    assert len(files.take()) == 1
    files.close("abcdef")
    assert list(folder.iterdir()) == []
    with XanesStream(profile, worker="thread") as stream, pytest.raises(BadOrderError, match="no run has begun"):
        stream.order("freeze")
