"""The page's routes: its own files, and JSON and images of the results. GET only."""

from __future__ import annotations

import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from txm_stream.errors import TxmStreamError
from txm_stream.view.region import Box, means_over, parse_box
from txm_stream.view.results_reader import ResultsReader, TiledProblemError, run_path

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_NEWS_S = 2.0
"""News are waited for no longer than this in one request; the page asks again."""
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Exported:
    """A file that an exporter made; ``file_name`` is plain ASCII without quotes."""

    file_name: str
    content: bytes
    media_type: str = "application/octet-stream"


Exporter = Callable[[str, Box | None], Exported]
"""Makes a file of a run: called, in a thread, with the run's path below the results path and the region chosen."""


def build_app(
    reader: ResultsReader, *, view_token: str | None = None, exporters: Mapping[str, Exporter] = MappingProxyType({})
) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    reader
        Where the results come from; closed with the application.
    view_token
        Asked for by everything but the page's own files, as ``Authorization: Bearer …``.
    exporters
        What the page's menu offers besides pictures, by name.

    Notes
    -----
    Without a token only requests to a loopback name are answered: a foreign web page that makes its own name
    point to this machine gets nothing.
    """

    async def runs(request: Request) -> Response:
        return JSONResponse({"runs": await reader.runs()})

    async def run(request: Request) -> Response:
        return JSONResponse(await reader.run(request.path_params["run"]) | {"exports": list(exporters)})

    async def table(request: Request) -> Response:
        where = request.path_params
        rows, etag = await reader.rows(where["run"], where["table"], request.headers.get("if-none-match"))
        headers = {"X-Time": f"{time.time():.3f}"} | ({"ETag": etag} if etag else {})
        return (
            Response(status_code=304, headers=headers) if rows is None else JSONResponse({"rows": rows}, 200, headers)
        )

    async def image(request: Request) -> Response:
        where = request.path_params
        slices = request.query_params.get("slice", "")
        tag = request.headers.get("if-none-match")
        answer = await reader.image(where["run"], where["part"], where["name"], slices, tag)
        headers = {"ETag": answer.etag} if answer.etag else {}
        if answer.content is None:
            return Response(status_code=304, headers=headers)
        return Response(answer.content, 200, headers, answer.media_type)

    async def region(request: Request) -> Response:
        where, query = request.path_params, request.query_params
        names = tuple(query.get("names", "").split(","))
        box, since = parse_box(query.get("box", ""), query.get("from", "0"))
        return JSONResponse(await means_over(reader, where["run"], where["part"], names, box, since))

    async def news(request: Request) -> Response:
        known = [request.query_params.get(name, "") for name in ("seen", "runs")]
        seen, runs = (int(text) if text.isdecimal() else -1 for text in known)
        seen, runs, works = await reader.news(request.path_params.get("run", ""), seen, runs, _NEWS_S)
        return JSONResponse({"seen": seen, "runs": runs, "works": works})

    async def export(request: Request) -> Response:
        where = request.path_params
        run_path(where["run"])
        if where["format"] not in exporters:
            return _error(404, "there is no such export")
        try:
            chosen = request.query_params.get("box")
            box = None if chosen is None else parse_box(chosen)[0]
            made = await run_in_threadpool(exporters[where["format"]], where["run"], box)
        except TxmStreamError as error:
            return _error(409, str(error))
        headers = {"Content-Disposition": f'attachment; filename="{made.file_name}"'}
        return Response(made.content, 200, headers, made.media_type)

    async def page(request: Request) -> Response:
        return _file("index.html")

    async def file(request: Request) -> Response:
        return _file(request.path_params["name"])

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await reader.close()

    def guarded(handler: _Handler) -> _Handler:
        async def answer(request: Request) -> Response:
            problem = _refusal(request, view_token)
            return problem if problem is not None else await handler(request)

        return answer

    routes = [
        Route("/", page),
        Route("/static/{name}", file),
        Route("/api/runs", guarded(runs)),
        Route("/api/run/{run:path}", guarded(run)),
        Route("/api/news", guarded(news)),
        Route("/api/news/{run:path}", guarded(news)),
        Route("/api/image/{part}/{name}/{run:path}", guarded(image)),
        Route("/api/region/{part}/{run:path}", guarded(region)),
        Route("/api/export/{format}/{run:path}", guarded(export)),
        Route("/api/{table}/{run:path}", guarded(table)),  # metrics, advice
    ]
    return _ReadOnly(Starlette(routes=routes, lifespan=lifespan, exception_handlers={TiledProblemError: _problem}))


class _ReadOnly:
    """Answers GET only, and adds the headers that every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        if scope["method"] != "GET":
            refused = _error(405, "this page only reads; use GET")
            refused.headers["Allow"] = "GET"
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _file(name: str) -> Response:
    path = STATIC / name
    if path.parent != STATIC or path.suffix not in _TYPES or not path.is_file():
        return _error(404, "there is no such file")
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix])


def _refusal(request: Request, view_token: str | None) -> Response | None:
    if view_token is None:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if host in LOOPBACK:
            return None
        return _error(403, "without a view token this page answers on the loopback address only; start it with a token")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), view_token.encode()):
        return None
    return _error(401, "this page needs the view token that was shown when it was started")


async def _problem(request: Request, error: Exception) -> Response:
    if isinstance(error, TiledProblemError):
        return _error(error.status, error.message)
    raise error


def _error(status: int, message: str) -> Response:
    return Response(json.dumps({"error": message}), status, media_type="application/json")
