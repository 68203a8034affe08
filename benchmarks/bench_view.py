"""The live page in Chromium: commit to painted, click to spectrum, memory of the tab.

python benchmarks/bench_view.py [--visits 60] [--large 20] [--clicks 15]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from page_driver import LivePage, chromium, painted_times
from published_run import Sample

from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.view.server import ViewServer

_PACE_S = 1.0
_STOPWATCH = """() => { window.took = 0; document.addEventListener('pointerup', () => {
const began = performance.now(), stop = () => { window.took ||= performance.now() - began; };
new MutationObserver((_, watch) => { requestAnimationFrame(stop); watch.disconnect(); })
.observe(document.documentElement, { attributeFilter: ['data-spectrum'] });
}, { once: true, capture: true }); }"""


@contextmanager
def opened() -> Iterator[tuple[TiledTarget, LivePage, ViewServer, Path]]:
    """Yield a server, an empty page in Chromium, the live page's server and a folder."""
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name) / "server") as server, chromium() as browser:
        target = TiledTarget(server.uri, server.api_key)
        with ViewServer(target) as view, LivePage(browser) as page:
            yield target, page, view, Path(name)


def lags(shape: tuple[int, int], visits: int) -> tuple[list[float], list[float], list[int]]:
    """Return commit to painted in s, memory of the tab in MB after each visit, and the visits that were not painted."""
    with opened() as (target, page, view, folder):
        sample = Sample(target, "b", folder / "spool", shape=shape, energies_eV=8300 + 2.0 * np.arange(visits))
        page.page.goto(view.page())
        times, memory, committed = painted_times(page), [], {}
        with ThreadPoolExecutor(1) as pool:
            for count in range(1, visits + 1):
                began = time.monotonic()
                published = pool.submit(sample.visit, count)
                published.add_done_callback(lambda _, count=count: committed.setdefault(count, time.time()))
                page.until(published.done, 300)
                published.result()
                page.page.wait_for_timeout(max(1000 * (_PACE_S - time.monotonic() + began), 0))
                memory.append(tab_mb())
        page.until(lambda: page.shown("paintedOf") == str(visits))
        painted = times()
        late = [painted[count] - at for count, at in committed.items() if count in painted]
        sample.publisher.close()
    return late, memory, [count for count in committed if count not in painted]


def clicks(shape: tuple[int, int], visits: int, count: int) -> list[float]:
    """Return click to spectrum in s, of pixels that were not asked for before."""
    rng = np.random.default_rng(0)
    with opened() as (target, page, view, folder):
        sample = Sample(target, "b", folder / "spool", shape=shape, energies_eV=8300 + 2.0 * np.arange(visits))
        for part in range(10, visits + 1, 10):
            sample.visit(part)
        page.page.goto(view.page())
        page.until(lambda: page.shown("painted") == str(visits) and page.shown("spectrum").endswith(f" {visits}"))
        took = []
        for _ in range(count):
            page.page.wait_for_timeout(500)
            y, x = (int(rng.integers(0, size)) for size in shape)
            page.page.evaluate(_STOPWATCH)
            page.page.mouse.click(*page.pixel(y, x, shape, "#frame"))
            page.until(lambda: page.page.evaluate("window.took") > 0)
            took.append(page.page.evaluate("window.took") / 1000)
        sample.publisher.close()
    return took


def tab_mb() -> float:
    """Return the resident memory of Chromium's largest renderer in MB."""
    children = psutil.Process().children(recursive=True)
    renderers = [child for child in children if "--type=renderer" in child.cmdline()]
    return max((child.memory_info().rss for child in renderers), default=0) / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=60)
    parser.add_argument("--large", type=int, default=20)
    parser.add_argument("--clicks", type=int, default=15)
    options = parser.parse_args()
    for shape, visits, aim in (((1024, 1024), options.visits, "0.6, 1.5"), ((2160, 2560), options.large, "1.5")):
        if visits:
            late, memory, missed = lags(shape, visits)
            print(
                f"{shape[0]}×{shape[1]}, one visit a second: commit to painted {np.median(late):.2f} s median, "
                f"{np.quantile(late, 0.95):.2f} s 95 % (aim {aim}); of {visits} not painted: {missed or 'none'}; tab "
                f"{np.median(memory[visits // 4 : visits // 2]):.0f} MB in the second quarter, "
                f"{np.median(memory[-visits // 4 :]):.0f} MB in the last"
            )
    if options.clicks:
        took = clicks((1024, 1024), 120, options.clicks)
        print(f"1024² × 120: click to spectrum {np.median(took):.2f} s median, {max(took):.2f} s longest (aim 0.3)")
    load = psutil.getloadavg()
    print(f"load of the machine: {load[0]:.1f} {load[1]:.1f} {load[2]:.1f} on {psutil.cpu_count()} cores")


if __name__ == "__main__":
    main()
