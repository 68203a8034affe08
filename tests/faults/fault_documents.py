"""Faults of documents and of the frames in them: what may arrive in place of the RunEngine's documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fault_case import Case, Documents, Fault

WITHIN: Any = ("middle", "early", "late")
Change = Callable[[Case, str, dict[str, Any], bool], Documents]


def at_event(change: Callable[[Case, dict[str, Any]], Documents]) -> Change:
    """Change the event that is hit; pass everything else on."""
    return lambda case, name, document, hit: change(case, document) if hit else [(name, document)]


def image(change: Callable[[np.ndarray[Any, Any]], Any]) -> Change:
    """Change the image of the event that is hit."""

    def changed(case: Case, event: dict[str, Any]) -> Documents:
        pixels = change(np.array(event["data"]["camera_image"]))
        return [("event", {**event, "data": {**event["data"], "camera_image": pixels}})]

    return at_event(changed)


def without_hit(case: Case) -> Documents:
    """The reference's documents without the event that is hit."""
    events = [document for name, document in case.bench.documents if name == "event"]
    return [entry for entry in case.bench.documents if entry[1] is not events[case.at - 1]]


def without_stream(case: Case) -> Documents:
    """The reference's documents without the events of the stream that a moment stands for."""
    stream = STREAMS[case.moment]
    uids = [doc["uid"] for name, doc in case.bench.documents if name == "descriptor" and doc["name"] == stream]
    return [entry for entry in case.bench.documents if entry[1].get("descriptor") not in uids]


def without_first_of_stream(case: Case) -> Documents:
    """The reference's documents without the first event of the stream that a moment stands for."""
    kept = without_stream(case)
    first = next(entry for entry in case.bench.documents if entry not in kept)
    return [entry for entry in case.bench.documents if entry is not first]


STREAMS = {"early": "dark", "middle": "primary", "late": "flat"}


