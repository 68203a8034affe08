"""The live page in a real Chromium, against a real Tiled server: what it must show (see also test_page_scan)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from page_driver import CHROMIUM, LivePage, below_a_path
from playwright.sync_api import Browser
from published_run import EDGE, ENERGIES, SHAPE, Sample

from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.view.app import Exported
from txm_stream.view.region import Box
from txm_stream.view.server import ViewServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
COUNT = len(ENERGIES)
WORDS = "it tells NiO from Ni best"


@pytest.fixture(scope="module")
def target(shared_server: EmbeddedServer) -> TiledTarget:
    return TiledTarget(shared_server.uri, shared_server.api_key)


@pytest.fixture(scope="module")
def view(target: TiledTarget) -> Iterator[ViewServer]:
    def text(run: str, box: Box | None) -> Exported:
        return Exported(f"{run}.txt", f"run {run} {box}".encode(), "text/plain")

    with ViewServer(target, exporters={"text": text}) as running:
        yield running


@pytest.fixture(scope="module")
def stored(target: TiledTarget, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    sample = Sample(target, "5704ed", tmp_path_factory.mktemp("stored"), scan_id=5)
    sample.visit(COUNT)
    sample.finish()
    return sample


def advice(count: int) -> pd.DataFrame:
    rows = {"seq": range(count), "energy_eV": 8300.0, "next_energy_eV": 8346.5 + np.arange(count), "stop": False}
    rows |= {"predicted_rmse": 0.031, "next_rmse": 0.024, "visits_left": 3.0, "seconds_left": 90.0, "time": 0.0}
    return pd.DataFrame(rows | {"reason": WORDS})


def test_one_command_opens_it_and_the_key_appears_nowhere(
    shared_server: EmbeddedServer, target: TiledTarget, page: LivePage, tmp_path: Path
) -> None:
    """Checks 1 and 8."""
    Sample(target, "11fe", tmp_path / "spool").visit(2)
    command = [
        sys.executable,
        "-c",
        "from txm_stream.cli import main; main()",
        "view",
        shared_server.uri,
        "--no-browser",
    ]
    environment = os.environ | {"TILED_API_KEY": shared_server.api_key, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        try:
            assert run.stdout is not None
            address = next(line.split()[-1] for line in run.stdout if "http://127" in line)
            began = time.monotonic()
            page.page.goto(address)
            page.until(lambda: page.text("#state") == "live")
            took = time.monotonic() - began
            page.until(lambda: page.shown("painted") == "2")
            shown = (
                page.page.content()
                + page.page.url
                + str(page.page.evaluate("JSON.stringify([sessionStorage, localStorage])"))
            )
            base = address.partition("#")[0]
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert httpx.request(method, f"{base}api/run/11fe", trust_env=False).status_code == 405
            if Path("/proc").is_dir():
                assert shared_server.api_key not in Path(f"/proc/{run.pid}/cmdline").read_text()
        finally:
            run.terminate()
        log = run.stdout.read()
    print(f"\nlive after {took:.2f} s, {len(page.requested)} requests, all to {base}")
    assert took < 15
    assert all(url.startswith((base, "data:")) for url in page.requested), page.requested
    assert shared_server.api_key not in shown + log + address + "".join(page.console + page.requested)


def test_a_wrong_key_is_said(shared_server: EmbeddedServer, page: LivePage) -> None:
    """Check 8."""
    with ViewServer(TiledTarget(f"{shared_server.uri}?api_key=wrong-one")) as wrong:
        page.page.goto(wrong.page())
        page.until(lambda: "refuses the API key" in page.text("#message"))
    assert page.text("#state") == "lost"
    assert "wrong-one" not in page.page.content()


def test_before_the_edge_slider_and_end_colours(
    target: TiledTarget, view: ViewServer, page: LivePage, tmp_path: Path
) -> None:
    """Checks 4, 5 and 6, and that the advice is read."""
    sample = Sample(target, "e46e", tmp_path / "spool")
    page.page.goto(view.page("e46e"))
    for count in range(1, EDGE):
        sample.visit(count, advice(count))
    page.until(lambda: page.shown("painted") == str(EDGE - 1) and bool(page.shown("spectrum")))
    assert page.text("#map-note") == "waiting for the edge…"
    assert not page.colours("#map")[..., 3].any(), "the map is empty"
    assert page.text("#pixel-state") == "no state yet"
    assert page.spectrum()["fit"].isna().all()
    page.until(lambda: f"after {EDGE - 2}: {ENERGIES[-1] - 21.5:.2f} eV – {WORDS}" in page.text("#advice li"))
    assert page.text("#planned") == f"/{COUNT}"
    assert page.text("#remaining").endswith(" s left")
    assert page.text("#latency") == "250 ms behind"

    sample.visit(EDGE)
    page.until(lambda: not page.page.is_visible("#map-note"))
    colours = [page.colour(12, x, SHAPE) for x in (8, 24)]
    print("\npure states:", [bytes(colour[:3]).hex() for colour in colours])
    assert colours == [(0x7B, 0xB1, 0xF5, 255), (0xEF, 0x97, 0x10, 255)]
    assert page.colour(1, 24, SHAPE)[3] == 0, "thin pixels stay uncoloured"

    before = page.colours("#frame")
    page.page.fill("#energy", "1")
    page.until(
        lambda: page.text("#energy-label") == f"{ENERGIES[1]:.2f} eV (2 of {EDGE})" and page.shown("painted") == "2"
    )
    assert page.page.get_attribute("#follow", "aria-pressed") == "false"
    assert not np.array_equal(page.colours("#frame"), before)
    sample.visit(EDGE + 1)
    page.until(lambda: page.text("#count") == str(EDGE + 1))
    page.until(lambda: page.text("#energy-label") == f"{ENERGIES[1]:.2f} eV (2 of {EDGE + 1})")
    page.page.keyboard.press("Escape")
    page.page.click("#follow")
    page.until(lambda: page.shown("painted") == str(EDGE + 1))


def test_pixel_and_region_are_those_of_the_stack(view: ViewServer, page: LivePage, stored: Sample) -> None:
    """Check 3, on arrays that are known; linked zoom and crosshair; pictures; the server's own exports."""
    page.page.goto(view.page("5704"))
    page.until(lambda: page.text("#state") == "done" and page.page.is_visible("#map-scale"))
    began = time.monotonic()
    page.click(12, 20, SHAPE)
    took = time.monotonic() - began
    print(f"\nclick to spectrum: {took:.2f} s")
    got = page.spectrum()
    np.testing.assert_allclose(got["energy_eV"], ENERGIES)
    np.testing.assert_allclose(got["noisy"], stored.noisy[:, 12, 20], rtol=1e-6)
    np.testing.assert_allclose(got["denoised"], stored.denoised[:, 12, 20], rtol=1e-5)
    np.testing.assert_allclose(got["fit"], stored.denoised[:, 12, 20], atol=1e-5)
    assert "Ni 1.00 ± 0.03" in page.text("#pixel-state")
    assert "goodness of fit 0.50" in page.text("#pixel-state")

    page.drag((10, 10), (14, 21), SHAPE, "#frame")
    box = (slice(None), slice(10, 15), slice(10, 22))
    got = page.spectrum()
    np.testing.assert_allclose(got["noisy"], stored.noisy[box].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(got["denoised"], stored.denoised[box].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(got["fit"], stored.denoised[box].mean((1, 2)), atol=1e-5)
    assert "NiO 0.50 (each pixel ± 0.03, spread 0.50)" in page.text("#pixel-state")
    assert "mean of 60 pixels, 60 with a state" in page.text("#pixel-state")

    page.page.mouse.move(*page.pixel(12, 20, SHAPE, "#frame"))
    for _ in range(4):
        page.page.mouse.wheel(0, -100)
    page.until(lambda: page.text("#frame-hover").startswith("x 20, y 12: "))
    assert page.text("#map-hover") == "Ni 1.00"
    scale = np.exp(4 * 0.25)
    x, y = page.pixel(12, 20, SHAPE, "#map")
    step = page.pixel(12, 21, SHAPE, "#map")[0] - x
    page.page.mouse.move(x + 5 * step, y)
    page.until(lambda: page.text("#frame-hover").startswith(f"x {int(20.5 + 5 / scale)}, y 12"))

    name, pixels = page.picture("#export-view")
    assert name == f"txm-stream-5-5704ed-{COUNT}.png"
    assert pixels.shape[1] == 2 * 1280
    assert pixels[..., :3].std() > 0.05
    page.page.click("#export summary")
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="text", exact=True).click()
    assert download.value.suggested_filename == "5704ed.txt"
    assert Path(download.value.path()).read_text() == "run 5704ed Box(y0=10, y1=15, x0=10, x1=22)"


def test_three_states_are_small_multiples(
    target: TiledTarget, view: ViewServer, page: LivePage, tmp_path: Path
) -> None:
    sample = Sample(target, "333", tmp_path / "spool", states=("NiO", "LiNiO2", "Ni"))
    sample.visit(COUNT)
    page.page.goto(view.page("333"))
    page.until(lambda: page.page.locator("#maps figure").count() == 4)
    titles = page.page.locator("#maps figcaption").all_text_contents()
    assert titles == ["NiO", "LiNiO2", "Ni", "largest share"]
    for cell, x in enumerate((4, 15, 28)):
        colours = [page.colour(20, x, SHAPE, "#map" if n == 0 else f"#map-{n + 1}") for n in range(3)]
        assert [colour[:3] == (0xFD, 0xE7, 0x25) for colour in colours] == [n == cell for n in range(3)]
    largest = [page.colour(20, x, SHAPE, "#map-4")[:3] for x in (4, 15, 28)]
    assert largest == [(0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9), (0x00, 0x9E, 0x73)]
    assert page.page.locator("#map-swatches li").all_text_contents() == ["NiO", "LiNiO2", "Ni"]
    page.page.click("#map-modes button:has-text('largest')")
    page.until(lambda: page.page.locator("#maps figure").count() == 1)
    page.page.get_by_role("button", name="state", exact=True).click()
    page.page.select_option("#state-choice", label="LiNiO2")
    page.until(lambda: page.text("#map-caption") == "fraction of LiNiO2")


def test_lost_and_found(tmp_path: Path, browser: Browser) -> None:
    """Check 7: the view and the server die and come back, no row is doubled or missing; here with a new run as well."""
    with EmbeddedServer(tmp_path / "server") as server, LivePage(browser) as page:
        target = TiledTarget(server.uri, server.api_key)
        sample = Sample(target, "1057", tmp_path / "spool")
        sample.visit(2)
        with ViewServer(target) as view:
            page.page.goto(view.page())
            page.until(lambda: page.shown("painted") == "2")
        lost = page.until(lambda: page.text("#state") == "lost")
        assert "live page's own server does not answer" in page.text("#message")
        with ViewServer(target, port=view.port):
            back = page.until(lambda: page.text("#state") == "live")
            server.kill()
            page.until(lambda: page.text("#state") == "lost")
            assert "does not answer" in page.text("#message")
            server.restart()
            for count in range(3, 6):
                sample.visit(count)
            page.until(lambda: page.text("#state") == "live" and page.text("#count") == "5")
            page.until(lambda: page.shown("spectrum").endswith(" 5") and page.shown("painted") == "5")
            assert not page.page.is_visible("#message")
            got = page.spectrum()
            np.testing.assert_allclose(got["energy_eV"], ENERGIES[:5])
            x, y = SHAPE[1] // 2, SHAPE[0] // 2
            np.testing.assert_allclose(got["noisy"], sample.noisy[:5, y, x], rtol=1e-6)
            np.testing.assert_allclose(got["denoised"], sample.denoised[:5, y, x], rtol=1e-5)
            Sample(target, "2222", tmp_path / "spool-2", scan_id=8).visit(1)
            page.until(lambda: page.text("#count") == "1")
            assert "scan 8" in page.text("#run")
        assert page.errors == []
        print(f"\nlost after {lost:.1f} s, back after {back:.1f} s, rows {got['energy_eV'].tolist()}")


def test_below_a_path_with_its_address_and_by_keys(view: ViewServer, browser: Browser, stored: Sample) -> None:
    """Checks 9 and 10."""
    with below_a_path(view.url, "/user/jo/proxy/8050/") as address, LivePage(browser) as page:
        page.page.goto(f"{address}#run=5704&x=20&y=12&visit=3")
        page.until(lambda: page.shown("spectrum").startswith("pixel x 20, y 12 "))
        page.until(lambda: page.text("#energy-label") == f"{ENERGIES[2]:.2f} eV (3 of {COUNT})")
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 1280
        reached = set()
        for _ in range(30):
            page.page.keyboard.press("Tab")
            reached.add(page.page.evaluate("(e => e.id || e.textContent)(document.activeElement)"))
        assert {"run", "follow", "Export", "split", "frame", "energy", "2-D", "σ", "map"} <= reached, reached
        unnamed = page.page.evaluate(
            """[...document.querySelectorAll('button, select, input, canvas[tabindex], canvas[role]')].filter(e =>
            !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)"""
        )
        assert unnamed == []
        page.page.evaluate("document.activeElement.blur()")
        for key, holds in {
            "ArrowRight": lambda: page.text("#energy-label") == f"{ENERGIES[3]:.2f} eV (4 of {COUNT})",
            "Shift+ArrowDown": lambda: page.shown("spectrum").startswith("pixel x 20, y 13 "),
            "]": lambda: page.shown("spectrum").startswith("ROI x 18–22, y 11–15 "),
            "v": lambda: page.page.get_attribute("#frame-modes button:nth-child(2)", "aria-pressed") == "true",
            "m": lambda: page.text("#map-caption") == "fraction of Ni",
            "f": lambda: page.text("#energy-label") == f"{ENERGIES[-1]:.2f} eV ({COUNT} of {COUNT})",
        }.items():
            page.page.keyboard.press(key)
            page.until(holds)
        page.page.keyboard.press("f")
        page.page.reload()  # the address carries run, region, energy and modes
        page.until(lambda: page.shown("spectrum").startswith("ROI x 18–22, y 11–15 "))
        page.until(lambda: page.text("#map-caption") == "fraction of Ni")
        assert page.text("#energy-label") == f"{ENERGIES[-1]:.2f} eV ({COUNT} of {COUNT})"
        assert page.page.get_attribute("#follow", "aria-pressed") == "false"
        page.page.set_viewport_size({"width": 420, "height": 800})
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 420
        assert page.errors == []
        assert all(url.startswith((address, "data:", "blob:")) for url in page.requested)
        print(f"\n{len(page.requested)} requests below {address}; {len(reached)} controls reached by Tab")
