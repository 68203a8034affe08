"""The live page: read-only, keyless, and what it serves is what is in Tiled."""

from __future__ import annotations

import http.client
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from published_run import ENERGIES, Sample

from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.errors import UnreachableError
from txm_stream.view.app import STATIC
from txm_stream.view.region import Box
from txm_stream.view.results_reader import split_uri
from txm_stream.view.server import ViewServer, ViewTokenError, serve_view


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


def test_means_over_a_region(view: ViewServer, sample: Sample) -> None:
    answer = get(view, "api/region/final/3f1c?names=noisy,phase_map,scale&box=2,9,10,20&from=3").json()
    assert (answer["pixels"], answer["total"]) == (70, 70)
    box = (slice(None), slice(2, 9), slice(10, 20))
    noisy, amounts = answer["arrays"]["noisy"], answer["arrays"]["amounts"]
    np.testing.assert_allclose(noisy["mean"], sample.noisy[box][3:].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(noisy["spread"], sample.noisy[box][3:].std(axis=(1, 2)), rtol=1e-5)
    assert amounts["count"] == [50, 50]  # the two upper rows have no map
    np.testing.assert_allclose(amounts["mean"], np.nanmean((sample.phase_map * sample.scale)[box], axis=(1, 2)))
    nothing = get(view, "api/region/final/3f1c?names=phase_map&box=0,2,0,2").json()["arrays"]["phase_map"]
    assert nothing == {"mean": [None, None], "spread": [None, None], "count": [0, 0]}
    for box, status in {"0,2,0,33": 404, "0,2,5,5": 400, "0,2,0": 400, "0,2,0,-1": 400}.items():
        refused = get(view, f"api/region/final/3f1c?names=noisy&box={box}")
        assert (refused.status_code, set(refused.json())) == (status, {"error"})
    assert Box(0, 1000, 0, 1000).stride == 4
    assert Box(0, 1000, 0, 1000).slices == "0:1000:4,0:1000:4"


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
        "api/region/live/../secret?names=noisy&box=0,1,0,1", "api/region/live/3f1c?names=..%2fsecret&box=0,1,0,1",
        "api/region/secret/3f1c?names=noisy&box=0,1,0,1", "api/secret/3f1c", "api/export/none/3f1c",
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
        for path in (
            "api/runs", "api/run/3f1c", "api/metrics/3f1c", "api/advice/3f1c", "api/image/live/noisy/3f1c",
            "api/region/live/3f1c?names=noisy&box=0,2,0,2",
        ):  # fmt: skip
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


def test_news_of_a_live_run_come_when_its_table_is_written(server: EmbeddedServer, tmp_path: Path) -> None:
    target = TiledTarget(server.uri, server.api_key)
    sample = Sample(target, "news0001", tmp_path / "spool")
    sample.visit(1)
    with ViewServer(target) as view, ThreadPoolExecutor(1) as pool:
        known = {"runs": -1}

        def news(seen: int, run: str = "/news0001") -> tuple[int, bool, float]:
            began = time.monotonic()
            query = f"seen={seen}&runs={known['runs']}"
            answer = httpx.get(f"{view.url}api/news{run}?{query}", timeout=10).json()
            known["runs"] = answer["runs"]
            return answer["seen"], answer["works"], time.monotonic() - began

        seen, works, _ = news(-1)
        end = time.monotonic() + 10
        while not works and time.monotonic() < end:
            time.sleep(0.1)
            seen, works, _ = news(seen)
        assert works
        same, works, took = news(seen)
        assert (same, works) == (seen, True)
        assert took > 1.0  # nothing happened
        later = pool.submit(news, seen)
        time.sleep(0.3)
        sample.visit(2)
        count, works, took = later.result()
        assert works
        assert count > seen
        assert took < 1.9
        assert news(-1, "/nosuchrun")[1] is False
        before, later = known["runs"], pool.submit(news, -1, "")
        time.sleep(0.3)
        other = Sample(target, "news0002", tmp_path / "other")
        _, works, took = later.result()
        assert works
        assert known["runs"] > before
        assert took < 1.9
        other.publisher.close()
    sample.publisher.close()
