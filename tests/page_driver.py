"""The live page in a headless Chromium: opening it, reading what it shows, and what stands between it and a reader."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_NETWORK = "Failed to load resource"
"""Chromium's own line for every answer that is an error; the page says it to the reader in its own words."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start headless Chromium, the one of the system."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class LivePage:
    """An open page; keeps console errors and requested addresses."""

    def __init__(self, browser: Browser, *, width: int = 1280, height: int = 800) -> None:
        self.errors: list[str] = []
        self.console: list[str] = []
        self.requested: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _note(self, kind: str, text: str) -> None:
        self.console.append(text)
        if kind == "error" and not text.startswith(_NETWORK):
            self.errors.append(text)

    def __enter__(self) -> LivePage:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def text(self, selector: str) -> str:
        """Return the words of an element."""
        return (self.page.text_content(selector) or "").strip()

    def shown(self, name: str) -> str:
        """Return what the page says it has drawn: "painted", "paintedOf", "mapped", "spectrum"."""
        return str(self.page.evaluate(f"document.documentElement.dataset.{name} ?? ''"))

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Wait until something holds; return how long it took, in s."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + timeout_s, f"waited too long; the page: {self.text('body')[:400]}"
            self.page.wait_for_timeout(50)
        return time.monotonic() - began

    def pixel(self, y: int, x: int, shape: tuple[int, int], selector: str = "#map") -> tuple[float, float]:
        """Return where a pixel of an image lies on the page that is not zoomed."""
        box = self.page.locator(selector).bounding_box()
        assert box is not None
        scale = min(box["width"] / shape[1], box["height"] / shape[0])
        left, top = (box["width"] - scale * shape[1]) / 2, (box["height"] - scale * shape[0]) / 2
        return box["x"] + left + (x + 0.5) * scale, box["y"] + top + (y + 0.5) * scale

    def click(self, y: int, x: int, shape: tuple[int, int], selector: str = "#map") -> None:
        """Click a pixel of an image, and wait for its spectrum."""
        self.page.mouse.click(*self.pixel(y, x, shape, selector))
        self.until(lambda: self.shown("chemistry") == f"pixel x {x}, y {y}")

    def drag(
        self, start: tuple[int, int], end: tuple[int, int], shape: tuple[int, int], selector: str = "#map"
    ) -> None:
        """Draw a region from one pixel (y, x) to another, and wait for its spectrum."""
        self.page.mouse.move(*self.pixel(*start, shape, selector))
        self.page.mouse.down()
        self.page.mouse.move(*self.pixel(*end, shape, selector), steps=5)
        self.page.mouse.up()
        self.until(lambda: self.shown("chemistry") == f"ROI x {start[1]}–{end[1]}, y {start[0]}–{end[0]}")

    def colours(self, selector: str = "#map") -> np.ndarray[Any, Any]:
        """Return the canvas as the page has painted it, (height, width, 4)."""
        size, data = self.page.evaluate(
            """selector => { const c = document.querySelector(selector);
            const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            const part = i => String.fromCharCode(...pixels.subarray(i, i + 8192));
            let text = ''; for (let i = 0; i < pixels.length; i += 8192) text += part(i);
            return [[c.height, c.width], btoa(text)]; }""",
            selector,
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(*size, 4)

    def colour(self, y: int, x: int, shape: tuple[int, int], selector: str = "#map") -> tuple[int, ...]:
        """Return the colour (r, g, b, alpha) of a pixel of an image."""
        canvas = self.colours(selector)
        scale = min(canvas.shape[1] / shape[1], canvas.shape[0] / shape[0])
        left, top = (canvas.shape[1] - scale * shape[1]) / 2, (canvas.shape[0] - scale * shape[0]) / 2
        return tuple(int(part) for part in canvas[int(top + (y + 0.5) * scale), int(left + (x + 0.5) * scale)])

    def spectrum(self) -> pd.DataFrame:
        """Return the spectrum that the page's menu exports: energy_eV, noisy, denoised, fit."""
        self.page.click("#export summary")
        with self.page.expect_download() as download:
            self.page.click("#export-spectrum")
        return pd.read_csv(io.StringIO(Path(download.value.path()).read_text()), comment="#")

    def picture(self, button: str) -> tuple[str, np.ndarray[Any, Any]]:
        """Return name and pixels of a picture that the page's menu makes."""
        from matplotlib.image import imread

        self.page.click("#export summary")
        with self.page.expect_download() as download:
            self.page.click(button)
        return download.value.suggested_filename, imread(download.value.path(), format="png")


def painted_times(page: LivePage) -> Callable[[], dict[int, float]]:
    """Note when each number of energies was first on the screen; return what tells the times, UNIX time in s."""
    page.page.evaluate(
        """window.painted = {}; new MutationObserver(() => requestAnimationFrame(() => {
        painted[document.documentElement.dataset.paintedOf] ??= Date.now() / 1000;
        })).observe(document.documentElement, { attributeFilter: ['data-painted-of'] });"""
    )
    return lambda: {int(count): at for count, at in page.page.evaluate("painted").items() if count}


@contextlib.contextmanager
def below_a_path(target: str, prefix: str) -> Iterator[str]:
    """Serve a page below a path, as jupyter-server-proxy does; yield the address."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            try:
                with urllib.request.urlopen(target + self.path[len(prefix) :], timeout=60) as answer:
                    status, headers, content = answer.status, answer.headers.items(), answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    status, headers, content = error.code, error.headers.items(), error.read()
            with contextlib.suppress(ConnectionError):  # the page was closed meanwhile
                self.answer(status, headers, content)

        def answer(self, status: int, headers: Iterable[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
        server.shutdown()
        thread.join(10)
