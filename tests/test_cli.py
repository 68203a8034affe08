"""The command line: exit statuses, one clear line on standard error, help with an example, JSON at the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from txm_stream.io.energy_list import read_energies
from txm_stream.phantoms import nickel_energies, nickel_states

PROFILES = Path(__file__).parents[1] / "profiles"
COMMANDS = ["demo", "process", "replay", "watch", "order", "view", "energies", "export", "profile", "doctor"]


def txm_stream(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from txm_stream.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def failure(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1, run
    (line,) = [line for line in run.stderr.splitlines() if line]
    assert line.startswith("txm-stream: ")
    return line


def test_help_is_quick_and_names_every_command() -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        run = txm_stream("--help")
        took.append(time.monotonic() - began)
    assert run.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in run.stdout
    print(f"\ntxm-stream --help: {min(took):.2f} s")
    assert min(took) < 3.0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    run = txm_stream(command, "--help")
    assert run.returncode == 0
    assert f"Example:  txm-stream {command}" in run.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["demo", "--size", "many"],
        ["demo", "--size", "7"],
        ["replay", "latest"],
        ["demo", "--states", "9"],
        ["watch", "--from", "ftp://beamline/documents", "--to", "results"],
        ["watch", "--from", "kafka://broker:9092", "--to", "results"],
        ["watch", "--from", "zmq://beamline:5578"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    run = txm_stream(*arguments)
    assert run.returncode == 2
    assert "Usage:" in run.stderr
    assert "Traceback" not in run.stderr


def test_what_is_not_there_is_one_line_and_status_1(tmp_path: Path) -> None:
    assert "holds no results; give an address" in failure(txm_stream("replay", "latest", "--from", tmp_path))
    assert "does not answer" in failure(txm_stream("replay", "latest", "--from", "http://127.0.0.1:9"))
    assert "no.toml" in failure(txm_stream("replay", "latest", "--from", tmp_path, "--profile", tmp_path / "no.toml"))
    assert "does not answer" in failure(txm_stream("view", "http://127.0.0.1:9", "--no-browser"))
    assert "no.h5" in failure(txm_stream("process", tmp_path / "no.h5"))
    to = ("--format", "tiff", "--output", tmp_path / "a.tif")
    assert "--from" in failure(txm_stream("export", tmp_path / "no.h5", *to))
    assert "holds no results; give an address" in failure(txm_stream("export", "latest", "--from", tmp_path, *to))


def test_a_measured_stack_is_processed_and_a_wrong_energy_list_is_failure(tmp_path: Path) -> None:
    import tifffile

    rng = np.random.default_rng(0)
    energies = np.linspace(8320, 8390, 12)
    y, x = np.mgrid[:48, :48]
    particle = np.exp(-((y - 24) ** 2 + (x - 24) ** 2) / 200)
    edge = 1 / (1 + np.exp(-(energies - 8345) / 2))
    stack = edge[:, None, None] * particle + 0.02 * rng.standard_normal((12, 48, 48))
    tifffile.imwrite(tmp_path / "stack.tif", stack.astype(np.float32))
    np.savetxt(tmp_path / "energies.txt", energies)
    np.savetxt(tmp_path / "short.txt", energies[:-1])
    signal = ("--signal", "optical-density")
    given = ("process", tmp_path / "stack.tif", *signal, "--output", tmp_path / "result.h5")
    wrong = failure(txm_stream(*given, "--energies", tmp_path / "short.txt"))
    assert "11" in wrong
    assert "12" in wrong
    run = txm_stream(*given, "--energies", tmp_path / "energies.txt", "--json")
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert {"energies", "states", "rank", "sigma", "predicted_rmse", "output"} <= set(answer)
    assert answer["energies"] == 12
    assert Path(answer["output"]).exists()


@pytest.mark.parametrize("name", ["sim", "fxi", "ssrl_6_2c", "aps_32id"])
def test_the_profiles_that_come_along_are_sound(name: str) -> None:
    run = txm_stream("profile", "check", PROFILES / f"{name}.toml", "--json")
    findings = {finding["name"]: finding for finding in json.loads(run.stdout.splitlines()[-1])["findings"]}
    assert findings["profile"]["works"]
    assert "all defaults" in findings["profile"]["text"] if name == "sim" else f"name = '{name}'" in run.stdout


def test_a_profile_is_checked_with_its_files(tmp_path: Path) -> None:
    energies = np.arange(8200.0, 8500.0)
    for state, mu in zip(("a", "b"), nickel_states(2)(energies).T, strict=True):
        np.savetxt(tmp_path / f"{state}.txt", np.column_stack([energies, mu]))
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'name = "mine"\nreferences = ["a.txt", "b.txt"]\nscratch_dir = "scratch"\n[limits]\nscratch_gb = 0.1\n'
    )
    run = txm_stream("profile", "check", profile)
    assert run.returncode == 0, run.stderr
    assert "a, b, 8200.0 to 8499.0 eV, edge at 83" in run.stdout
    assert str(tmp_path / "scratch") in run.stdout
    (tmp_path / "b.txt").unlink()
    run = txm_stream("profile", "check", profile)
    assert "references" in failure(run)
    assert "b.txt" in run.stdout
    profile.write_text("nmae = 3\n")
    assert "nmae" in txm_stream("profile", "check", profile).stdout


def test_every_field_of_a_profile_is_listed_with_its_meaning() -> None:
    lines = txm_stream("profile", "fields").stdout.splitlines()
    listed = {line.split(" = ")[0] for line in lines[::2]}
    assert {"name", "documents.energy_key", "steering.target_rmse", "detector.electrons_per_adu"} <= listed
    assert all(line.startswith("    ") and line.strip().endswith(".") for line in lines[1::2])
    assert not any("FieldInfo" in line for line in lines)


def test_the_doctor_looks_at_everything_and_names_the_licence() -> None:
    run = txm_stream("doctor", "--json")
    assert run.returncode == 0, run.stderr
    *lines, last = run.stdout.splitlines()
    assert json.loads(last)["works"] is True
    assert len(lines) == len(json.loads(last)["findings"])
    assert "NON-COMMERCIAL" in run.stdout
    assert "writes, reads, streams" in run.stdout
    unreachable = txm_stream("doctor", "--tiled", "http://127.0.0.1:9")
    assert failure(unreachable) == "txm-stream: does not work here: Tiled"
    assert "check the address" in unreachable.stdout


def test_an_energy_list_is_chosen_written_and_drawn(tmp_path: Path) -> None:
    spectra = nickel_states(2)
    grid = np.arange(8250.0, 8450.0, 0.5)
    files = []
    for name, mu in zip(spectra.names, spectra(grid).T, strict=True):
        files += ["--references", str(tmp_path / f"{name}.txt")]
        np.savetxt(tmp_path / f"{name}.txt", np.column_stack([grid, mu]), header="energy_eV norm")
    own = tmp_path / "own.txt"
    np.savetxt(own, nickel_energies(101) / 1000)
    options = ["--candidates", own, "--n", "26", "--move", "0", "--output", tmp_path / "e.txt", "--json"]
    run = txm_stream("energies", *files, *options)
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    print(f"26 visits {answer['predicted_rmse']:.4f}, 101 evenly {answer['candidates_rmse']:.4f}")
    assert answer["predicted_rmse"] < answer["candidates_rmse"]
    assert answer["visits"] == 26
    np.testing.assert_allclose(read_energies(tmp_path / "e.txt"), answer["energies_eV"], atol=1e-3)
    assert (tmp_path / "e.png").read_bytes().startswith(b"\x89PNG")
    small = txm_stream("energies", *files, "--seconds", "4")
    assert "a budget of 4 s is too small" in failure(small)
    both = txm_stream("energies", *files)
    assert "one of the two" in failure(both)
