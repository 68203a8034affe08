"""The live page: read-only, keyless, and what it shows is what is in Tiled; the last test in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from websockets.sync.client import ClientConnection, connect

from txm_stream.callbacks.publisher import Publisher
from txm_stream.callbacks.results_tree import ResultsTree
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.errors import UnreachableError
from txm_stream.frames import Scan
from txm_stream.profile import Profile
from txm_stream.results import K_MAX, Result, Snapshot, VisitMetrics, VisitUpdate
from txm_stream.view.app import STATIC
from txm_stream.view.results_reader import split_uri
from txm_stream.view.server import ViewServer, ViewTokenError, serve_view

CHROMIUM = shutil.which("chromium")
SHAPE = (24, 32)
ENERGIES = 8300.0 + 10.0 * np.arange(8)
STATES = ("NiO", "Ni")
EDGE = 4
"""From this visit on there is a map."""


class Sample:
    """A published run with a known truth: two components, the left half pure NiO, the right half pure Ni."""

    def __init__(self, target: TiledTarget, uid: str, spool: Path) -> None:
        rng = np.random.default_rng(7)
        self.loadings = rng.uniform(0.5, 1.0, (len(ENERGIES), K_MAX)).astype(np.float32)
        self.loadings[:, 2:] = 0
        self.components = np.zeros((K_MAX, *SHAPE), dtype=np.float32)
        self.components[:2] = rng.uniform(0.2, 1.0, (2, *SHAPE))
        self.denoised = np.tensordot(self.loadings, self.components, axes=1)
        self.noisy = self.denoised + rng.normal(0, 0.05, self.denoised.shape).astype(np.float32)
        self.phase_map = np.zeros((2, *SHAPE), dtype=np.float32)
        self.phase_map[0, :, :16] = self.phase_map[1, :, 16:] = 1
        self.phase_map[:, :4, :] = np.nan
        self.scale = np.where(np.isfinite(self.phase_map[0]), np.float32(0.5), np.float32(np.nan))
        self.sigma = np.full((2, *SHAPE), 0.03, dtype=np.float32)
        self.publisher = Publisher(target, spool_dir=spool)
        self.tree = ResultsTree(self.publisher, Profile(), Scan(uid=uid, scan_id=7, sample="cathode"))
        self.tree.begin(STATES)

    def rows(self, count: int) -> tuple[VisitMetrics, ...]:
        return tuple(
            VisitMetrics(
                n + 1, ENERGIES[n], shift_y_px=0.5, shift_x_px=-0.5, sigma=0.05, rank=2, basis_version=n + 1,
                map_version=max(n + 2 - EDGE, 0), latency_s=0.25, time=time.time(),
            )
            for n in range(count)
        )  # fmt: skip

    def visit(self, count: int) -> None:
        maps = {"phase_map": self.phase_map, "phase_sigma": self.sigma, "scale": self.scale, "fit": self.scale}
        snapshot = Snapshot(
            rows=self.rows(count),
            loadings=self.loadings[:count],
            components=self.components,
            preview=self.denoised[count - 1],
            states=STATES,
            **(maps if count >= EDGE else {}),
        )
        table = pd.DataFrame([asdict(row) for row in snapshot.rows])
        self.tree.frames([VisitUpdate(count - 1, ENERGIES[count - 1], self.noisy[count - 1], True)])
        self.tree.visit(snapshot, table)
        assert self.publisher.flush(30)

    def finish(self) -> None:
        count = len(ENERGIES)
        result = Result(
            energies_eV=ENERGIES, noisy=self.noisy, denoised=self.denoised, mask=np.isfinite(self.scale),
            shifts_px=np.full((count, 2), 1.5), shift_sigma_px=np.full(count, 0.1), loadings=self.loadings,
            components=self.components, sigma=0.05, rank=2, risk=1e-4, metrics=self.rows(count), states=STATES,
            references=np.ones((count, 2)), phase_map=self.phase_map, phase_sigma=self.sigma, fit=self.scale,
            scale=self.scale, predicted_rmse=0.03, map_method="rum+", warnings=("frame 3 is dark",),
        )  # fmt: skip
        self.tree.finish(result)
        assert self.publisher.close().complete


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def target(server: EmbeddedServer) -> TiledTarget:
    return TiledTarget(server.uri, server.api_key)


@pytest.fixture(scope="module")
def sample(server: EmbeddedServer, target: TiledTarget, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    secret = server.client().create_container(key="secret")
    secret.write_array(np.ones(3), key="noisy")
    published = Sample(target, "3f1c", tmp_path_factory.mktemp("spool"))
    for count in range(1, len(ENERGIES) + 1):
        published.visit(count)
    published.finish()
    return published


@pytest.fixture(scope="module")
def view(target: TiledTarget) -> Iterator[ViewServer]:
    with ViewServer(target) as running:
        yield running


def get(view: ViewServer, path: str, **options: Any) -> httpx.Response:
    return httpx.get(view.url + path, trust_env=False, timeout=30, **options)


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_the_page_needs_nothing_from_elsewhere(view: ViewServer) -> None:
    page = get(view, "")
    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"static/app.js", "static/style.css"} <= set(linked)
    for file in STATIC.iterdir():
        answer = get(view, f"static/{file.name}")
        assert answer.content == file.read_bytes()
        assert not re.search(r"https?://|[\"'(]/(?!/)\w", answer.text), f"{file.name} has an absolute address"
        for other in re.findall(r'from "\./([\w.]+)"', answer.text):
            assert (STATIC / other).is_file()


def test_what_it_serves_is_what_is_in_tiled(server: EmbeddedServer, sample: Sample, view: ViewServer) -> None:
    assert get(view, "api/runs").json() == {
        "runs": [{"id": "3f1c", "scan_id": 7, "sample": "cathode", "status": "final"}]
    }
    stored = server.client()["processed", "txm_stream", "3f1c"]
    answer = get(view, "api/metrics/3f1c")
    table = pd.DataFrame(answer.json()["rows"])
    pd.testing.assert_frame_equal(table.astype(float), stored["live", "metrics"].read().astype(float))
    again = get(view, "api/metrics/3f1c", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")

    about = get(view, "api/run/3f1c").json()
    assert about["metadata"]["status"] == "final"
    assert about["attrs"]["warnings"] == ["frame 3 is dark"]
    for part in ("live", "final"):
        for name, kind in about[part].items():
            served = np.frombuffer(get(view, f"api/image/{part}/{name}/3f1c").content, kind["dtype"])
            np.testing.assert_array_equal(served.reshape(kind["shape"]), stored[part, name].read())
    trace = get(view, "api/image/final/noisy/3f1c?slice=:,5,7")
    np.testing.assert_array_equal(np.frombuffer(trace.content, "<f4"), sample.noisy[:, 5, 7])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_it_only_reads(view: ViewServer, method: str) -> None:
    for path in ("", "api/runs", "api/run/3f1c", "static/app.js", "nowhere"):
        answer = httpx.request(method, view.url + path, trust_env=False)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        "api/run/..", "api/run/../secret", "api/run/%2e%2e", "api/run/..%2f..%2fsecret", "api/run/3f1c/..",
        "api/run/3f1c/live", "api/run/3f1c%2flive", "api/run/position_0/..", "api/metrics/../../secret",
        "api/image/live/noisy/../../secret", "api/image/../secret/noisy/3f1c", "api/image/live/%2e%2e/3f1c",
        "api/image/live/noisy/..", "api/image/live/noisy%3fformat/3f1c", "api/image/live/noisy/3f1c?slice=../x",
        "static/../app.py", "static/%2e%2e%2fapp.py", "static/..%2fserver.py", "static/", "api/v1/metadata/secret",
        "metadata/secret", "api/run/", "api/run/%00", "api/metrics/3f1c/position_0/live",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(view: ViewServer, sample: Sample, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=30)  # sends the path as it is
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    empty = path.startswith("api/metrics") and json.loads(text) == {"rows": []}
    assert answer.status == 404 or empty, text
    assert "secret" not in text or "nothing at" in text


def test_the_key_appears_nowhere(
    server: EmbeddedServer, view: ViewServer, sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert server.api_key not in repr(view) + view.url + view.page()
    paths = ["", "api/runs", "api/run/3f1c", "api/metrics/3f1c", "api/run/none", *(f.name for f in STATIC.iterdir())]
    for path in paths:
        answer = get(view, path)
        assert server.api_key not in answer.text + str(answer.headers)
    assert server.api_key not in caplog.text
    with ViewServer(TiledTarget(f"{server.uri}?api_key=wrong-one")) as wrong:
        answer = get(wrong, "api/runs")
    assert answer.status_code == 502
    assert "refuses the API key" in answer.json()["error"]
    assert "wrong-one" not in answer.text + caplog.text


def test_a_lost_server_is_said_and_comes_back(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, ViewServer(TiledTarget(server.uri, server.api_key)) as view:
        assert get(view, "api/runs").json() == {"runs": []}
        server.kill()
        answer = get(view, "api/runs")
        assert answer.status_code == 502
        assert answer.json()["error"] == f"the Tiled server at http://127.0.0.1:{server.port} does not answer"
        assert get(view, "").status_code == 200
        server.restart()
        assert get(view, "api/runs").json() == {"runs": []}


def test_others_need_a_token(target: TiledTarget, sample: Sample) -> None:
    with pytest.raises(ViewTokenError, match="give a view token"):
        ViewServer(target, host="0.0.0.0")
    with ViewServer(target, host="0.0.0.0", view_token="open sesame") as view:
        url = f"http://127.0.0.1:{view.port}/"
        assert "open%20sesame" in view.page("3f1c").partition("#")[2]
        for path in ("api/runs", "api/run/3f1c", "api/metrics/3f1c", "api/image/live/noisy/3f1c"):
            assert httpx.get(url + path, trust_env=False).status_code == 401
            assert httpx.get(url + path, headers={"Authorization": "Bearer no"}, trust_env=False).status_code == 401
            right = httpx.get(url + path, headers={"Authorization": "Bearer open sesame"}, trust_env=False, timeout=30)
            assert right.status_code == 200
    with ViewServer(target) as view:
        assert get(view, "api/runs", headers={"Host": "attacker.example"}).status_code == 403
        with pytest.raises(UnreachableError, match=f"cannot listen on 127.0.0.1:{view.port}"):
            ViewServer(target, port=view.port)


def test_addresses_are_read_as_tiled_does() -> None:
    api = "http://host:8000/api/v1/"
    assert split_uri("http://host:8000") == (api, ())
    assert split_uri("http://host:8000/api") == (api, ())
    assert split_uri("http://host:8000/api/v1/metadata/fxi/raw?x=1") == (api, ("fxi", "raw"))
    assert split_uri("http://host:8000/tiled/") == ("http://host:8000/tiled/api/v1/", ())


def test_serve_view_shows_a_folder(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        Sample(TiledTarget(server.uri, server.api_key), "beef", tmp_path / "spool").publisher.close()
    shown: list[str] = []
    stop = threading.Event()
    options = {"open_browser": False, "show": shown.append, "until": stop}
    page = threading.Thread(target=serve_view, args=(tmp_path,), kwargs=options)
    page.start()
    try:
        until(lambda: bool(shown), 60)
        base, _, fragment = shown[0].partition("#")
        assert fragment == "run=latest"
        runs = httpx.get(f"{base}api/runs", trust_env=False, timeout=30).json()["runs"]
        assert [run["id"] for run in runs] == ["beef"]
    finally:
        stop.set()
        page.join(30)
    with pytest.raises(UnreachableError):
        serve_view(tmp_path / "nowhere", open_browser=False)


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start headless Chromium with an empty page."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--remote-debugging-port=0", "--window-size=1280,800", f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = folder / "DevToolsActivePort"
            until(lambda: port_file.exists() and len(port_file.read_text().splitlines()) == 2, 60)
            port = port_file.read_text().splitlines()[0]
            pages = httpx.get(f"http://127.0.0.1:{port}/json", trust_env=False, timeout=30).json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(address, max_size=None, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()


class Browser:
    """A page, driven through the DevTools protocol; keeps console errors and requested addresses."""

    def __init__(self, socket: ClientConnection) -> None:
        self.errors: list[str] = []
        self.requested: set[str] = set()
        self._count = 0
        self._socket = socket
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(60))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(f"{about['entry']['text']} {about['entry'].get('url')}")
        elif event == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(str(about["args"]))
        elif event == "Network.requestWillBeSent":
            self.requested.add(about["request"]["url"])

    def ask(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return str(self.ask(f"{_find(selector)}?.textContent ?? ''"))

    def colour(self, y: int, x: int) -> list[int]:
        """Return the colour (r, g, b, alpha) with which the map paints a pixel."""
        rows, columns = SHAPE
        return list(
            self.ask(
                f"""(canvas => {{
                const scale = Math.min(canvas.width / {columns}, canvas.height / {rows});
                const left = (canvas.width - scale * {columns}) / 2, top = (canvas.height - scale * {rows}) / 2;
                const pen = canvas.getContext('2d');
                return Array.from(pen.getImageData(left + ({x} + 0.5) * scale, top + ({y} + 0.5) * scale, 1, 1).data);
                }})(document.querySelector('#map'))"""
            )
        )

    def click(self, selector: str, right: float, down: float) -> None:
        """Click an element at shares of its width and height."""
        box = self.ask(f"(b => [b.left, b.top, b.width, b.height])({_find(selector)}.getBoundingClientRect())")
        at = {"x": box[0] + right * box[2], "y": box[1] + down * box[3], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at)


def _find(selector: str) -> str:
    return f"document.querySelector('{selector}')"


@pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
def test_in_a_browser(server: EmbeddedServer, target: TiledTarget, tmp_path: Path) -> None:
    sample = Sample(target, "b0b0", tmp_path / "spool")
    last = len(ENERGIES)
    with ViewServer(target) as view, chromium(tmp_path / "chromium") as browser:
        browser.call("Page.navigate", url=view.page("b0b0"))
        until(lambda: browser.text("#state") == "live")
        sample.visit(1)
        sample.visit(2)
        until(lambda: browser.ask("document.documentElement.dataset.painted") == "2")
        assert browser.text("#count") == "2"
        assert browser.text("#map-note") == "waiting for the edge…"
        assert browser.colour(12, 20)[3] == 0

        for count in range(3, last):
            sample.visit(count)
        until(lambda: bool(browser.ask("document.querySelector('#map-note').hidden")))
        until(lambda: browser.ask("document.documentElement.dataset.painted") == str(last - 1))
        assert browser.colour(12, 8) == [0x7B, 0xB1, 0xF5, 255]
        assert browser.colour(12, 24) == [0xEF, 0x97, 0x10, 255]
        assert browser.colour(1, 24)[3] == 0, "NaN pixels stay uncoloured"

        browser.ask(f"(s => {{ s.value = 1; s.dispatchEvent(new Event('input')); }})({_find('#energy')})")
        until(lambda: browser.text("#energy-label") == "8310.00 eV (2 of 7)")
        assert browser.ask(f"{_find('#follow')}.getAttribute('aria-pressed')") == "false"
        sample.visit(last)
        until(lambda: browser.text("#count") == str(last))
        until(lambda: browser.text("#energy-label") == "8310.00 eV (2 of 8)")

        browser.click("#map", 20.5 / 32, 16.5 / 32)
        until(lambda: "Ni 1.00 ± 0.03" in browser.text("#pixel-state"))
        assert browser.text("#pixel") == "pixel x 20, y 12"
        check_pixel(browser, sample, 12, 20)
        sample.finish()
        until(lambda: browser.text("#state") == "final")
        until(lambda: "1 warning" in browser.text("#warnings"))
        assert browser.text("#count") == str(last)
        check_pixel(browser, sample, 12, 20)
        key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
        browser.call("Input.dispatchKeyEvent", type="keyDown", **key)
        until(lambda: browser.text("#energy-label") == "8320.00 eV (3 of 8)")
        assert browser.ask("document.documentElement.scrollWidth") <= 1280
        assert "visit=3" in browser.ask("location.hash")
        assert server.api_key not in browser.ask("document.documentElement.outerHTML + location.href")
        assert browser.errors == []
        assert all(address.startswith((view.url, "data:")) for address in browser.requested), browser.requested
        assert not any(server.api_key in address for address in browser.requested)


def check_pixel(browser: Browser, sample: Sample, y: int, x: int) -> None:
    """What the page computes for a pixel equals the published arrays."""
    got = browser.ask(
        f"""(async () => {{ const {{ Results }} = await import('./static/results.js');
        const {{ getRun, getRows }} = await import('./static/api.js');
        const results = new Results('b0b0'); results.update(await getRun('b0b0'), (await getRows('b0b0')).rows);
        const pixel = await results.pixel({x}, {y});
        return {{ noisy: Array.from(pixel.noisy), denoised: Array.from(pixel.denoised) }}; }})()"""
    )
    np.testing.assert_array_equal(np.float32(got["noisy"]), sample.noisy[:, y, x])
    np.testing.assert_allclose(got["denoised"], sample.denoised[:, y, x], rtol=1e-6)
