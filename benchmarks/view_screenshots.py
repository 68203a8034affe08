"""Screenshots of the live page, taken in Chromium during simulated scans.

python benchmarks/view_screenshots.py FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bluesky import RunEngine
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from page_driver import LivePage, chromium

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo_parts import DemoOptions, run_engine, simulate
from txm_stream.view.server import ViewServer

_SIZE, _ENERGIES = 256, 40
_PACE_S = 0.3


class Camera:
    """Takes pictures of a page into a folder, with 256 colours."""

    def __init__(self, page: LivePage, folder: Path) -> None:
        self.page, self.folder = page, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> None:
        """Take a picture once everything is drawn."""
        self.page.page.wait_for_timeout(1500)
        path = self.folder / f"view-{name}.png"
        self.page.page.screenshot(path=path)
        Image.open(path).convert("RGB").quantize(256, kmeans=2).save(path, optimize=True)
        print(path.name, f"{path.stat().st_size / 1000:.0f} kB")


def scan(camera: Camera, engine: RunEngine, target: TiledTarget, folder: Path, states: int) -> None:
    """Make a scan, with pictures before the edge, in its middle, with a region, and at its end."""
    options = DemoOptions(
        size=_SIZE, energies=_ENERGIES, photons=500, states=states, exposure_s=_PACE_S, delivery="inline"
    )
    simulation, page = simulate(options, folder), camera.page
    with XanesStream(simulation.profile, tiled=target) as stream, ThreadPoolExecutor(1) as pool:
        stream.ready(60)
        token = engine.subscribe(stream)
        about = {"sample": "simulated particles"}
        done = pool.submit(engine, xanes_scan(simulation.txm, simulation.energies_eV.tolist(), md=about))
        if states == 2:
            page.until(lambda: page.shown("paintedOf").isdigit() and int(page.shown("paintedOf")) >= 5, 300)
            camera.take("waiting")
            page.until(lambda: page.page.is_visible("#map-scale") and int(page.shown("paintedOf")) > 24, 300)
            page.click(120, 150, (_SIZE, _SIZE))
            camera.take("live")
        page.until(done.done, 300)
        done.result()
        page.until(lambda: page.text("#state") == "done" and page.page.is_visible("#map-scale"), 300)
        camera.take("done" if states == 2 else "states")
        engine.unsubscribe(token)


def main() -> None:
    """Take all pictures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots")
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedServer(Path(name) / "server") as server,
        chromium() as browser,
        run_engine() as engine,
        LivePage(browser) as page,
    ):
        target, camera = TiledTarget(server.uri, server.api_key), Camera(page, folder)
        with ViewServer(target) as view:
            page.page.goto(view.page())
            scan(camera, engine, target, Path(name) / "two", 2)
            page.page.click("#frame-modes button:has-text('split')")
            page.drag((90, 90), (140, 150), (_SIZE, _SIZE), "#frame")
            camera.take("region")
            page.page.set_viewport_size({"width": 420, "height": 1500})
            camera.take("narrow")
            page.page.set_viewport_size({"width": 1280, "height": 800})
            page.page.keyboard.press("Escape")
            page.page.click("#frame-modes button:has-text('denoised')")
            scan(camera, engine, target, Path(name) / "three", 3)
        page.until(lambda: page.text("#state") == "lost")
        camera.take("lost")


if __name__ == "__main__":
    main()
