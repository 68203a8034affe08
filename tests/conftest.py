"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine

from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.profile import Profile


@pytest.fixture(scope="session")
def camera_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder from which the shared server may register files."""
    return tmp_path_factory.mktemp("camera")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, camera_folder: Path) -> Iterator[EmbeddedServer]:
    """One embedded server for all tests that leave it running."""
    with EmbeddedServer(tmp_path_factory.mktemp("server"), readable_storage=[camera_folder]) as server:
        yield server


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """The simulated beamline with a scratch folder of its own."""
    return Profile(scratch_dir=tmp_path / "scratch")


@pytest.fixture
def run_engine() -> Iterator[RunEngine]:
    """A RunEngine that leaves no thread behind."""
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


@pytest.fixture
def quiet_bluesky() -> Iterator[None]:
    """Keep the RunEngine's tracebacks of intended failures out of the output."""
    logger = logging.getLogger("bluesky")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; its event loop ends with the module."""
    from page_driver import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page; at the end it has said no error."""
    from page_driver import LivePage

    with LivePage(browser) as opened:
        yield opened
        assert opened.errors == []