def at_descriptor(change: Callable[[dict[str, Any]], Documents]) -> Change:
    """Change the descriptor of the stream that the moment stands for."""

    def changed(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
        ours = name == "descriptor" and document["name"] == STREAMS[case.moment]
        return change(document) if ours else [(name, document)]

    return changed


def swapped(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """Let the event that is hit come after the next one."""
    if hit:
        case.kept["held"] = (name, document)
        return []
    if name == "event" and "held" in case.kept:
        return [(name, document), case.kept.pop("held")]
    return [(name, document)]


def late_descriptor(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """Let a descriptor come after its first event."""
    if name == "descriptor" and document["name"] == STREAMS[case.moment]:
        case.kept["held"] = (name, document)
        return []
    if name == "event" and "held" in case.kept and document["descriptor"] == case.kept["held"][1]["uid"]:
        return [(name, document), case.kept.pop("held")]
    return [(name, document)]


def twice(which: str) -> Change:
    """Let a kind of document come twice."""
    return lambda case, name, document, hit: [(name, document)] * (2 if name == which else 1)


def clock_back(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """From the moment on the acquisition's clock is an hour behind."""
    case.kept["back"] = hit or case.kept.get("back", False)
    return [(name, {**document, "time": document["time"] - 3600.0} if case.kept["back"] else document)]


def nonsense(case: Case, event: dict[str, Any]) -> Documents:
    """Documents that say nothing, before the event that is hit."""
    said: Documents = [
        ("nonsense", {"uid": "1"}),
        ("", {}),
        ("descriptor", {}),
        ("descriptor", {"run_start": case.uid, "uid": "2", "name": ["primary"]}),
        ("datum", {}),
        ("datum_page", {"resource": "3"}),
        ("stream_datum", {"descriptor": None}),
        ("resource", {"run_start": case.uid}),
        ("stop", {}),
    ]
    return [*said, ("event", event)]


def malformed(case: Case, event: dict[str, Any]) -> Documents:
    """Events that cannot be read, beside the one that is hit."""
    return [
        ("event", event),
        ("event", {**event, "uid": "a", "seq_num": "many"}),
        ("event_page", {"descriptor": event["descriptor"], "data": 3, "seq_num": [98, 99]}),
    ]


def other_run(case: Case) -> Documents:
    """The reference's documents as those of another run."""
    uids = {doc["uid"] for name, doc in case.bench.documents if name in ("start", "descriptor")}

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(entry) for key, entry in value.items()}
        return f"{value[:-4]}{case.events:04d}" if isinstance(value, str) and value in uids else value

    return [(name, renamed(document)) for name, document in case.bench.documents]


def interleaved(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """From the moment on another run's documents come in between."""
    if hit:
        case.kept["other"] = other_run(case)
        case.kept["other uid"] = case.kept["other"][0][1]["uid"]
    other = case.kept.get("other", [])
    taken = len(other) if name == "stop" else 2
    case.kept["other"] = other[taken:]
    return [(name, document), *other[:taken]]


def other_is_whole(case: Case) -> None:
    """The other of two runs is as whole as the first."""
    report = case.stream.wait(240, run_uid=case.kept["other uid"])
    assert report is not None
    published = case.bench.read(report)
    assert published is not None
    assert case.bench.reference is not None
    for name, array in case.bench.reference.final.items():
        np.testing.assert_allclose(published.final[name].astype(float), array.astype(float), rtol=1e-6, atol=1e-6)


def nan_block(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Some pixels are NaN."""
    pixels = pixels.astype(np.float32)
    pixels[:, 5:9, 20:24] = np.nan
    return pixels


GONE: dict[str, Any] = {"status": "failed", "lost": 1, "frames": without_hit}

FRAME_FAULTS = [
    Fault("frame NaN", change=image(lambda p: np.full(p.shape, np.nan, np.float32)), moments=WITHIN, alike=0.15),
    Fault("frame partly NaN", change=image(nan_block), moments=WITHIN, alike=0.15, size="slow"),
    Fault(
        "frame saturated",
        prepare=lambda case: case.txm.fault(case.visit - 1, "saturated"),
        moments=WITHIN,
        alike=0.15,
        warning="left out|rejected|saturated",
        size="slow",
    ),
    Fault(
        "frame dark",
        prepare=lambda case: case.txm.fault(case.visit - 1, "dark"),
        moments=WITHIN,
        alike=0.15,
        warning="left out|rejected|dark",
    ),
    Fault("frame float64", change=image(lambda p: p.astype(np.float64)), moments=WITHIN, size="slow"),
    Fault(
        "frame of words",
        change=image(lambda p: p.astype(str)),
        moments=WITHIN,
        frames=without_hit,
        warning="rejected",
        size="slow",
    ),
    Fault(
        "frame of another shape",
        change=image(lambda p: p[:, :20, :24]),
        moments=WITHIN,
        frames=without_hit,
        warning="rejected",
    ),
]

DOCUMENT_FAULTS = [
    Fault("events out of order", change=swapped, moments=WITHIN),
    Fault("event doubled", change=at_event(lambda _, event: [("event", event)] * 2), moments=WITHIN, size="slow"),
    Fault("event missing", change=at_event(lambda *_: []), moments=WITHIN, **GONE),
    Fault("events malformed", change=at_event(malformed), moments=WITHIN, status="failed", lost=3, size="slow"),
    Fault("documents without sense", change=at_event(nonsense), moments=WITHIN, size="slow"),
    Fault(
        "descriptor missing",
        change=at_descriptor(lambda _: []),
        moments=("late",),
        frames=without_stream,
        status="failed",
        reason=r"missing frames: flat 1",
        lost=None,
    ),
    Fault(
        "descriptor of the dark missing",
        change=at_descriptor(lambda _: []),
        moments=("early",),
        frames=without_stream,
        status="failed",
        lost=None,
        size="slow",
    ),
    Fault(
        "descriptor after its event",
        change=late_descriptor,
        moments=("middle", "early", "late"),
        frames=without_first_of_stream,
        status="failed",
        lost=1,
        size="slow",
    ),
    Fault("descriptors doubled", change=twice("descriptor"), moments=("early",), size="slow"),
    Fault("start doubled", change=twice("start"), moments=("early",), size="slow"),
    Fault("stop doubled", change=twice("stop"), moments=("final",), size="slow"),
    Fault(
        "stop missing",
        change=lambda case, name, document, hit: [] if name == "stop" else [(name, document)],
        moments=("final",),
        reason="before the run had a stop document",
        own_stream=True,
        size="slow",
    ),
    Fault("clock an hour back", change=clock_back, moments=WITHIN),
    Fault("two runs interleaved", change=interleaved, undo=other_is_whole, moments=("early", "middle", "late")),
]
