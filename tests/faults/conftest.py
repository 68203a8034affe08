"""Fixtures of the fault matrix, and the table at the end of a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bluesky import RunEngine
from fault_bench import Bench

from txm_stream.callbacks.tiled_server import EmbeddedServer

ROWS = pytest.StashKey[list[tuple[str, ...]]]()
HEAD = ("fault", "moment", "outcome", "rows lost", "rows doubled", "plan delay", "longest call")


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A server of its own (it is killed now and then), the streams, and the reference run."""
    folder = tmp_path_factory.mktemp("faults")
    with EmbeddedServer(folder / "server") as server:
        made = Bench(folder, server)
        request.config.stash[ROWS] = made.rows
        engine = RunEngine({}, context_managers=[])
        try:
            made.set_reference(engine)
            yield made
        finally:
            made.close()
            end(engine)


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    """A RunEngine that hears Ctrl-C, as at a beamline."""
    engine = RunEngine({})
    yield engine
    end(engine)


def end(engine: RunEngine) -> None:
    """Leave no thread of a RunEngine behind."""
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print fault × moment × outcome × rows lost × rows doubled × plan delay."""
    rows = terminalreporter.config.stash.get(ROWS, [])
    if not rows:
        return
    table = [HEAD, *sorted(rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    terminalreporter.section("faults")
    for row in table:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
