"""EnergyAdvisor as an optimizer of bluesky-adaptive 1.0, in its own plan on a real RunEngine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky_adaptive.plans import optimize_in_run
from bluesky_adaptive.protocols import OptimizationProblem, Optimizer, SupportsStoppingCriteria

from txm_stream.callbacks import EnergyAdvisor, XanesStream
from txm_stream.callbacks.plans import take_flat
from txm_stream.demo_parts import write_references
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Profile, Steering
from txm_stream.simulated_devices import SimulatedTXM

PLANNED = [float(energy) for energy in nickel_energies(60)]


@pytest.mark.parametrize("own_plan", [True, False])
def test_the_advisor_runs_as_an_optimizer_and_stops_the_scan(
    run_engine: RunEngine, tmp_path: Path, own_plan: bool
) -> None:
    txm = SimulatedTXM((64, 64), chunk_size=2, photons=2000.0, jitter_px=1.0)
    profile = Profile(
        references=write_references(txm, tmp_path / "references"),
        scratch_dir=tmp_path / "scratch",
        steering=Steering(most_visits=12, deadline_s=20.0, windows_eV=((8250.0, 8450.0),)),
    )

    def visit(suggestions: Sequence[Mapping[str, Any]], actuators: Any, sensors: Any = None, md: Any = None) -> Any:
        yield from bps.mv(actuators[0], suggestions[0]["energy"])
        yield from bps.trigger_and_read([*sensors, actuators[0]], name="primary")
        yield from take_flat(txm)
        return tuple(point["_id"] for point in suggestions)

    measured: list[float] = []

    def count(name: str, document: dict[str, Any]) -> None:
        if name == "event" and "camera_image" in document["data"] and txm.microscope.sample_in:
            measured.append(document["data"]["energy"])

    with XanesStream(profile, worker="thread") as stream:
        advisor = EnergyAdvisor(stream, PLANNED, judgement_s=10.0 if own_plan else 0.0)
        assert isinstance(advisor, Optimizer)
        assert isinstance(advisor, SupportsStoppingCriteria)
        problem = OptimizationProblem(
            optimizer=advisor,
            actuators=[txm.energy],
            sensors=[txm.camera],
            evaluation_function=advisor.evaluate,
            acquisition_plan=visit if own_plan else None,
        )
        run_engine.subscribe(stream)
        run_engine.subscribe(count)
        run_engine(optimize_in_run(problem, iterations=30))
        report = stream.wait(300)
    assert len(measured) == 12
    assert len(advisor.points) == 12
    assert report is not None
    assert report.status == "final"
    assert report.visits == 12
    assert 8346 <= measured[0] <= 8353  # the white line
    assert sum(energy < 8342 for energy in measured) >= 2
    if own_plan:
        best = advisor.get_best_points()
        assert 0 < best[0][2]["map_rmse"] < 0.2
    assert advisor.should_stop()[0]
