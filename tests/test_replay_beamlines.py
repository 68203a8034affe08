"""Whatever form a beamline's documents have: a replay of the stored run gives the arrays of the live one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter

from txm_stream.callbacks import XanesStream, replay
from txm_stream.callbacks.beamline_plans import aps_xanes, fxi_xanes, ssrl_xanes
from txm_stream.callbacks.sources import find_run
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.profile import Profile
from txm_stream.simulated_devices import simulated_beamline

PROFILES = Path(__file__).parents[1] / "profiles"
ENERGIES = [8320.0, 8336.0, 8340.0, 8346.0, 8352.0, 8360.0, 8400.0]
SCANS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "fxi: camera staged anew for every flat": (fxi_xanes, "hdf5", {}),
    "fxi: two positions, two passes": (fxi_xanes, "hdf5", {"n_positions": 2, "n_passes": 2}),
    "fxi: all flats last": (fxi_xanes, "inline", {"flats": "last"}),
    "fxi: no flats": (fxi_xanes, "hdf5", {"flats": "none"}),
    "ssrl_6_2c: flats of their own exposure, growing image": (ssrl_xanes, "hdf5", {}),
    "aps_32id: no darks": (aps_xanes, "inline", {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(folder / "server", readable_storage=[folder / "camera"]) as embedded:
        yield embedded


@pytest.mark.parametrize(
    "scan", [pytest.param(scan, marks=[] if "anew" in scan else [pytest.mark.slow]) for scan in SCANS]
)
def test_a_replay_gives_the_arrays_of_the_live_run(scan: str, folder: Path, server: EmbeddedServer) -> None:
    plan, delivery, options = SCANS[scan]
    name = scan.partition(":")[0]
    profile = Profile.load(PROFILES / f"{name}.toml").model_copy(update={"scratch_dir": folder / "scratch"})
    txm = simulated_beamline(
        name, (64, 48), energies_eV=ENERGIES, delivery=delivery, directory=folder / "camera", photons=20_000
    )
    engine = RunEngine({}, context_managers=[])
    with XanesStream(profile, tiled=server.client()) as stream:
        engine.subscribe(stream)
        engine.subscribe(TiledWriter(server.client(), batch_size=1))
        (uid,) = engine(plan(txm, ENERGIES, **options))
        report = stream.wait(120)
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()
    assert report is not None
    assert (report.status, report.frames_lost) == ("final", ())
    client = server.client()
    tree = client[(*profile.results_path, uid)]
    live = (tree["position_0"] if "n_positions" in options else tree)["final"]
    again = replay(find_run(client, uid), profile=profile)
    assert (again.status, again.frames_lost, again.visits) == ("final", (), report.visits)
    assert again.result is not None
    images = again.result.images()
    assert sorted(images) == sorted(live)
    for array, image in images.items():
        np.testing.assert_array_equal(np.asarray(image), np.asarray(live[array].read()), err_msg=array)
