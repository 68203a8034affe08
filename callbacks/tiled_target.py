"""Where results go: a Tiled container that can be named, sent to another process and opened there."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from txm_stream.errors import TxmStreamError, UnreachableError

logger = logging.getLogger("txm_stream")

_Path = tuple[str, ...]


class InProcessClientError(TxmStreamError, TypeError):
    """A Tiled client cannot be rebuilt in another process."""


class Target(Protocol):
    """Anything that can be opened as a Tiled container; its ``access_tags``, if any, go to the nodes made in it."""

    def connect(self) -> Any:
        """Return the container."""

    def release(self, container: Any) -> None:
        """Take a container back that is no longer used."""


@dataclass(frozen=True)
class TiledTarget:
    """A container on a Tiled server, by address, key and path; small, picklable, its key is not shown.

    A key in the address (``?api_key=…``) is moved to ``api_key``. Without a key, ``TILED_API_KEY`` is used, then the
    login that ``tiled login`` left on this machine. ``access_tags`` are given to every node that is made.
    """

    uri: str
    api_key: str | None = field(default=None, repr=False)
    path: _Path = ()
    verify: bool = True
    access_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        split = urlsplit(self.uri)
        query = dict(parse_qsl(split.query))
        key = query.pop("api_key", None)
        object.__setattr__(self, "uri", urlunsplit(split._replace(query=urlencode(query))))
        if self.api_key is None and key is not None:
            object.__setattr__(self, "api_key", key)

    @classmethod
    def from_client(cls, client: Any) -> TiledTarget:
        """Name the container of an open client.

        Raises
        ------
        InProcessClientError
            The client's server runs inside this process, or its login is not kept on disk.
        """
        context = client.context
        if getattr(context.http_client, "app", None) is not None:
            raise InProcessClientError(
                "this Tiled client talks to a server inside this process, which another process cannot reach; "
                'use worker="thread", or a server with an address'
            )
        login = getattr(context.http_client, "auth", None)
        if context.api_key is None and login is not None and getattr(login, "token_directory", None) is None:
            raise InProcessClientError(
                "this Tiled client is logged in without an API key, and its login is not kept on disk, where another "
                'process finds it; open it with an API key (see "tiled api_key create"), log in with remember_me, '
                'or use worker="thread"'
            )
        path = tuple(filter(None, client.path_parts))
        return cls(str(context.api_uri), context.api_key, path, getattr(context, "_verify", True))

    @property
    def name(self) -> str:
        """Address and path, without the key."""
        return "/".join((self.uri.rstrip("/"), *self.path))

    def connect(self) -> Any:
        """Open the container.

        In a process that has not loaded Tiled yet, Tiled's own retries are kept short (unless ``TILED_RETRY_ATTEMPTS``
        or ``TILED_RETRY_TIMEOUT`` are set): the publisher has its own, longer ones.

        Raises
        ------
        UnreachableError
            The server wants a login, and there is neither a key nor a login kept on this machine.
        """
        keep_retries_short()
        from tiled.client.constructors import from_context
        from tiled.client.context import Context

        context, parts = Context.from_any_uri(self.uri, api_key=self.api_key, verify=self.verify)
        facts = context.server_info.authentication
        if not context.authenticated and facts.required and not (facts.providers and context.use_cached_tokens()):
            context.http_client.close()
            raise UnreachableError(
                f"{self.uri} wants a login: set TILED_API_KEY, or api_key in section [tiled] of the profile, "
                f'or log in with "tiled login"'
            )
        return from_context(context, node_path_parts=[*parts, *self.path], remember_me=False)

    def release(self, container: Any) -> None:
        """Close the connections of a container that :meth:`connect` opened."""
        container.context.http_client.close()


def keep_retries_short() -> None:
    """Have Tiled's own retries end soon in a process that has not loaded its client: the publisher's last longer."""
    if "tiled.client.utils" not in sys.modules:
        os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
        os.environ.setdefault("TILED_RETRY_TIMEOUT", "5")


@dataclass(frozen=True)
class LocalTarget:
    """An open Tiled client as it is: for ``worker="thread"`` and for servers inside this process."""

    client: Any = field(repr=False)
    access_tags: tuple[str, ...] = ()

    def connect(self) -> Any:
        """Return the client."""
        return self.client

    def release(self, container: Any) -> None:
        """Leave the client open: its owner closes it."""
