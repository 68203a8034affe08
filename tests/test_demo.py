"""The demo and its replay, as a user starts them, judged by the truth of the simulation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from txm_stream.callbacks.sources import open_source
from txm_stream.demo_parts import DemoOptions, frames_of, make_txm
from txm_stream.errors import BadStackError
from txm_stream.io import read_result
from txm_stream.judgement import StoredResult, judge, load_truth, same_visits
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Profile
from txm_stream.stored_run import _existing, _profile, replay_stored

KEYS = [
    *("frames", "energies", "map_correlation", "abundance_rmse", "predicted_rmse", "shift_rmse_px", "sigma_ratio"),
    *("latency_s_median", "tiled_uri", "run_uid", "results_path"),
]


def txm_stream(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from txm_stream.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, txm_stream("demo", "--headless", "--size", "96", "--energies", "24", "--output", folder)


def test_the_demo_ends_with_its_figures(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, run = demo
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    print("\n".join(["", *lines, last]))
    figures = json.loads(last)
    assert list(figures) == KEYS
    assert (figures["frames"], figures["energies"]) == (49, 24)
    assert figures["map_correlation"] > 0.93
    assert figures["abundance_rmse"] < 0.09
    assert 0.6 < figures["predicted_rmse"] / figures["abundance_rmse"] < 1.5
    assert figures["shift_rmse_px"] < 0.15
    assert 0.9 < figures["sigma_ratio"] < 1.1
    assert 0 < figures["latency_s_median"] < 60
    assert figures["results_path"] == f"processed/txm_stream/{figures['run_uid']}"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/v1", figures["tiled_uri"])
    assert "api_key" not in run.stdout + run.stderr
    assert run.stderr == ""
    without = {line.partition(":")[0]: line for line in lines}
    assert {"the same with jitter 0", "the same, registration off", "time", "memory"} <= set(without)


def final_arrays(folder: Path, path: str) -> dict[str, Any]:
    with open_source(folder) as client:
        final = client[(*path.split("/"), "final")]
        return {name: np.asarray(final[name].read()) for name in final}


def test_a_replay_of_the_demo_prints_the_same_and_gives_the_same_arrays(
    demo: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, run = demo
    live = json.loads(run.stdout.splitlines()[-1])
    before = final_arrays(folder, live["results_path"])
    lines: list[str] = []
    again = replay_stored("latest", str(folder), say=lines.append)
    assert list(again) == KEYS
    for name in set(KEYS) - {"latency_s_median", "tiled_uri"}:
        assert again[name] == (live[name] if isinstance(live[name], str) else pytest.approx(live[name], abs=1e-6)), name
    after = final_arrays(folder, live["results_path"])
    assert sorted(after) == sorted(before)
    largest = {
        name: float(np.nanmax(np.abs(after[name].astype(float) - before[name].astype(float)), initial=0.0))
        for name in before
    }
    print("\nreplay - live, largest difference:", largest)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=1e-6, err_msg=name)
    assert any(line.startswith("map: correlation") for line in lines)


def test_the_demo_is_exported_from_its_folder(
    demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, run = demo
    figures = json.loads(run.stdout.splitlines()[-1])
    output = tmp_path / "demo.h5"
    export = txm_stream("export", "latest", "--from", folder, "--format", "nexus", "--output", output)
    assert (export.returncode, export.stderr) == (0, "")
    result = read_result(output)
    arrays = final_arrays(folder, figures["results_path"])
    assert set(result.images()) == set(arrays)
    for name, array in result.images().items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    assert result.predicted_rmse == pytest.approx(figures["predicted_rmse"])
    assert [row.seq for row in result.metrics] == list(range(1, 25))


def test_a_run_in_a_moved_folder_finds_its_truth_and_references(tmp_path: Path) -> None:
    there = tmp_path / "new" / "simulated" / "ab" / "references" / "Ni2+.txt"
    there.parent.mkdir(parents=True)
    there.write_text("8300 0\n")
    old = "/nowhere/simulated/old/simulated/ab/references/Ni2+.txt"
    assert _existing(old, tmp_path / "new") == there
    assert _existing(old, None) is None
    start = {"reference_files": [old], "simulated": {"registration": False}}
    assert _profile(None, (), start, tmp_path / "new") == Profile(references=(there,), registration=False)
    own = Profile(references=(Path("mine.txt"),))
    assert _profile(own, (), start, tmp_path / "new") == own
    assert _profile(own, (Path("given.txt"),), start, None).references == (Path("given.txt"),)


@pytest.fixture(scope="module")
def truth() -> Any:
    txm = make_txm(DemoOptions(size=64, energies=8))
    for _ in frames_of(txm, nickel_energies(8)):
        pass
    return txm.truth()


def perfect(truth: Any, **changes: Any) -> StoredResult:
    sigma = float(np.sqrt(np.mean(truth.noise_sigma(~truth.bad_pixels) ** 2)))
    facts: dict[str, Any] = {
        "energies_eV": truth.energies_eV,
        "shifts_px": -truth.shifts_px,
        "phase_map": truth.abundances,
        "sigma": sigma,
        "predicted_rmse": 0.0,
        "states": truth.names,
    }
    return StoredResult(**(facts | changes))


def test_the_truth_itself_is_judged_perfect(truth: Any) -> None:
    verdict = judge(perfect(truth), truth)
    assert verdict.map_correlation == pytest.approx(1)
    assert verdict.abundance_rmse == pytest.approx(0, abs=1e-6)
    assert verdict.shift_rmse_px == pytest.approx(0, abs=1e-9)
    assert verdict.sigma_ratio == pytest.approx(1)
    assert verdict.map_coverage == 1


def test_errors_are_judged_as_large_as_they_are(truth: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(truth.shifts_px.shape)
    noise -= noise.mean(axis=0)
    noise *= 0.1 / np.sqrt(np.mean(noise**2))
    wrong = truth.abundances + np.float32(0.05)
    verdict = judge(perfect(truth, shifts_px=noise - truth.shifts_px, phase_map=wrong), truth)
    assert verdict.shift_rmse_px == pytest.approx(0.1)
    assert verdict.abundance_rmse == pytest.approx(0.05, rel=1e-4)


def test_states_in_another_order_and_rejected_visits_are_no_errors(truth: Any) -> None:
    shifts = -truth.shifts_px
    shifts[3] = 40.0
    names = truth.names[::-1]
    turned = perfect(
        truth,
        phase_map=truth.abundances[::-1].astype(np.float32),
        states=names,
        shifts_px=shifts,
        provenance={"visits_rejected": {"4": "dark"}},
    )
    verdict = judge(turned, truth)
    assert verdict.abundance_rmse == pytest.approx(0, abs=1e-6)
    assert verdict.shift_rmse_px == pytest.approx(0, abs=1e-9)


def test_a_pixel_without_a_map_counts_as_knowing_nothing(truth: Any) -> None:
    holes = (truth.abundances + 0.03).astype(np.float32)
    columns = np.flatnonzero(truth.inside.any(axis=0))
    holes[:, :, columns[: len(columns) // 2]] = np.nan
    verdict = judge(perfect(truth, phase_map=holes), truth)
    unmapped = truth.inside & np.isnan(holes[0])
    error = np.where(unmapped, truth.abundances - 0.5, 0.03)[:, truth.inside]
    assert verdict.abundance_rmse == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-4)
    assert verdict.mapped_rmse == pytest.approx(0.03, rel=1e-4)
    assert verdict.map_coverage == pytest.approx(1 - unmapped.sum() / truth.inside.sum())


def test_a_result_of_fewer_visits_is_matched_by_energy_and_another_run_is_refused(truth: Any, tmp_path: Path) -> None:
    energies = truth.energies_eV
    assert same_visits(np.delete(energies, 2), energies) == [0, 1, 3, 4, 5, 6, 7]
    assert same_visits([8300.0, 8300.0], np.array([8300.0, 8300.0, 8300.0])) == [0, 1]
    with pytest.raises(BadStackError, match="not those of the truth"):
        same_visits(energies + 500, energies)
    with pytest.raises(BadStackError, match="truth file"):
        load_truth(tmp_path / "no.npz")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_demo_keeps_what_it_promises(seed: int) -> None:
    run = txm_stream("demo", "--headless", "--seed", str(seed), timeout=600)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["map_correlation"] >= 0.985
    assert figures["abundance_rmse"] <= 0.055
    assert figures["predicted_rmse"] == pytest.approx(figures["abundance_rmse"], rel=0.25)
    assert figures["shift_rmse_px"] <= 0.15
