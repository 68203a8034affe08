"""Starts the live page: in a thread for scripts and tests, or until Ctrl-C for the command line."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from urllib.parse import quote, urlencode

import uvicorn

from txm_stream.callbacks.sources import open_source
from txm_stream.callbacks.stored_results import find_results
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.errors import NoSuchRunError, TxmStreamError, UnreachableError
from txm_stream.view.app import LOOPBACK, Exporter, build_app
from txm_stream.view.results_reader import ResultsReader

logger = logging.getLogger("txm_stream")

RESULTS_PATH = ("processed", "txm_stream")
_START_S = 20.0


class ViewTokenError(TxmStreamError, ValueError):
    """A page that others can reach needs a view token."""


class ViewServer:
    """Serves the live page from a thread; a context manager.

    Parameters
    ----------
    target
        Tiled container at which ``results_path`` begins. Its key stays in this process.
    results_path
        Path of the results below the target; nothing else is readable through the page.
    host, port
        Address to listen on; port 0 takes a free one.
    view_token
        What a reader must know; required where ``host`` is not a loopback address.
    exporters
        What the page's menu offers besides pictures, by name: see :class:`~txm_stream.view.app.Exported`.

    Raises
    ------
    ViewTokenError
        ``host`` can be reached from other machines and there is no token.
    UnreachableError
        The address cannot be listened on.

    Examples
    --------
    >>> with ViewServer(TiledTarget("http://127.0.0.1:8000")) as view:  # doctest: +SKIP
    ...     print(view.url)
    """

    def __init__(
        self,
        target: TiledTarget,
        *,
        results_path: tuple[str, ...] = RESULTS_PATH,
        host: str = "127.0.0.1",
        port: int = 0,
        view_token: str | None = None,
        exporters: Mapping[str, Exporter] = MappingProxyType({}),
    ) -> None:
        if host not in LOOPBACK and not view_token:
            raise ViewTokenError(
                f"{host} can be reached from other machines; give a view token, or listen on 127.0.0.1"
            )
        self.host = host
        self._token = view_token or None
        app = build_app(ResultsReader(target, tuple(results_path)), view_token=self._token, exporters=exporters)
        self._socket = _listen(host, port)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        sockets = [self._socket]
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), name="txm-view", daemon=True)
        self._thread.start()
        self._wait_until_started()

    def __repr__(self) -> str:
        return f"ViewServer({self.url!r})"

    def __enter__(self) -> ViewServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the page, without the token."""
        name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname(), "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{name}:{self.port}/"

    def page(self, run: str = "latest") -> str:
        """Return the address that opens a run; the token, if any, is in the part that browsers never send."""
        parts = {"run": run} | ({"token": self._token} if self._token else {})
        return f"{self.url}#{urlencode(parts, quote_via=quote)}"

    def stop(self) -> None:
        """End the page's server."""
        self._server.should_exit = True
        self._thread.join(10.0)
        self._socket.close()

    def _wait_until_started(self) -> None:
        waiter = threading.Event()
        for _ in range(int(_START_S / 0.02)):
            if self._server.started:
                return
            if not self._thread.is_alive():
                break
            waiter.wait(0.02)
        self.stop()
        raise UnreachableError(f"the live page did not start on {self.host}:{self.port}")


def serve_view(
    where: str | Path,
    *,
    run: str = "latest",
    host: str = "127.0.0.1",
    port: int = 0,
    view_token: str | None = None,
    results_path: tuple[str, ...] = RESULTS_PATH,
    exporters: Callable[[TiledTarget, tuple[str, ...]], Mapping[str, Exporter]] = lambda target, path: {},
    open_browser: bool = True,
    show: Callable[[str], None] = print,
    until: threading.Event | None = None,
) -> None:
    """Show the live page of a Tiled server, or of an embedded server's folder, until Ctrl-C.

    Parameters
    ----------
    where
        Address of a Tiled server, or the folder of an embedded one.
    run
        Run to open: "latest" (and newer ones as they come), a uid or the beginning of one, or a scan id.
    view_token
        Default: a random one where ``host`` is not a loopback address.
    exporters
        Returns what the page's menu offers, for the server and the path of the results.
    open_browser
        Open the page in the default browser.
    show
        Called with the lines for the user, the first with the page's address.
    until
        Return when it is set.

    Raises
    ------
    UnreachableError
        The Tiled server does not answer, or the page's address is taken.
    """
    if view_token is None and host not in LOOPBACK:
        view_token = secrets.token_urlsafe(24)
    stop = until or threading.Event()
    with open_source(where) as client:
        target = TiledTarget.from_client(client)
        if target.api_key is None and client.context.authenticated:
            raise UnreachableError("the live page needs an API key: set TILED_API_KEY (see tiled api_key create)")
        offers = exporters(target, results_path)
        with ViewServer(
            target, results_path=results_path, host=host, port=port, view_token=view_token, exporters=offers
        ) as view:
            address = view.page(run)
            show(address)
            show("Ctrl-C ends the page")
            if run != "latest":
                try:
                    find_results(client, run, results_path=results_path)
                except NoSuchRunError as error:
                    show(f"{error}; the page waits for it")
            if open_browser and not webbrowser.open(address):
                logger.info("no browser could be opened; open %s", view.url)
            try:
                while not stop.wait(1.0):
                    pass
            except KeyboardInterrupt:
                show("the live page has ended; the results stay")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UnreachableError(f"the live page cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
