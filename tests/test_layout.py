"""The house: links, wheel and import cost."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from txm_stream import Profile

ROOT = Path(__file__).parent.parent


def test_default_profile_is_the_documented_one() -> None:
    assert Profile.load(ROOT / "profiles" / "sim.toml") == Profile()


@pytest.mark.parametrize("name", ["callbacks", "simulated_devices"])
def test_bare_import_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"txm_stream.{name}" in done.stderr


def test_links_are_relative() -> None:
    for name in ("callbacks", "simulated_devices"):
        link = ROOT / "txm_stream" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


@pytest.mark.slow
def test_wheel_and_disk_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("txm_stream/")}
    on_disk = set()
    for folder, name in (
        (ROOT / "txm_stream", "txm_stream"),
        *((ROOT / n, f"txm_stream/{n}") for n in ("callbacks", "simulated_devices")),
    ):
        for file in folder.rglob("*"):
            inside = file.relative_to(folder)
            linked = name == "txm_stream" and inside.parts[0] in ("callbacks", "simulated_devices")
            if file.is_file() and not linked and "__pycache__" not in inside.parts:
                on_disk.add(f"{name}/{inside.as_posix()}")
    assert packed == on_disk
