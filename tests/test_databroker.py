"""Runs in a databroker catalog (MongoDB behind Tiled, here mongomock) are found and replayed exactly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_documents import Documents, run_documents

from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.sources import find_run, open_source
from txm_stream.callbacks.stored import stored_documents
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_source import TiledSource
from txm_stream.errors import BadSourceError, NoSuchRunError, UnreachableError
from txm_stream.frames import Frame
from txm_stream.profile import Profile


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages on import
        from databroker.mongo_normalized import MongoAdapter
        from tiled.client import Context, from_context
        from tiled.server.app import build_app

        tree = MongoAdapter.from_mongomock()
        insert = tree.get_serializer()
        folder = tmp_path_factory.mktemp("documents")
        for seed in (0, 1):
            for name, document in run_documents("lists", folder, seed=seed):
                insert(name, document | {"time": document["time"] + seed} if name == "start" else document)
        with Context.from_app(build_app(tree)) as context:
            yield from_context(context)


def frames_of(documents: Documents) -> list[Frame]:
    assembler = FrameAssembler(Profile())
    frames = [frame for entry in documents for frame in assembler(*entry)]
    assert assembler.lost == []
    return frames


def test_a_run_of_a_databroker_catalog_gives_the_frames_of_its_documents(catalog: Any, tmp_path: Path) -> None:
    documents = run_documents("lists", tmp_path, seed=1)
    run = find_run(catalog, "latest")
    assert run.start["uid"] == find_run(catalog, 7).start["uid"] == documents[0][1]["uid"]
    stored, sent = frames_of(list(stored_documents(run, Profile()))), frames_of(documents)
    assert len(stored) == len(sent) == 9
    for again, frame in zip(stored, sent, strict=True):
        assert again.image.dtype == frame.image.dtype == np.uint16
        np.testing.assert_array_equal(again.image, frame.image)
        for name in ("role", "seq", "energy_eV", "exposure_s", "time"):
            assert getattr(again, name) == getattr(frame, name)


def test_a_catalog_is_opened_by_its_name(
    shared_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = f"beamline:\n  uri: {shared_server.uri}?api_key={shared_server.api_key}\n"
    (tmp_path / "beamline.yml").write_text(profile)
    monkeypatch.setattr("tiled.profiles.paths", [tmp_path])
    with open_source("databroker:beamline") as client:
        assert str(client.context.api_uri).rstrip("/") == shared_server.uri
    with pytest.raises(UnreachableError, match="'nowhere'; known are: beamline"), open_source("databroker:nowhere"):
        pass


def test_what_is_not_there_says_what_is(catalog: Any) -> None:
    with pytest.raises(NoSuchRunError, match="no run 'nothing' in this catalog of 2 runs"):
        find_run(catalog, "nothing")
    with pytest.raises(BadSourceError, match="replayed, not watched"):
        TiledSource(catalog, Profile(), since=0.0)
