"""The tree of results: names, axes, metadata and versions as promised, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from txm_stream.callbacks.batch import Batch
from txm_stream.callbacks.publisher import Publisher
from txm_stream.callbacks.results_tree import ResultsTree, live_binning, live_image
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.frames import Scan
from txm_stream.profile import Limits, Profile
from txm_stream.results import K_MAX, Result, Snapshot, VisitMetrics, VisitUpdate

STATES = ("NiO", "Ni")
SCAN = Scan(uid="3f1c", scan_id=7, sample="cathode")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def image(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rows(count: int) -> tuple[VisitMetrics, ...]:
    return tuple(VisitMetrics(seq=n, energy_eV=8300.0 + n, basis_version=n, map_version=n) for n in range(1, count + 1))


def table(count: int) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows(count)])


def snapshot(count: int, *, size: int = 16) -> Snapshot:
    return Snapshot(
        rows=rows(count),
        loadings=image(count, K_MAX, seed=count),
        components=image(K_MAX, size, size, seed=count),
        preview=image(size, size, seed=count),
        phase_map=image(2, size, size, seed=count),
        phase_sigma=image(2, size, size, seed=count + 1),
        fit=image(size, size),
        scale=image(size, size),
        states=STATES,
    )


def result(count: int, folder: Path, *, size: int = 16) -> Result:
    noisy = np.memmap(folder / "noisy", np.float32, "w+", shape=(count, size, size))
    noisy[:] = image(count, size, size)
    return Result(
        energies_eV=8300.0 + np.arange(count),
        noisy=noisy,
        denoised=image(count, size, size, seed=1),
        mask=np.ones((size, size), dtype=bool),
        shifts_px=np.zeros((count, 2)),
        shift_sigma_px=np.full(count, 0.1),
        loadings=image(count, K_MAX),
        components=image(K_MAX, size, size),
        sigma=0.05,
        rank=2,
        risk=1e-4,
        metrics=rows(count),
        states=STATES,
        references=np.ones((count, 2)),
        phase_map=image(2, size, size, seed=2),
        phase_sigma=image(2, size, size, seed=3),
        fit=image(size, size),
        scale=image(size, size),
        predicted_rmse=float("nan"),
        map_method="rum+",
        provenance={"references": {"sha256": "0"}, "rounds": np.int64(3)},
    )


def run(tree: ResultsTree, count: int, *, size: int = 16) -> None:
    tree.begin(())
    for n in range(1, count + 1):
        update = VisitUpdate(n - 1, 8300.0 + n, image(size, size, seed=n), first=True)
        tree.frames([update])
        tree.visit(snapshot(n, size=size) if n > 2 else None, table(n))


def test_a_run_from_begin_to_end(server: EmbeddedServer, tmp_path: Path) -> None:
    root = server.client()
    publisher = Publisher(TiledTarget.from_client(root), spool_dir=tmp_path / "spool")
    tree = ResultsTree(publisher, Profile(), SCAN)
    run(tree, 4)
    assert publisher.flush(30)
    top = root["processed", "txm_stream", "3f1c"]
    assert top.metadata["status"] == "live"
    assert dict(top.metadata) | {"versions": 0} == {
        "raw_uid": "3f1c", "scan_id": 7, "sample": "cathode", "plan_name": "", "profile": "sim", "status": "live",
        "reason": "", "states": list(STATES), "live_binning": 1, "versions": 0, "replay": False, "planned_visits": 0,
    }  # fmt: skip
    live = top["live"]
    assert set(live) == {
        "metrics", "noisy", "loadings", "components", "preview", "phase_map", "phase_sigma", "fit", "scale",
    }  # fmt: skip
    metrics = live["metrics"].read()
    assert tuple(metrics.columns) == VisitMetrics.columns()
    assert metrics["basis_version"].tolist() == [0, 0, 3, 4]
    assert metrics["map_version"].tolist() == [0, 0, 3, 4]
    np.testing.assert_array_equal(live["noisy"][3], image(16, 16, seed=4))
    np.testing.assert_array_equal(live["loadings"].read(), image(4, K_MAX, seed=4))
    assert live["components"].dims == ("component", "y", "x")
    assert live["components"].chunks == ((K_MAX,), (16,), (16,))

    outcome = result(4, tmp_path)
    tree.finish(outcome)
    report = publisher.close()
    assert report.complete, report
    top.refresh()
    assert top.metadata["status"] == "final"
    dataset = top["final"].read()
    assert set(dataset.variables) == set(outcome.images())
    for name, array in outcome.images().items():
        np.testing.assert_array_equal(dataset[name].values, array)
    assert dataset["noisy"].dims == ("energy", "y", "x")
    assert dataset["phase_map"].dims == ("state", "y", "x")
    assert "energies_eV" in dataset.coords
    assert dataset["energies_eV"].attrs["units"] == "eV"
    assert all(variable.attrs["units"] for variable in dataset.variables.values())
    assert dataset["denoised"].attrs["units"] == "optical density"
    assert dataset["phase_map"].attrs == {"units": "1", "states": list(STATES)}
    by_name = dataset.assign_coords(state=list(STATES), energy=dataset["energies_eV"])
    np.testing.assert_array_equal(by_name["phase_map"].sel(state="Ni"), outcome.phase_map[1])
    np.testing.assert_array_equal(by_name["denoised"].sel(energy=8302.2, method="nearest"), outcome.denoised[2])
    assert dataset.attrs["states"] == list(STATES)
    assert dataset.attrs["provenance"]["rounds"] == 3
    assert dataset.attrs["predicted_rmse"] is None
    assert top["final", "noisy"].chunks[0] == (1, 1, 1, 1)

    again = Publisher(TiledTarget.from_client(root), spool_dir=tmp_path / "spool")
    failing = ResultsTree(again, Profile(), SCAN)
    run(failing, 2)
    failing.fail("frames 3 and 4 are missing")
    assert again.close().complete
    top = root["processed", "txm_stream", "3f1c"]
    assert (top.metadata["status"], top.metadata["reason"]) == ("failed", "frames 3 and 4 are missing")
    assert list(top) == ["live"]
    assert top["live", "noisy"].shape == (2, 16, 16)


class Collector:
    """Takes batches and keeps them."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def publish(self, batch: Batch) -> None:
        self.batches.append(batch)


