"""Documents → frames: whatever the legal form and order of a run's documents, the same frames come out.

Inline arrays, Resource/Datum, StreamResource/StreamDatum, packed pages, several descriptors and resources
per stream, doubled documents. Events and pixels are joined lazily: an event waits in line until its pixels
are known, and pixels are read when the frame is asked for, so that memory holds one frame.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from event_model import unpack_datum_page, unpack_event_page
from numpy.typing import NDArray

from txm_stream.callbacks.event_pixels import EventPixels
from txm_stream.callbacks.facts import EnergyReader, group_key, read_scan
from txm_stream.callbacks.frame_streams import FrameStreams
from txm_stream.callbacks.lost import LossLog, LostFrame
from txm_stream.callbacks.pixels import FrameUnreadableError, PixelReader
from txm_stream.errors import BadFrameError
from txm_stream.frames import Frame, Role, Scan
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

_PATIENT_EVENTS = 16
"""Events behind one without pixels before it is passed over (it still enters when its pixels come)."""


@dataclass(eq=False)
class _Pending:
    role: Role
    stream: str
    event: Mapping[str, Any]
    retry_at: float = 0.0

    @property
    def seq(self) -> int:
        return int(self.event["seq_num"])

    @property
    def name(self) -> str:
        return f"{self.stream} frame {self.seq}"


class FrameAssembler:
    """Turn the documents of one run into frames, in the order of their events.

    Parameters
    ----------
    profile
        Says which streams and keys hold frames, energies and exposures.
    reader
        Reads external pixels.
    last_patience_s
        How long pixels are waited for after the stop document.

    Notes
    -----
    ``scan`` and ``stop`` are set when those documents arrive; ``lost`` lists frames that cannot come any more.
    Nothing raises: a malformed event is a lost frame, any other malformed document one warning. Memory: one frame,
    plus a few hundred bytes per event.
    """

    def __init__(self, profile: Profile, *, reader: PixelReader | None = None, last_patience_s: float = 30.0) -> None:
        self.profile = profile
        self.reader = reader or PixelReader()
        self.last_patience_s = last_patience_s
        self.scan: Scan | None = None
        self.stop: dict[str, Any] | None = None
        self.seen = 0
        self._streams = FrameStreams(profile.documents)
        self._losses = LossLog(self._streams)
        self.lost = self._losses.frames
        self._pixels = EventPixels(self.reader)
        self._uids: set[str] = set()
        self._joined: set[tuple[str, int]] = set()
        self._patience_s = self.reader.patience_s
        self._deadline = 0.0
        self._line: deque[_Pending] = deque()
        self._late: deque[_Pending] = deque()
        self._energies = EnergyReader(profile.documents)

    def __call__(self, name: str, document: Mapping[str, Any]) -> Iterator[Frame]:
        """Take a document; iterate over the frames that are complete now (those not iterated over stay)."""
        try:
            handler: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"_on_{name}", None)
            if handler is not None:
                handler(document)
        except Exception as error:
            self._ignore(name, document, error)
        return self.frames()

    @property
    def runs(self) -> list[str]:
        """Uids of the runs that the scan consists of so far."""
        return [*([self.scan.uid] if self.scan is not None else []), *self._streams.parts]

    @property
    def waiting(self) -> bool:
        """Whether a frame is complete but has not been taken."""
        return bool(self._line) and self._located(self._line[0])

    def frames(self) -> Iterator[Frame]:
        """Iterate over the frames that are complete now."""
        while self._line:
            if self._located(self._line[0]):
                yield from self._take(self._line.popleft())
            elif self.stop is not None or len(self._line) > _PATIENT_EVENTS:
                self._late.append(self._line.popleft())
            else:
                break
        for _ in range(len(self._late)):
            pending = self._late.popleft()
            if self._located(pending) and (self.stop is not None or time.monotonic() >= pending.retry_at):
                yield from self._take(pending)
            elif self.stop is not None:
                self._lose(pending, "its pixels were never announced")
            else:
                self._late.append(pending)

    def close(self) -> None:
        """Close every file."""
        self.reader.close()

    # -- documents

    def _on_start(self, document: Mapping[str, Any]) -> None:
        is_part = group_key(self.profile.group, document) is not None
        scan = read_scan(document, self._energies)
        self._streams.start = scan.start
        self.scan = replace(scan, projections=self.profile.group.frames) if is_part else scan

    def _on_part(self, document: Mapping[str, Any]) -> None:
        """Take note of a further run of the scan: its ``uid`` and ``start``."""
        self._streams.parts[document["uid"]] = document["start"]

    def _on_part_stop(self, document: Mapping[str, Any]) -> None:
        part = str(document["part"])
        self._make_up_events(part)
        self._losses.add_missing(part, document.get("num_events") or {}, self._joined)
        self._losses.add_short(part, self.scan.projections if self.scan is not None else (), self._joined)

    def _on_descriptor(self, document: Mapping[str, Any]) -> None:
        self._streams.add(document)

    def _on_resource(self, document: Mapping[str, Any]) -> None:
        self._pixels.add_resource(document)

    _on_stream_resource = _on_resource

    def _on_datum(self, document: Mapping[str, Any]) -> None:
        self._pixels.add_datum(document)

    def _on_datum_page(self, document: Mapping[str, Any]) -> None:
        for datum in unpack_datum_page(cast(Any, document)):
            self._on_datum(datum)

    def _on_stream_datum(self, document: Mapping[str, Any]) -> None:
        descriptor = self._streams.get(document["descriptor"])
        if descriptor is not None:
            self._pixels.add_rows(document, self._streams.image_key(descriptor))

    def _on_event(self, document: Mapping[str, Any]) -> None:
        try:
            self._enter(document)
        except Exception as error:
            self._ignore("event", document, error)

    def _on_lost(self, document: Mapping[str, Any]) -> None:
        """Take note of an event that could not be handed over."""
        self._losses.add_event(document)

    def _enter(self, document: Mapping[str, Any]) -> None:
        descriptor = self._streams.get(document["descriptor"])
        if descriptor is None or document["uid"] in self._uids:
            return
        if self._streams.image_key(descriptor) is None:
            raise BadFrameError(f"stream {descriptor['name']!r} has no image; set documents.image_key in the profile")
        pending = _Pending(self._streams.roles[descriptor["name"]], descriptor["name"], document)
        int(document["seq_num"]), float(document["time"]), document["data"]
        self._uids.add(document["uid"])
        self._joined.add((document["descriptor"], pending.seq))
        self._line.append(pending)
        self.seen += 1

    def _on_event_page(self, document: Mapping[str, Any]) -> None:
        for event in unpack_event_page(cast(Any, document)):
            self._on_event(event)

    def _on_stop(self, document: Mapping[str, Any]) -> None:
        self.stop = dict(document)
        self._deadline = time.monotonic() + self.last_patience_s
        self._make_up_events("")
        self._losses.add_missing("", document.get("num_events") or {}, self._joined)

    def _make_up_events(self, part: str) -> None:
        """Enter the frames of a detector that was collected without events."""
        own = self._streams.of_run(part)
        for uid, seq in self._pixels.without_event(self._joined):
            if uid in own:
                made_up = {"uid": f"{uid}/{seq}", "descriptor": uid, "seq_num": seq, "data": {}}
                self._on_event(made_up | {"time": own[uid]["time"]})

    # -- joining events and pixels

    def _located(self, pending: _Pending) -> bool:
        try:
            return self._pixels.known(
                pending.event, self._streams.image_key(self._streams.descriptor_of(pending.event))
            )
        except Exception:  # what is malformed is found again, and said, when the frame is taken
            return True

    def _take(self, pending: _Pending) -> Iterator[Frame]:
        try:
            frames = self._frames(pending)
        except FrameUnreadableError as error:
            if self.stop is None:  # a camera that shows its file only when it is closed: try again later
                pending.retry_at = time.monotonic() + 1.0
                self._late.append(pending)
                self._patience_s = 0.1  # one long wait is enough to know this camera
            else:
                self._lose(pending, str(error))
        except Exception as error:
            self._lose(pending, f"{type(error).__name__}: {error}")
        else:
            yield from frames

    def _frames(self, pending: _Pending) -> list[Frame]:
        """Return the frame of an event; where its frames are projections, those that are wanted."""
        scan = self.scan
        if pending.role != "sample" or scan is None or not scan.projections:
            positions = scan.n_positions if scan is not None and pending.role == "sample" else 1
            position = (pending.seq - 1) % positions
            return [self._frame(pending, self._images(pending), position=position, seq=pending.seq)]
        descriptor = self._streams.descriptor_of(pending.event)
        count = self._streams.frames_per_event(descriptor)
        numbers = [number - (pending.seq - 1) * count for number in scan.projections]
        wanted = {number: position for position, number in enumerate(numbers) if 0 <= number < count}
        if not wanted:
            return []
        images = self._images(pending, only=tuple(wanted))
        seq = self.runs.index(str(descriptor.get("part", scan.uid))) + 1
        return [
            self._frame(pending, image[None], position=position, seq=seq)
            for image, position in zip(images, wanted.values(), strict=True)
        ]

    def _images(self, pending: _Pending, *, only: tuple[int, ...] = ()) -> NDArray[Any]:
        """Return the pixels of an event as (repeats, y, x); ``only``: numbers of the repeats that are wanted."""
        descriptor = self._streams.descriptor_of(pending.event)
        patience_s = self._patience_s if self.stop is None else max(self._deadline - time.monotonic(), 0.1)
        key = self._streams.image_key(descriptor)
        return self._pixels.read(pending.event, descriptor, key, name=pending.name, patience_s=patience_s, only=only)

    def _frame(self, pending: _Pending, images: NDArray[Any], *, position: int, seq: int) -> Frame:
        descriptor = self._streams.descriptor_of(pending.event)
        start = self._streams.start_of(descriptor)
        energy_eV = self._energies.energy_eV(pending.event["data"], start)
        if energy_eV is None and pending.role == "sample":
            raise BadFrameError(f"no energy: neither {self.profile.documents.energy_key!r} nor 'XEng' in the documents")
        return Frame(
            role=pending.role,
            image=images[0] if len(images) == 1 else images,
            energy_eV=None if pending.role == "dark" else energy_eV,
            seq=seq,
            exposure_s=self._energies.exposure_s(pending.event["data"], descriptor, start),
            time=float(pending.event["time"]),
            position=position,
        )

    def _ignore(self, name: str, document: Mapping[str, Any], error: Exception) -> None:
        """Go on without a document that is malformed; a frame that was in it is lost by name."""
        reason = _line(f"malformed {name}: {type(error).__name__}: {error}")
        if name in ("event", "event_page"):
            document = document if isinstance(document, Mapping) else {}
            facts = {key: document.get(key) for key in ("descriptor", "seq_num")}
            self._on_lost(facts | {"reason": reason})
        else:
            logger.warning("document ignored: %s", reason)

    def _lose(self, pending: _Pending, reason: str) -> None:
        run = str(self._streams.descriptor_of(pending.event).get("part", ""))
        self._losses.add(LostFrame(pending.stream, pending.seq, _line(reason), run))


def _line(text: str) -> str:
    """Return a text as one line of limited length."""
    return " ".join(text.split())[:400]
