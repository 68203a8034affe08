"""Results that come back from Tiled: the same arrays, by uid, beginning or scan id; what is not there is said."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray
from example_result import STATES, example_result

from txm_stream.callbacks.publisher import Publisher
from txm_stream.callbacks.results_tree import ResultsTree
from txm_stream.callbacks.stored_results import find_results, read_final
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.errors import MissingFramesError, NoSuchRunError
from txm_stream.export import FORMATS, ExportOptions, find_result, write_files
from txm_stream.frames import Scan
from txm_stream.io import read_result
from txm_stream.page_exports import page_exporters
from txm_stream.profile import Profile
from txm_stream.results import Result
from txm_stream.view.server import RESULTS_PATH, ViewServer


@pytest.fixture(scope="module")
def result() -> Result:
    return example_result()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, result: Result) -> Iterator[EmbeddedServer]:
    """A server with a final run, a live one, a failed one, one of two positions, and an incomplete one."""
    folder = tmp_path_factory.mktemp("results")
    with EmbeddedServer(folder) as server:
        publisher = Publisher(TiledTarget(server.uri, server.api_key), spool_dir=folder / "spool")

        def tree(uid: str, scan_id: int, position: int | None = None) -> ResultsTree:
            scan = Scan(uid=uid, scan_id=scan_id, sample="cathode")
            made = ResultsTree(publisher, Profile(), scan, position=position)
            made.begin(())
            return made

        complete = tree("3f1c77aa", 7)
        complete.visit(None, pd.DataFrame([asdict(row) for row in result.metrics]))
        complete.finish(result)
        tree("3f99bb00", 8)
        tree("ab000000", 9).fail("the disk was full")
        for position in range(2):
            tree("cd000000", 10, position).fail("nothing in it")
        tree("ef000000", 7).finish(example_result(chemistry="edge-50"), status="failed", reason="frame 3 is lost")
        report = publisher.close()
        assert report.complete, report
        yield server


def uri(server: EmbeddedServer) -> str:
    return f"{server.uri}?api_key={server.api_key}"


def test_a_final_result_comes_back_as_it_was(server: EmbeddedServer, result: Result) -> None:
    steps: list[tuple[int, int]] = []
    back = read_final(find_results(server.client(), "3f1c"), progress=lambda done, total: steps.append((done, total)))
    for entry in fields(Result):
        was, now = getattr(result, entry.name), getattr(back, entry.name)
        if isinstance(was, np.ndarray):
            assert now.dtype == was.dtype, entry.name
            np.testing.assert_array_equal(now, was, err_msg=entry.name)
        elif entry.name == "metrics":
            ours, theirs = ([[*asdict(row).values()] for row in rows] for rows in (now, was))
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert now == was, entry.name
    assert isinstance(back.denoised, np.memmap)
    assert steps[-1] == (28, 28)


def test_the_dataset_has_names_and_units(server: EmbeddedServer, result: Result) -> None:
    from tiled.client import from_uri

    client = from_uri(server.uri, api_key=server.api_key)
    with contextlib.closing(client.context):
        dataset = client["processed"]["txm_stream"]["3f1c77aa"]["final"].read()
        assert isinstance(dataset, xarray.Dataset)
        assert {"energy", "y", "x", "state"} <= set(dataset.sizes)
        assert dataset["denoised"].dims == ("energy", "y", "x")
        assert dataset["phase_map"].dims == dataset["phase_sigma"].dims == ("state", "y", "x")
        assert dataset["references"].dims == ("energy", "state")
        assert dataset["denoised"].attrs["units"] == "optical density"
        assert dataset["phase_map"].attrs["states"] == list(STATES)
        assert dataset["energies_eV"].attrs["units"] == "eV"
        assert [name for name, variable in dataset.variables.items() if not variable.attrs.get("units")] == []
        np.testing.assert_array_equal(dataset["phase_map"].values, result.phase_map)


@pytest.mark.parametrize(
    ("which", "path"),
    [
        ("3f1c", "3f1c77aa"),
        ("3f1c77aa", "3f1c77aa"),
        ("8", "3f99bb00"),
        ("7", "ef000000"),
        ("latest", "ef000000"),
        ("cd/position_1", "cd000000/position_1"),
    ],
)
def test_runs_are_found(server: EmbeddedServer, which: str, path: str) -> None:
    assert "/".join(find_results(server.client(), which).path_parts[2:]) == path


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("nonsense", ["no results of a run 'nonsense'", "5", "3f1c77aa (scan 7)"]),
        ("3f", ["3f1c77aa", "3f99bb00", "more"]),
        ("99", ["no results of a run '99'"]),
        ("cd", ["2 positions", "cd000000/position_0"]),
        ("cd/position_7", ["2 positions"]),
    ],
)
def test_runs_that_are_not_there(server: EmbeddedServer, which: str, words: list[str]) -> None:
    with pytest.raises(NoSuchRunError) as caught:
        find_results(server.client(), which)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_runs_without_a_final_result(server: EmbeddedServer) -> None:
    client = server.client()
    with pytest.raises(MissingFramesError, match="is live"):
        read_final(find_results(client, "3f99"))
    with pytest.raises(MissingFramesError, match="the disk was full"):
        read_final(find_results(client, "ab"))
    incomplete = read_final(find_results(client, "ef"))
    assert incomplete.warnings[0] == "the run failed: frame 3 is lost"
    assert incomplete.phase_map is None
    with pytest.raises(NoSuchRunError, match="no results at elsewhere"):
        find_results(client, "latest", results_path=("elsewhere",))


def test_every_format_from_tiled(tmp_path: Path, server: EmbeddedServer, result: Result) -> None:
    found = find_result("3f1c", uri(server))
    assert (found.title, found.scan_id, found.uid) == ("cathode, scan 7, run 3f1c77aa", 7, "3f1c77aa")
    for format in FORMATS:
        written = write_files(found, format, tmp_path / f"x.{format}", ExportOptions())
        assert all(path.stat().st_size > 500 for path in written)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tiff"), result.denoised)
    np.testing.assert_array_equal(read_result(tmp_path / "x.nexus").phase_sigma, result.phase_sigma)
    assert "cathode, scan 7" in (tmp_path / "x.report").read_text(encoding="utf-8")


# the command


def txm_stream(*arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from txm_stream.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=200, check=False)


def test_the_command_exports_from_tiled_and_says_what(tmp_path: Path, server: EmbeddedServer, result: Result) -> None:
    given = ("export", "3f1c", "--from", uri(server), "--format", "xdi", "--output", tmp_path / "ni.xdi")
    run = txm_stream(*given, "--roi", "10:30,20:50", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer == {
        "run": "3f1c",
        "format": "xdi",
        "output": str(tmp_path / "ni.xdi"),
        "files": [str(tmp_path / "ni.xdi"), str(tmp_path / "ni_roi1.xdi")],
    }
    again = txm_stream(*given)
    assert again.returncode == 1
    (line,) = again.stderr.splitlines()
    assert line.startswith("txm-stream: ")
    assert "--overwrite" in line
    live = txm_stream("export", "3f99", "--from", uri(server), "--format", "png", "--output", tmp_path / "a.png")
    assert live.returncode == 1
    assert "is live" in live.stderr
    assert len(live.stderr.splitlines()) == 1
    wrong = txm_stream("export", "3f1c", "--from", uri(server), "--format", "docx", "--output", tmp_path / "a.png")
    assert wrong.returncode == 2
    assert "'docx' is not one of" in wrong.stderr
    assert "report" in wrong.stderr


def test_progress_is_drawn_on_a_terminal_only(tmp_path: Path, server: EmbeddedServer) -> None:
    ours, theirs = pty.openpty()
    run = txm_stream(
        *("export", "3f1c", "--from", uri(server), "--format", "png", "--what", "map", "--output", tmp_path / "a.png"),
        stderr=theirs,
    )
    os.close(theirs)
    drawn = os.read(ours, 10_000).decode()
    os.close(ours)
    assert run.returncode == 0
    assert run.stdout == f"written: {tmp_path / 'a.png'}\n"
    assert "frame 14 of 28  ████████████░░░░░░░░░░░░" in drawn
    assert drawn.endswith("\r\x1b[K\r")


@pytest.mark.parametrize("format", ["report", "nexus", "tiff", "pyxas", "xdi"])
def test_the_live_page_offers_every_export(server: EmbeddedServer, format: str) -> None:
    target = TiledTarget(server.uri, server.api_key)
    with ViewServer(target, exporters=page_exporters(target, RESULTS_PATH)) as view:
        assert format in httpx.get(f"{view.url}api/run/3f1c77aa").json()["exports"]
        made = httpx.get(f"{view.url}api/export/{format}/3f1c77aa", timeout=60)
        assert made.status_code == 200
        assert 'filename="scan-7-3f1c77aa' in made.headers["content-disposition"]
        begin = {"report": b"<!doctype html>", "nexus": b"\x89HDF", "tiff": b"PK", "pyxas": b"\x89HDF", "xdi": b"# XDI"}
        assert made.content[:15].lower().startswith(begin[format].lower())
        with_region = httpx.get(f"{view.url}api/export/{format}/3f1c77aa?box=2,12,3,9", timeout=60)
        assert with_region.content[:2] == (b"PK" if format == "xdi" else made.content[:2])
        if format == "xdi":
            names = zipfile.ZipFile(io.BytesIO(with_region.content)).namelist()
            assert names == ["scan-7-3f1c77aa.xdi", "scan-7-3f1c77aa_roi1.xdi"]
        assert httpx.get(f"{view.url}api/export/{format}/3f1c77aa?box=2,2,3,9").status_code == 400
        refused = httpx.get(f"{view.url}api/export/{format}/3f99bb00")
        assert refused.status_code == 409
        assert "is live and has no final result yet" in refused.json()["error"]
