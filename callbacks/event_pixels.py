"""Which pixels belong to an event: inline, journaled, Resource/Datum or StreamResource/StreamDatum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from txm_stream.callbacks.journal import ArrayRef, LostArray, load
from txm_stream.callbacks.pixels import AssetRef, PixelReader, locate_datum, locate_stream
from txm_stream.errors import BadFrameError

_MOST_ROWS = 1_000_000
"""Rows of a file that one document may announce."""

Document = Mapping[str, Any]


class EventPixels:
    """Joins events and pixels, whichever comes first.

    Parameters
    ----------
    reader
        Reads external pixels.

    Notes
    -----
    ``key`` is everywhere the data key of the event's image. Memory: some hundred bytes per event.
    """

    def __init__(self, reader: PixelReader) -> None:
        self.reader = reader
        self._resources: dict[str, Document] = {}
        self._datums: dict[str, Document] = {}
        self._rows: dict[tuple[str, int], tuple[str, int]] = {}

    def add_resource(self, document: Document) -> None:
        """Take a Resource or StreamResource."""
        self._resources[document["uid"]] = document

    def add_datum(self, document: Document) -> None:
        """Take a Datum."""
        self._datums[document["datum_id"]] = document

    def add_rows(self, document: Document, key: str | None) -> None:
        """Take a StreamDatum, if its resource holds the image.

        Raises
        ------
        ValueError
            It announces more rows than there can be.
        """
        resource = self._resources.get(document["stream_resource"])
        if resource is None or resource.get("data_key") != key:
            return
        indices, seq_nums = document["indices"], document["seq_nums"]
        count = indices["stop"] - indices["start"]
        if count > _MOST_ROWS:
            raise ValueError(f"{count} rows at once, at most {_MOST_ROWS} are possible")
        for step in range(count):
            row = (document["stream_resource"], indices["start"] + step)
            self._rows.setdefault((document["descriptor"], seq_nums["start"] + step), row)

    def without_event(self, events: set[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return (descriptor, seq_num) of announced rows that no event of these came for."""
        return sorted(self._rows.keys() - events)

    def known(self, event: Document, key: str | None) -> bool:
        """Whether it is known where an event's pixels are."""
        value = event["data"].get(key)
        if value is None:
            return (event["descriptor"], int(event["seq_num"])) in self._rows
        if isinstance(value, str):
            return value in self._datums and self._datums[value]["resource"] in self._resources
        return True

    def read(
        self,
        event: Document,
        descriptor: Document,
        key: str | None,
        *,
        name: str,
        patience_s: float,
        only: tuple[int, ...] = (),
    ) -> NDArray[Any]:
        """Return the pixels of an event as (repeats, y, x); with ``only`` the repeats of these numbers, ascending.

        Raises
        ------
        FrameUnreadableError
            A file is not readable within ``patience_s``.
        BadFrameError
            The pixels were lost on the way, or are no images.
        """
        facts = descriptor["data_keys"].get(key, {})
        shape = tuple(facts.get("shape") or ())
        asset = self._asset(event, event["data"].get(key), shape)
        if asset is not None:
            pixels = self.reader.read(replace(asset, only=only), name=name, patience_s=patience_s)
        else:
            pixels = _inline(event["data"][key], facts.get("dtype_numpy"))
        if pixels.ndim < 2 and len(shape) >= 2 and pixels.size == np.prod(shape):
            pixels = pixels.reshape(shape)
        if pixels.ndim < 2:
            raise BadFrameError(f"the image has shape {pixels.shape}, expected (y, x) or (repeats, y, x)")
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        return pixels[list(only)] if only and asset is None else pixels

    def _asset(self, event: Document, value: Any, shape: tuple[int, ...]) -> AssetRef | None:
        """Return where the pixels are, unless the event has them itself."""
        if value is None:
            uid, index = self._rows[event["descriptor"], int(event["seq_num"])]
            return locate_stream(self._resources[uid], index, shape)
        if isinstance(value, str):
            datum = self._datums[value]
            resource = self._resources[datum["resource"]]
            return locate_datum(resource, datum.get("datum_kwargs", {}), default_index=int(event["seq_num"]) - 1)
        return None


def _inline(value: Any, dtype: Any) -> NDArray[Any]:
    if isinstance(value, LostArray):
        raise BadFrameError(value.reason)
    if isinstance(value, ArrayRef):
        return load(value)
    return value if isinstance(value, np.ndarray) else np.asarray(value, dtype=dtype)
