"""The live page during a scan: every energy in time at 1024², and a real scan from RunEngine to the stored result."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bluesky import RunEngine
from page_driver import CHROMIUM, LivePage, painted_times
from published_run import Sample

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo_parts import DemoOptions, simulate
from txm_stream.view.server import ViewServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")

NOTE = "(note => note.hidden ? 'map' : note.textContent)(document.getElementById('map-note'))"
"""Words and visibility of the map's note at one moment."""


@pytest.fixture(scope="module")
def target(shared_server: EmbeddedServer) -> TiledTarget:
    return TiledTarget(shared_server.uri, shared_server.api_key)


@pytest.fixture(scope="module")
def view(target: TiledTarget) -> Iterator[ViewServer]:
    with ViewServer(target) as running:
        yield running


@pytest.mark.parametrize("visits", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_every_energy_is_painted_in_time(
    visits: int, target: TiledTarget, view: ViewServer, page: LivePage, tmp_path: Path
) -> None:
    """Check 2, at 1024² and about one energy a second."""
    energies = 8300.0 + 2.0 * np.arange(visits)
    sample = Sample(target, f"1a9{visits}", tmp_path / "spool", shape=(1024, 1024), energies_eV=energies)
    page.page.goto(view.page(f"1a9{visits}"))
    times = painted_times(page)
    committed = {}
    with ThreadPoolExecutor(1) as pool:
        for count in range(1, visits + 1):
            began = time.monotonic()
            done: Future[None] = pool.submit(sample.visit, count)
            done.add_done_callback(lambda _, count=count: committed.setdefault(count, time.time()))
            page.until(done.done)
            done.result()
            page.page.wait_for_timeout(max(1000 * (1 - time.monotonic() + began), 0))
    page.until(lambda: page.shown("paintedOf") == str(visits))
    painted = times()
    lag = [painted[count] - at for count, at in committed.items() if count in painted]
    late = np.quantile(lag, 0.95)
    print(f"\n{visits} energies, {len(lag)} painted: lag {np.median(lag):.2f} s median, {late:.2f} s 95 %")
    assert page.text("#count") == str(visits)
    assert visits in painted
    assert np.median(lag) < 4.5


def test_runs_that_begin_are_shown_from_their_first_energy(
    target: TiledTarget, view: ViewServer, page: LivePage, tmp_path: Path
) -> None:
    """The page is open before them: on a finished run, then on one that is still live."""
    Sample(target, "0e0", tmp_path / "0").finish()
    page.page.goto(view.page())
    page.until(lambda: page.shown("paintedOf") == "8")
    page.page.wait_for_timeout(5000)
    for uid in ("0e1", "0e2"):
        page.page.evaluate("document.documentElement.dataset.paintedOf = ''")
        times = painted_times(page)
        sample = Sample(target, uid, tmp_path / uid)
        for count in range(1, 5):
            sample.visit(count)
            page.page.wait_for_timeout(1200)
        page.until(lambda: page.shown("paintedOf") == "4")
        assert sorted(times()) == [1, 2, 3, 4]
        sample.publisher.close()


def test_a_real_scan_live_done_and_replayed(
    shared_server: EmbeddedServer,
    target: TiledTarget,
    view: ViewServer,
    page: LivePage,
    run_engine: RunEngine,
    tmp_path: Path,
) -> None:
    """Checks 2, 3 and 9: RunEngine, simulated microscope, XanesStream; truth, and the stored run again."""
    options = DemoOptions(size=96, energies=24, photons=20000, jitter_px=0.5, exposure_s=0.15, delivery="inline")
    simulation = simulate(options, tmp_path / "scan")
    page.page.goto(view.page())
    seen: list[str] = []
    with XanesStream(simulation.profile, tiled=target) as stream, ThreadPoolExecutor(1) as pool:
        stream.ready(60)
        run_engine.subscribe(stream)
        scan = pool.submit(run_engine, xanes_scan(simulation.txm, simulation.energies_eV.tolist()))
        while not scan.done():
            page.page.wait_for_timeout(100)
            if page.text("#planned") == "/24" and page.text("#count") not in ("0", "24"):
                note = page.page.evaluate(NOTE)
                seen += [] if seen[-1:] == [note] else [note]
        (uid,) = scan.result()
        waiting = threading.Thread(target=stream.wait, args=(120,))
        waiting.start()
        page.until(lambda: not waiting.is_alive(), 120)
        report = stream.wait(1)
    assert report is not None
    assert report.status == "final"
    page.until(lambda: page.text("#state") == "done" and page.shown("painted") == "24")
    assert page.text("#count") == "24"
    assert page.text("#planned") == "/24"
    print("\nseen during the scan:", seen)
    assert seen[:2] == ["waiting for the edge…", "map"]

    truth = simulation.txm.truth()
    final = shared_server.client()[(*str(report.results_path).split("/"), "final")]
    maps, sigma = final["phase_map"].read(), final["phase_sigma"].read()
    noisy = final["noisy"].read()
    inside = np.isfinite(maps[0]) & np.isfinite(noisy).all(axis=0) & (truth.edge_jump > 0.7 * truth.edge_jump.max())
    y, x = (int(i[0]) for i in np.nonzero(inside))
    page.click(y, x, maps.shape[1:])
    got = page.spectrum()
    np.testing.assert_allclose(got["noisy"], noisy[:, y, x], rtol=1e-5)
    np.testing.assert_allclose(got["denoised"], final["denoised"].read()[:, y, x], rtol=1e-5)
    text = page.text("#pixel-state")
    names = final.metadata["attrs"]["states"]
    for name, state, error, true in zip(names, maps[:, y, x], sigma[:, y, x], truth.abundances[:, y, x], strict=True):
        digits = 3 if error < 0.00995 else 2
        assert f"{name} {state:.{digits}f} ± {error:.{digits}f}".replace("-", "−") in text
        assert abs(state - true) < max(5 * error, 0.1)
    print(f"pixel {x}, {y}: {text}; truth {truth.abundances[:, y, x].round(3)}")
    assert np.nanmax(np.abs(got["fit"] - got["denoised"])) < 0.1

    page.page.mouse.move(1, 1)
    live = page.colours("#map")
    page.page.goto("about:blank")
    page.page.goto(view.page(uid))
    page.until(lambda: page.shown("painted") == "24" and page.page.is_visible("#map-scale"))
    page.click(y, x, maps.shape[1:])
    page.page.mouse.move(1, 1)
    np.testing.assert_array_equal(page.colours("#map"), live)
    pd.testing.assert_frame_equal(page.spectrum(), got)
