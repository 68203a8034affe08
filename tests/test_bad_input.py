"""Bad or unusual input: a correct result with a warning, or one clear line; and the plan never notices."""

from __future__ import annotations

import functools
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
import tifffile
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineInterrupted

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import ScanDevices, xanes_scan
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo_parts import write_references
from txm_stream.judgement import Judgement, judge
from txm_stream.phantoms import nickel_energies
from txm_stream.process import process_file
from txm_stream.profile import Documents, Limits, Profile
from txm_stream.simulated_devices import SimulatedTXM

N = 20
_APART = "TXM_STREAM_TEST_APART"
ENERGIES = nickel_energies(N).tolist()
NOBODY = TiledTarget("http://127.0.0.1:9/api/v1", "secret")
Worker = Literal["thread", "process"]


@pytest.fixture
def txm() -> SimulatedTXM:
    return SimulatedTXM((64, 64), photons=4000, seed=2)


@pytest.fixture
def profile(tmp_path: Path, txm: SimulatedTXM) -> Profile:
    return Profile(
        references=write_references(txm, tmp_path / "references"),
        scratch_dir=tmp_path / "scratch",
        limits=Limits(server_patience_s=0.5),
    )


Scanner = Callable[..., RunReport]


@pytest.fixture
def scan(run_engine: RunEngine, profile: Profile) -> Scanner:
    """Scan on a real RunEngine with the stream subscribed; the plan must end as if it were not."""

    def scan_it(
        plan: Any, profile: Profile = profile, *, worker: Worker = "thread", tiled: Any = None, fails: bool = False
    ) -> RunReport:
        stops: list[dict[str, Any]] = []
        with XanesStream(profile, tiled=tiled, worker=worker) as stream:
            run_engine.subscribe(stream)
            run_engine.subscribe(lambda _, document: stops.append(document), "stop")
            if fails:
                with pytest.raises(RuntimeError, match="the beam is gone"):
                    run_engine(plan)
            else:
                run_engine(plan)
            assert [stop["exit_status"] for stop in stops] == ["fail" if fails else "success"]
            report = stream.wait(240)
        assert run_engine.state == "idle"
        assert report is not None
        return report

    return scan_it


def good(report: RunReport, txm: SimulatedTXM) -> Judgement:
    """The result is final and as good as the data allow; in words what was wrong is in its warnings."""
    assert report.status == "final", report.reason
    assert report.result is not None
    verdict = judge(report.result, txm.truth())
    print(f"\n{verdict}\n{report.result.warnings}")
    assert verdict.map_correlation > 0.9
    assert verdict.abundance_rmse < 0.12
    assert verdict.shift_rmse_px < 0.2
    return verdict


@pytest.mark.parametrize("order", ["shuffled", "repeated"])
def test_energies_in_any_order_and_repeated_are_visits(order: str, scan: Scanner, txm: SimulatedTXM) -> None:
    energies = [*ENERGIES, *ENERGIES[8:12]] if order == "repeated" else ENERGIES[::2] + ENERGIES[-1::-2]
    report = scan(xanes_scan(txm, energies))
    good(report, txm)
    assert report.visits == len(energies)
    assert report.result is not None
    np.testing.assert_array_equal(report.result.energies_eV, energies)


def test_an_all_dark_frame_is_left_out_with_a_warning(scan: Scanner, txm: SimulatedTXM) -> None:
    txm.fault(7)
    report = scan(xanes_scan(txm, ENERGIES))
    good(report, txm)
    assert report.result is not None
    assert report.result.provenance["visits_rejected"].keys() == {"8"}
    assert any("8" in text for text in report.result.warnings)


