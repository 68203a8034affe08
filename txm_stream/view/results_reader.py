"""Reads one results path of a Tiled server, and nothing else; the only place that holds the API key."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.view.news import News

_NAME = re.compile(r"(?!\.+$)[\w.-]{1,200}", re.ASCII)
_SLICE = re.compile(r"[\d:,]{0,100}")
_PARTS = ("live", "final")
_TABLES = ("metrics", "advice")
_AGAIN_S = (0.05, 0.1, 0.2)
_TIMEOUT_S = httpx.Timeout(20.0, connect=3.0)
_LIMIT = 50


class TiledProblemError(Exception):
    """Tiled gave no usable answer: the HTTP status and the message that the page gets instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Answer:
    """Bytes from Tiled with their type and entity tag; ``content`` is None where the reader has them already."""

    content: bytes | None
    media_type: str
    etag: str | None


class ResultsReader:
    """Reads runs, metrics and images below a results path.

    Parameters
    ----------
    target
        Container at which ``results_path`` begins. Without a key in it, ``TILED_API_KEY`` is used.
    results_path
        Path of the results below the target.

    Notes
    -----
    The key travels in a header only, and redirects are not followed, so it reaches no other host. Every name is
    checked before an address is made of it: nothing above or beside the results path can be asked for.
    """

    def __init__(self, target: TiledTarget, results_path: tuple[str, ...]) -> None:
        api, above = split_uri(target.uri)
        self.where = f"{urlsplit(api).scheme}://{urlsplit(api).netloc}"
        self._path = (*above, *target.path, *results_path)
        key = target.api_key or os.environ.get("TILED_API_KEY")
        headers = {"Authorization": f"Apikey {key}"} if key else {}
        self._news = News(api, headers)
        self._arrays: dict[tuple[str, str], tuple[float, dict[str, dict[str, Any]]]] = {}
        self._http = httpx.AsyncClient(
            base_url=api,
            headers=headers,
            verify=target.verify,
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=urlsplit(api).hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._news.close()
        await self._http.aclose()

    async def runs(self) -> list[dict[str, Any]]:
        """Return the latest runs, newest first: ``id`` (path below the results path), metadata, time of creation."""
        found: list[dict[str, Any]] = []
        try:
            entries = await self._children((), {"sort": "-", "page[limit]": str(_LIMIT)})
        except TiledProblemError as problem:
            if problem.status == 404:  # nothing was ever published here
                return found
            raise
        for entry in entries:
            if _is_results(entry):
                found.append(_run(entry["id"], entry))
            else:  # a run with several positions holds one tree for each
                below = await self._children((entry["id"],), {"page[limit]": str(_LIMIT)})
                found += [_run(f"{entry['id']}/{child['id']}", child) for child in below if _is_results(child)]
        return found

    async def run(self, run: str) -> dict[str, Any]:
        """Return metadata and arrays of a run: ``{"live": {name: {"shape", "dtype"}}, "final": …}`` and attributes."""
        path = run_path(run)
        attributes = (await self._json("metadata", path, {}))["data"]["attributes"]
        about: dict[str, Any] = {"id": run, "metadata": attributes["metadata"], "live": {}, "final": {}, "attrs": {}}
        for entry in await self._children(path, {}):
            if entry["id"] in _PARTS:
                about[entry["id"]] = await self.arrays(run, entry["id"])
                if entry["id"] == "final":
                    about["attrs"] = entry["attributes"]["metadata"].get("attrs", {})
        return about

    async def arrays(self, run: str, part: str, *, max_age_s: float = 0.0) -> dict[str, dict[str, Any]]:
        """Return shape and type of all arrays of "live" or "final", by name; what is known may be so old."""
        if part not in _PARTS:
            raise TiledProblemError(404, "there are no such results")
        known_at, known = self._arrays.get((run, part), (-math.inf, {}))
        if time.monotonic() - known_at < max_age_s:
            return known
        asked_at = time.monotonic()
        listed = await self._children((*run_path(run), part), {"page[limit]": str(_LIMIT)})
        found = {child["id"]: _array(child) for child in listed if _array(child)}
        if len(self._arrays) > _LIMIT:
            self._arrays.clear()
        self._arrays[run, part] = (asked_at, found)
        return found

    async def rows(self, run: str, table: str, etag: str | None) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Return the rows of a live table and their entity tag; ``None`` where the tag is still the same."""
        if table not in _TABLES:
            raise TiledProblemError(404, "there is no such table")
        path = (*run_path(run), "live", table)
        try:
            answer = await self._get("table/full", path, {"format": "application/json"}, etag)
        except TiledProblemError as problem:
            if problem.status == 404:
                return [], None
            raise
        if answer.status_code == 304:
            return None, etag
        columns: dict[str, list[Any]] = answer.json()
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return rows, answer.headers.get("etag")

    async def news(self, run: str, seen: int, runs: int, timeout_s: float) -> tuple[int, int, bool]:
        """Wait until the table of metrics of a live run was written to, or a run has come; see :meth:`.News.wait`.

        Parameters
        ----------
        run
            ``""``: there is none, only another run can come.
        seen, runs
            Number of messages that are known, of the run and of the list of runs.

        Returns
        -------
        The present numbers, and whether the run's stream works (without a run that of the list).
        """
        known = {self._quoted(*run_path(run), "live", "metrics"): seen} if run else {}
        counts, works = await self._news.wait(known | {self._quoted(): runs}, timeout_s)
        return counts[0] if run else -1, counts[-1], works

    def _quoted(self, *path: str) -> str:
        return "/".join(quote(part, safe="") for part in (*self._path, *path))

    async def image(self, run: str, part: str, name: str, slices: str, etag: str | None) -> Answer:
        """Return an array, or a slice of it, as little-endian bytes."""
        if part not in _PARTS or not _NAME.fullmatch(name) or not _SLICE.fullmatch(slices):
            raise TiledProblemError(404, "there is no such image")
        params = {"format": "application/octet-stream"} | ({"slice": slices} if slices else {})
        answer = await self._get("array/full", (*run_path(run), part, name), params, etag)
        if answer.status_code == 304:
            return Answer(None, "application/octet-stream", etag)
        return Answer(answer.content, "application/octet-stream", answer.headers.get("etag"))

    async def _children(self, path: tuple[str, ...], params: Mapping[str, str]) -> list[dict[str, Any]]:
        return list((await self._json("search", path, params))["data"])

    async def _json(self, kind: str, path: tuple[str, ...], params: Mapping[str, str]) -> Any:
        return (await self._get(kind, path, params, None)).json()

    async def _get(
        self, kind: str, path: tuple[str, ...], params: Mapping[str, str], etag: str | None
    ) -> httpx.Response:
        address = f"{kind}/{self._quoted(*path)}"
        answer = await self._answer(address, params, etag)
        for pause_s in _AGAIN_S:  # a table that is being replaced cannot be read for a moment
            if answer.status_code < 500:
                break
            await asyncio.sleep(pause_s)
            answer = await self._answer(address, params, etag)
        if answer.status_code in (200, 304):
            return answer
        if answer.status_code in (401, 403):
            raise TiledProblemError(
                502, f"the Tiled server at {self.where} refuses the API key; set TILED_API_KEY and start the view again"
            )
        if answer.status_code == 404:
            raise TiledProblemError(404, f"there is nothing at {'/'.join((*self._path, *path))}")
        raise TiledProblemError(502, f"the Tiled server at {self.where} answered {answer.status_code}")

    async def _answer(self, address: str, params: Mapping[str, str], etag: str | None) -> httpx.Response:
        try:
            return await self._http.get(address, params=params, headers={"If-None-Match": etag} if etag else {})
        except httpx.HTTPError as error:
            reason = "answers too slowly" if isinstance(error, httpx.TimeoutException) else "does not answer"
            raise TiledProblemError(502, f"the Tiled server at {self.where} {reason}") from error


def split_uri(uri: str) -> tuple[str, tuple[str, ...]]:
    """Return the address of Tiled's API, and the path of the node that an address names, as Tiled's client does."""
    split = urlsplit(uri)
    path, _, node = split.path.partition("/metadata")
    path = path.rstrip("/")
    if "/api" not in path:
        path += "/api/v1"
    elif "/v1" not in path:
        path += "/v1"
    return split._replace(path=path + "/", query="", fragment="").geturl(), tuple(filter(None, node.split("/")))


def run_path(run: str) -> tuple[str, ...]:
    """Return the path of a run below the results path.

    Raises
    ------
    TiledProblemError
        It is not ``<uid>`` or ``<uid>/position_<n>``.
    """
    parts = tuple(run.split("/"))
    good = len(parts) == 1 or (len(parts) == 2 and parts[1].startswith("position_"))
    if not good or not all(_NAME.fullmatch(part) for part in parts):
        raise TiledProblemError(404, "there is no such run")
    return parts


def _is_results(entry: dict[str, Any]) -> bool:
    return any(spec["name"] == "TXMStream" for spec in entry["attributes"]["specs"])


def _run(run: str, entry: dict[str, Any]) -> dict[str, Any]:
    metadata = entry["attributes"]["metadata"]
    return {"id": run} | {name: metadata.get(name) for name in ("scan_id", "sample", "status")}


def _array(entry: dict[str, Any]) -> dict[str, Any]:
    structure = entry["attributes"]["structure"]
    kind = (structure or {}).get("data_type") or {}
    if not kind.get("kind"):
        return {}
    order = {"little": "<", "big": ">"}.get(kind["endianness"], "|")
    return {"shape": structure["shape"], "dtype": f"{order}{kind['kind']}{kind['itemsize']}"}
