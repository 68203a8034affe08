"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from watching import ENERGIES, Documents, Scan, StartWatch, TakeScan, WatchProcess

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM


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
    _end(engine)


@pytest.fixture
def quiet_bluesky() -> Iterator[None]:
    """Keep the RunEngine's tracebacks of intended failures out of the output."""
    logger = logging.getLogger("bluesky")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture(scope="module")
def take_scan(shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TakeScan]:
    """Take a small scan with a XanesStream subscribed, which publishes below ``direct``."""
    direct = Profile(results_path=("direct",), scratch_dir=tmp_path_factory.mktemp("direct"))
    engine = RunEngine({}, context_managers=[])
    with XanesStream(direct, tiled=shared_server.client()) as stream:

        def take(*others: Any, seed: int = 5, **options: Any) -> Scan:
            documents: Documents = []
            callbacks = [stream, lambda *entry: documents.append(entry), *others]
            tokens = [engine.subscribe(callback) for callback in callbacks]
            devices = SimulatedTXM((64, 48), chunk_size=2, photons=4000, seed=seed, **options)
            (uid,) = engine(xanes_scan(devices, ENERGIES))
            for token in tokens:
                engine.unsubscribe(token)
            assert stream.wait(120, run_uid=uid) is not None
            return Scan(uid, documents)

        yield take
    _end(engine)


@pytest.fixture
def start_watch(shared_server: EmbeddedServer, tmp_path: Path) -> Iterator[StartWatch]:
    """Start ``txm-stream watch`` of a source for the shared server; whatever still runs at the end is killed."""
    started: list[WatchProcess] = []

    def start(source: str, *options: str) -> WatchProcess:
        started.append(WatchProcess(source, shared_server, tmp_path, *options))
        return started[-1]

    yield start
    for watch in started:
        watch.kill()


def _end(engine: RunEngine) -> None:
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what passed tests measured: the lines that they wrote."""
    lines = [
        f"{report.nodeid.partition('::')[2]}: {line:.200}"
        for report in terminalreporter.stats.get("passed", [])
        for line in report.capstdout.splitlines()
        if any(character.isdigit() for character in line)
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
