"""Fixtures of the fault matrix, and the table at the end of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bluesky import RunEngine
from fault_bench import Bench

from txm_stream.callbacks.tiled_server import EmbeddedServer

ROW = "fault"
"""The property by which a test gives its row, also from another process."""
HEAD = ("fault", "moment", "outcome", "rows lost", "rows doubled", "plan delay", "longest call")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A server of its own (it is killed now and then), the streams, and the reference run."""
    folder = tmp_path_factory.mktemp("faults")
    with EmbeddedServer(folder / "server") as server:
        made = Bench(folder, server)
        engine = RunEngine({}, context_managers=[])
        try:
            made.set_reference(engine)
            yield made
        finally:
            made.close()
            end(engine)


@pytest.fixture
def table_row(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Add a row to the table."""
    return lambda *cells: record_property(ROW, cells)


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
    reports = [report for found in terminalreporter.stats.values() for report in found]
    reports = [report for report in reports if getattr(report, "when", "") == "call"]
    rows = [tuple(row) for report in reports for name, row in report.user_properties if name == ROW]
    if not rows:
        return
    table = [HEAD, *sorted(rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    terminalreporter.section("faults")
    for row in table:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