@pytest.mark.parametrize("unit", ["keV", "eV"])
def test_energies_in_kev_are_understood_also_where_the_profile_says_ev(
    unit: Literal["eV", "keV"], scan: Scanner, txm: SimulatedTXM, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    devices = ScanDevices(txm.energy_kev, txm.camera, txm.sample_x, txm.shutter)
    documents = Documents(energy_key="energy_kev", energy_unit=unit)
    report = scan(
        xanes_scan(devices, [energy / 1000 for energy in ENERGIES]), profile.model_copy(update={"documents": documents})
    )
    good(report, txm)
    assert report.result is not None
    np.testing.assert_allclose(report.result.energies_eV, ENERGIES, rtol=0, atol=1e-3)
    assert any("declared as eV" in record.message for record in caplog.records) == (unit == "eV")


def test_a_run_without_flats_gives_a_result_with_a_warning(scan: Scanner, txm: SimulatedTXM) -> None:
    report = scan(xanes_scan(txm, ENERGIES, flats="none"))
    assert report.status == "final", report.reason
    assert report.result is not None
    print(report.result.warnings)
    assert any("flat" in warning for warning in report.result.warnings)


def test_references_that_do_not_cover_the_scan_are_used_where_they_do(
    scan: Scanner, txm: SimulatedTXM, profile: Profile, tmp_path: Path
) -> None:
    cut = []
    for path in profile.references:
        table = np.loadtxt(path)
        inside = (table[:, 0] > 8325) & (table[:, 0] < 8420)
        cut.append(tmp_path / path.name)
        np.savetxt(cut[-1], table[inside], header="energy_eV norm")
    report = scan(xanes_scan(txm, ENERGIES), profile.model_copy(update={"references": tuple(cut)}))
    good(report, txm)
    assert report.result is not None
    outside = sum(not 8325.0 < energy < 8420.0 for energy in ENERGIES)
    assert any("reference" in warning and str(outside) in warning for warning in report.result.warnings)


@pytest.mark.parametrize("worker", ["thread", "process"])
def test_with_no_server_the_result_waits_on_disk(
    worker: Worker, scan: Scanner, txm: SimulatedTXM, tmp_path: Path
) -> None:
    report = scan(xanes_scan(txm, ENERGIES), worker=worker, tiled=NOBODY)
    assert (report.status, report.visits, report.undelivered) == ("final", N, True)
    assert report.scratch is not None
    assert list(Path(report.scratch).rglob("*.batch")) or list(Path(report.scratch).rglob("spool/*"))
    assert report.publish.spooled > 0
    assert report.publish.dropped == 0
    assert "secret" not in repr(report)


@pytest.fixture
def full_disk(profile: Profile) -> Iterator[None]:
    """No file may grow beyond 12 kB, less than a frame; only in the process that :func:`apart` makes."""
    if not os.environ.get(_APART):
        yield
        return
    logging.getLogger("txm_stream").disabled = True
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    logging.getLogger("txm_stream").disabled = False


def apart(test: Any) -> Any:
    """Run a test in a process of its own: a limit on all files would also hit the log of the test run."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        if os.environ.get(_APART):
            test(*arguments, **named)
            return
        node = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", node],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, _APART: "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)

    return run


@apart
def test_with_a_full_disk_and_no_server_the_scan_ends_and_the_loss_is_reported(
    scan: Scanner, txm: SimulatedTXM, full_disk: None
) -> None:
    report = scan(xanes_scan(txm, ENERGIES), tiled=NOBODY)
    print(report.reason, report.publish)
    assert report.frames_seen == 2 * N + 1
    assert report.frames_lost == ()
    assert report.publish.errors or report.status == "failed"
    assert "\n" not in report.reason


@apart
def test_with_a_full_disk_the_result_is_made_in_memory(scan: Scanner, txm: SimulatedTXM, full_disk: None) -> None:
    good(scan(xanes_scan(txm, ENERGIES)), txm)


def test_a_run_that_fails_after_5_energies_has_a_result_and_its_reason_in_tiled(
    scan: Scanner, txm: SimulatedTXM, shared_server: EmbeddedServer, quiet_bluesky: None
) -> None:
    def failing_plan() -> Any:
        count = 0

        def watch(message: Any) -> Any:
            nonlocal count
            count += message.command == "checkpoint"
            if count == 6:
                raise RuntimeError("the beam is gone")
            return None, None

        return (yield from bpp.plan_mutator(xanes_scan(txm, ENERGIES), watch))

    report = scan(failing_plan(), worker="process", tiled=shared_server.client(), fails=True)
    assert report.status == "final"
    assert report.reason.startswith("run failed after 5 energies")
    tree = shared_server.client()[tuple(str(report.results_path).split("/"))]
    assert tree.metadata["status"] == "final"
    assert tree.metadata["reason"] == report.reason
    assert tree["final", "noisy"].shape == (5, 64, 64)


def test_a_run_aborted_by_the_operator_has_a_result_and_its_reason(
    run_engine: RunEngine, txm: SimulatedTXM, profile: Profile, quiet_bluesky: None
) -> None:
    def pause_after_5() -> Any:
        yield from bps.open_run(md={"detectors": ["camera"]})
        for energy in ENERGIES[:5]:
            yield from bps.mv(txm.energy, energy)
            yield from bps.trigger_and_read([txm.camera, txm.energy])
            yield from bps.mv(txm.sample_x, txm.sample_out)
            yield from bps.trigger_and_read([txm.camera, txm.energy], name="flat")
            yield from bps.mv(txm.sample_x, txm.sample_in)
        yield from bps.pause()
        yield from bps.close_run()

    with XanesStream(profile, worker="thread") as stream:
        run_engine.subscribe(stream)
        with pytest.raises(RunEngineInterrupted):
            run_engine(pause_after_5())
        run_engine.abort("shutter stuck")
        report = stream.wait(60)
    assert report is not None
    assert report.status == "final"
    assert report.reason == "run aborted after 5 energies: shutter stuck"


def synthetic_stack() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    energies = np.linspace(8320, 8390, 24)
    y, x = np.mgrid[:64, :64]
    particle = np.exp(-((((y - 32) ** 2 + (x - 32) ** 2) / 400) ** 4))
    edges = np.stack([1 / (1 + np.exp(-(energies - centre) / 1.5)) for centre in (8343, 8348)])
    share = np.stack([x / 64, 1 - x / 64])
    stack = np.tensordot(edges.T, share * particle, axes=1) + 0.3 * particle
    stack = stack + 0.02 * rng.standard_normal((24, 64, 64))
    return energies, stack.astype(np.float32)


def test_a_stack_with_nan_gives_a_map_everywhere_else(tmp_path: Path) -> None:
    energies, stack = synthetic_stack()
    stack[5, 20:24, 20:24] = np.nan
    stack[:, 40, 30] = np.nan
    stack[9] = np.nan
    tifffile.imwrite(tmp_path / "stack.tif", stack)
    np.savetxt(tmp_path / "energies.txt", energies)
    report = process_file(
        tmp_path / "stack.tif",
        energies=tmp_path / "energies.txt",
        signal="optical-density",
        output=tmp_path / "result.h5",
    )
    print(report)
    assert any("10" in warning for warning in report.warnings)
    with h5py.File(report.output) as file:
        denoised, mask = file["final/denoised"][()], file["final/mask"][()].astype(bool)
    mask = mask if mask.ndim == 2 else mask.any(axis=0)
    assert mask.mean() > 0.8
    assert np.isfinite(np.delete(denoised, 9, axis=0)[:, mask]).all()
    assert len(report.states) >= 2


@pytest.mark.alone
@pytest.mark.parametrize("server", ["none", "down"])
def test_a_scan_takes_the_same_time_with_and_without_the_subscription(
    server: str, run_engine: RunEngine, profile: Profile
) -> None:
    txm = SimulatedTXM((64, 64), exposure_s=0.03, seed=1)
    in_callback_s = 0.0
    with XanesStream(profile, tiled=NOBODY if server == "down" else None) as stream:
        stream.ready(60)

        def timed(name: str, document: Any) -> None:
            nonlocal in_callback_s
            began = time.monotonic()
            stream(name, document)
            in_callback_s += time.monotonic() - began

        def duration(*subscribe: Any) -> float:
            tokens = [run_engine.subscribe(callback) for callback in subscribe]
            began = time.monotonic()
            run_engine(xanes_scan(txm, ENERGIES[:10]))
            took = time.monotonic() - began
            for token in tokens:
                run_engine.unsubscribe(token)
            if subscribe:
                stream.wait(60)  # the final pass is not to weigh on the next scan
            return took

        pairs = [(duration(), duration(timed)) for _ in range(3)]
    without, with_it = (np.array(column) for column in zip(*pairs, strict=True))
    share = in_callback_s / with_it.sum()
    print(f"\nscan {without.min():.3f} s without, {with_it.min():.3f} s with the subscription; in it {share:.2%}")
    assert share < 0.02
    # What the worker takes from a plan on two busy cores: three times 2 %, and 0.1 s.
    assert with_it.min() < 1.06 * without.min() + 0.1