def test_large_images_publish_components_every_fifth_visit() -> None:
    collector = Collector()
    tree = ResultsTree(collector, Profile(), SCAN, position=2)
    run(tree, 9, size=600)
    live = [batch for batch in collector.batches if batch.tables]
    assert live[0].path == ("processed", "txm_stream", "3f1c", "position_2", "live")
    assert [n for n, batch in enumerate(live, 1) if "components" in batch.overwrites] == [3, 8]
    assert live[-1].tables["metrics"]["basis_version"].tolist() == [0, 0, 3, 3, 3, 3, 3, 8, 8]
    assert live[-1].tables["metrics"]["map_version"].tolist() == [0, 0, 3, 4, 5, 6, 7, 8, 9]


def test_large_images_are_binned_live() -> None:
    collector = Collector()
    tree = ResultsTree(collector, Profile(limits=Limits(live_pixels=64 * 64)), SCAN)
    run(tree, 3, size=130)
    assert {"live_binning": 3} in [batch.metadata for batch in collector.batches]
    batch = collector.batches[-1]
    frames = next(earlier for earlier in reversed(collector.batches) if earlier.appends)
    assert frames.appends["noisy", 2].shape == (44, 44)
    assert batch.overwrites["phase_map"].shape == (2, 44, 44)


def test_binning_averages_valid_pixels_only() -> None:
    assert live_binning((1024, 1024), 1024 * 1024) == 1
    assert live_binning((2160, 2560), 1024 * 1024) == 3
    picture = np.array([[1, 3, 5], [np.nan, 2, 7], [np.nan, np.nan, 9]], dtype=np.float32)
    np.testing.assert_array_equal(live_image(picture, 2), np.array([[2, 6], [np.nan, 9]], dtype=np.float32))


def test_a_large_final_stack_is_not_copied(tmp_path: Path) -> None:
    collector = Collector()
    ResultsTree(collector, Profile(), SCAN).finish(result(3, tmp_path))
    final = collector.batches[0]
    assert isinstance(final.appends["noisy", 2], np.memmap)
    assert sum(array.nbytes for key, array in final.appends.items() if key[0] == "noisy") == 3 * 16 * 16 * 4
    assert final.nbytes < sum(array.nbytes for array in (*final.appends.values(), *final.overwrites.values()))
