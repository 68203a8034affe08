"""Every fault at every moment: the plan never notices, no frame is lost, none doubled, the result is the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from fault_bench import ENERGIES, Bench, Published
from fault_case import Case, Documents, Fault, Moment
from fault_table import FAULTS

from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.worker import ProcessWorker

LONGEST_CALL_S = 1.0
"""A call of the stream takes some 10 µs; one that waited for a server, a file or a worker would take seconds."""


def _cases() -> list[Any]:
    cases = []
    for fault in FAULTS:
        slow = [pytest.mark.slow] if fault.size == "slow" else []
        cases.append(pytest.param(fault, fault.moments[0], id=f"{fault.name}-{fault.moments[0]}", marks=slow))
        for moment in fault.moments:
            cases.append(pytest.param(fault, moment, id=f"{fault.name}-{moment}-soak", marks=pytest.mark.soak))
    return cases


@pytest.mark.parametrize(("fault", "moment"), _cases())
def test_a_scan_survives(
    fault: Fault,
    moment: Moment,
    bench: Bench,
    engine: RunEngine,
    tmp_path: Path,
    quiet_bluesky: None,
    table_row: Callable[..., None],
    request: pytest.FixtureRequest,
) -> None:
    soak = request.node.get_closest_marker("soak") is not None
    case = Case(fault, moment, bench, engine, tmp_path, soak=soak)
    row = [fault.name, moment, "test broken off", "-", "-", "-", "-"]
    try:
        report = case.run()
        row[5:] = f"{case.delay:.2%}", f"{1e3 * case.longest_s:.1f} ms"
        assert report is not None, "no report came"
        published = outcome(case, report, row)
        check_plan(case)
        check_report(case, report)
        check_published(case, report, published)
    finally:
        bench.server.start()
        table_row(*row)


def _kills() -> list[Any]:
    marks = [pytest.mark.slow] * 3 + [pytest.mark.soak] * 47
    return [pytest.param(seed, marks=mark) for seed, mark in enumerate(marks)]


@pytest.mark.parametrize("seed", _kills())
def test_a_worker_killed_at_any_moment_costs_nothing(
    seed: int,
    bench: Bench,
    engine: RunEngine,
    tmp_path: Path,
    quiet_bluesky: None,
    table_row: Callable[..., None],
) -> None:
    """From the start of a run to after its end."""
    moment_s = 1.1 * bench.reference_s * np.random.default_rng(seed).uniform()

    def kill_later(case: Case) -> None:
        case.kept["may go well"] = True  # between two documents, or after the last

        def kill() -> None:
            worker = case.stream._supervisor.worker
            if isinstance(worker, ProcessWorker):
                worker.process.kill()

        case.later(moment_s, kill)

    case = Case(Fault("worker killed", prepare=kill_later, restarts=1), "final", bench, engine, tmp_path, soak=True)
    row = ["worker killed", f"{moment_s:.2f} s", "test broken off", "-", "-", "-", "-"]
    try:
        report = case.run()
        assert report is not None
        row[5:] = f"{case.delay:.2%}", f"{1e3 * case.longest_s:.1f} ms"
        published = outcome(case, report, row)
        check_plan(case)
        check_report(case, report)
        check_published(case, report, published)
    finally:
        table_row(*row)


def outcome(case: Case, report: RunReport, row: list[str]) -> Published:
    """Read what is in Tiled, and say it in the row."""
    words = report.status
    assert not report.undelivered, report.publish
    assert case.fault.waits in (case.delivered_later, None)
    if case.delivered_later:
        words += ", delivered later"
    published = case.bench.read(report)
    assert published is not None, f"nothing in Tiled: {report}"
    if report.restarts:
        words += f", {report.restarts} restart" + "s" * (report.restarts > 1)
    if report.frames_lost:
        words += f", {len(report.frames_lost)} frames named"
    if report.frames_rejected or any("rejected" in text for text in published.warnings):
        words += ", warning"
    expected = visits(frames_of(case))
    row[2] = words
    row[3] = str(expected - len(set(published.seqs)))
    row[4] = str(len(published.seqs) - len(set(published.seqs)))
    return published


def frames_of(case: Case) -> Documents:
    return case.fault.frames(case) if case.fault.frames is not None else case.bench.documents


def visits(documents: Documents) -> int:
    primary = {
        document["uid"] for name, document in documents if name == "descriptor" and document["name"] == "primary"
    }
    return sum(name == "event" and document["descriptor"] in primary for name, document in documents)


def check_plan(case: Case) -> None:
    """The RunEngine is idle, the run ended as its plan did, and the callback was never in the way."""
    assert case.engine.state == "idle"
    stops = [document["exit_status"] for name, document in case.documents if name == "stop"]
    assert stops == [case.kept.get("exit_status", "success")]
    assert case.delay < 0.02
    assert case.longest_s < LONGEST_CALL_S


def check_report(case: Case, report: RunReport) -> None:
    fault = case.fault
    assert report.status == fault.status, report.reason
    assert re.search(fault.reason, report.reason), report.reason
    assert "\n" not in report.reason
    assert len(report.frames_lost) == (fault.lost if fault.lost is not None else len(report.frames_lost) or 1)
    assert report.restarts <= fault.restarts
    if fault.restarts and not case.kept.get("may go well"):
        assert report.restarts > 0
    assert report.publish is None or not report.publish.dropped or fault.waits, report.publish


def check_published(case: Case, report: RunReport, published: Published) -> None:
    fault = case.fault
    count = visits(frames_of(case))
    assert published.status == fault.status
    assert re.search(fault.reason, published.reason), published.reason
    if case.kept.get("no result"):
        assert not published.final
        return
    assert published.seqs == list(range(1, count + 1))
    assert published.frames == count
    assert re.search(fault.warning, "\n".join(published.warnings)), published.warnings
    reference = case.bench.reference
    assert reference is not None
    if fault.alike:
        where = reference.final["mask"].astype(bool)
        away = (published.final["phase_map"] - reference.final["phase_map"])[:, where]
        assert np.sqrt(np.nanmean(away**2)) < fault.alike
        return
    expected = reference.final if fault.frames is None else case.bench.in_quiet(fault.frames(case))
    same(published.final, expected)


def same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(
            np.asarray(got[name], float), np.asarray(array, float), rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_the_reference_is_what_its_documents_give_in_quiet(bench: Bench) -> None:
    assert bench.reference is not None
    assert bench.reference.frames == ENERGIES
    same(bench.reference.final, bench.in_quiet(bench.documents))
