"""The notebook of the documentation runs from top to bottom, shows what it says, and is stored without outputs."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert [len(cell.source.splitlines()) for cell in cells[1:4]] == [3, 3, 3]


# jupyter_client and its kernel leave sockets to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_notebook_runs_and_shows_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, startup_timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    _, scan, stored, picture, _ = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output["data"]["text/plain"] for output in scan if output.output_type == "execute_result"]
    assert shown == ["'final'"], scan
    printed = "".join(output["text"] for output in stored if output.get("name") == "stdout")
    assert "rum+: Ni2+, Ni3+" in printed, stored
    png = next(output["data"]["image/png"] for output in picture if "image/png" in output.get("data", {}))
    (tmp_path / "map.png").write_bytes(base64.b64decode(png))
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))
    assert image[..., :3].std() > 0.1
