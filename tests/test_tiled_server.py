"""The embedded Tiled server: keeps what it stored, hides its key, ends with whoever started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import h5py
import httpx
import numpy as np
import psutil
import pytest

from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.errors import UnreachableError


def test_serves_again_what_was_stored(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    camera = tmp_path / "camera"
    camera.mkdir()
    with EmbeddedServer(tmp_path / "server", readable_storage=[camera]) as server:
        assert server.uri.startswith("http://127.0.0.1:")
        client, port = server.client(), server.port
        client.create_container("run").write_array(image, key="image")
        _register(client, camera / "frames.h5", image)
        np.testing.assert_array_equal(client["frames"].read(), image)

        half_made = tmp_path / "server" / "data" / "run" / "next"
        half_made.mkdir()
        (half_made / "zarr.json").write_bytes((half_made.parent / "image" / "zarr.json").read_bytes())
        server.kill()
        assert not server.running
        server.restart()
        assert server.port == port
        np.testing.assert_array_equal(client["run", "image"].read(), image)
        client["run"].write_array(image + 1, key="next")
        np.testing.assert_array_equal(client["run", "next"].read(), image + 1)

        assert httpx.get(f"{server.uri}/metadata/").status_code == 401
        assert server.pid is not None
        assert server.api_key not in " ".join(psutil.Process(server.pid).cmdline()) + repr(server)
    assert not server.running
    for file in (tmp_path / "server").glob("*.log"):
        assert server.api_key not in file.read_text()


def _register(client: object, path: Path, image: np.ndarray) -> None:
    from tiled.structures.array import ArrayStructure
    from tiled.structures.core import StructureFamily
    from tiled.structures.data_source import Asset, DataSource, Management

    with h5py.File(path, "w") as file:
        file["data"] = image
    source = DataSource(
        structure_family=StructureFamily.array,
        structure=ArrayStructure.from_array(image),
        mimetype="application/x-hdf5",
        parameters={"dataset": "data"},
        management=Management.external,
        assets=[Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=0)],
    )
    client.new(StructureFamily.array, [source], key="frames")


def test_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from txm_stream.callbacks.tiled_server import EmbeddedServer\n"
        "print(EmbeddedServer(sys.argv[1]).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
        deadline = time.monotonic() + 15
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_says_why_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(UnreachableError, match=r"ended with status 1; see .*server\.log"):
        EmbeddedServer(tmp_path)
