"""Documents of one small scan in every form that a beamline may send; used by the tests of documents and stream."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import tifffile

Documents = list[tuple[str, dict[str, Any]]]
FORMS = ("inline", "lists", "ad_hdf5", "ad_tiff", "npy", "stream_hdf5", "stream_first", "stream_4d")


def scan_images(
    n: int = 4, *, shape: tuple[int, ...] = (2, 8, 6), seed: int = 0
) -> Iterator[tuple[str, float, np.ndarray]]:
    """Dark first, then at each energy sample and flat."""
    rng = np.random.default_rng(seed)
    yield "dark", 8300.0, rng.integers(90, 110, shape, dtype=np.uint16)
    for index in range(n):
        energy_eV = 8320.0 + 10 * index
        yield "primary", energy_eV, rng.integers(100, 30_000, shape, dtype=np.uint16)
        yield "flat", energy_eV, rng.integers(30_000, 60_000, shape, dtype=np.uint16)


def run_documents(
    form: str, folder: Path, *, n: int = 4, shape: tuple[int, ...] = (2, 8, 6), seed: int = 0
) -> Documents:
    """Return the documents of a run whose images come in the form named; files are written into ``folder``."""
    uid = str(uuid.UUID(int=seed + 1))
    start = {"uid": uid, "time": 1000.0, "scan_id": 7, "detectors": ["cam"], "exposure_time": 0.1, "sample": "powder"}
    start |= {"plan_name": "xanes", "eng_list": [8320.0 + 10 * index for index in range(n)]}
    documents: Documents = [("start", start)]
    seqs: dict[str, int] = {}
    resources: dict[str, str] = {}
    written: dict[str, list[np.ndarray]] = {}
    for step, (stream, energy_eV, image) in enumerate(scan_images(n, shape=shape, seed=seed)):
        descriptor = f"{uid}-{stream}"
        if stream not in seqs:
            seqs[stream] = 0
            written[stream] = []
            key: dict[str, Any] = {"dtype": "array", "dtype_numpy": "<u2", "shape": list(shape), "source": "x"}
            if form not in ("inline", "lists"):
                key["external"] = "FILESTORE:" if not form.startswith("stream") else "STREAM:"
            keys = {"cam_image": key, "energy": {"dtype": "number", "shape": [], "source": "x"}}
            document = {"uid": descriptor, "run_start": uid, "name": stream, "time": 1000.0, "data_keys": keys}
            documents.append(("descriptor", document | {"configuration": {}, "object_keys": {}, "hints": {}}))
        seqs[stream] += 1
        written[stream].append(image)
        seq, time = seqs[stream], 1001.0 + step
        event: dict[str, Any] = {
            "uid": f"{descriptor}-{seq}",
            "descriptor": descriptor,
            "seq_num": seq,
            "time": time,
            "data": {"energy": energy_eV},
            "timestamps": {"energy": time},
            "filled": {},
        }
        pixels: Documents = []
        if form in ("inline", "lists"):
            event["data"]["cam_image"] = image if form == "inline" else image.tolist()
            event["timestamps"]["cam_image"] = time
        elif form.startswith("stream"):
            pixels = _stream(form, folder, uid, stream, seq, resources)
        else:
            datum_id, pixels = _datum(form, folder, uid, stream, seq, resources)
            event["data"]["cam_image"], event["timestamps"]["cam_image"] = datum_id, time
            event["filled"]["cam_image"] = False
        first = [entry for entry in pixels if form != "stream_hdf5" or entry[0] != "stream_datum"]
        documents += first + [("event", event)] + [entry for entry in pixels if entry not in first]
    for stream, images in written.items():
        _write(form, folder, stream, images)
    stop = {"uid": f"{uid}-stop", "run_start": uid, "time": 2000.0, "exit_status": "success", "num_events": dict(seqs)}
    return [*documents, ("stop", stop)]


def pack(documents: Documents, cuts: list[bool]) -> Documents:
    """Pack neighbouring events of one descriptor, and neighbouring datums, into pages; ``cuts`` ends a page early."""
    packed: Documents = []
    group: list[dict[str, Any]] = []
    kind = ""

    def flush() -> None:
        if group:
            packer = event_model.pack_event_page if kind == "event" else event_model.pack_datum_page
            packed.append((f"{kind}_page", packer(*group)))
            group.clear()

    for index, (name, document) in enumerate(documents):
        parent = "descriptor" if name == "event" else "resource"
        cut = cuts[index % len(cuts)] if cuts else False
        if name not in ("event", "datum") or cut or name != kind or (group and group[-1][parent] != document[parent]):
            flush()
        if name in ("event", "datum"):
            kind = name
            group.append(document)
        else:
            packed.append((name, document))
    flush()
    return packed


def new_descriptors(documents: Documents, after: int) -> Documents:
    """Let every stream have another descriptor from its event ``after`` + 1 on, as where a device was configured."""
    changed: Documents = []
    known = {document["uid"]: document for name, document in documents if name == "descriptor"}
    for name, document in documents:
        number = document["seq_num"] if name == "event" else document.get("seq_nums", {}).get("start", 0)
        if number > after:
            new = known[document["descriptor"]] | {"uid": f"{document['descriptor']}-again"}
            if ("descriptor", new) not in changed:
                changed.append(("descriptor", new))
            document = document | {"descriptor": new["uid"]}
        changed.append((name, document))
    return changed


def _datum(
    form: str, folder: Path, uid: str, stream: str, seq: int, resources: dict[str, str]
) -> tuple[str, Documents]:
    documents: Documents = []
    if stream not in resources:
        resources[stream] = f"{uid}-resource-{stream}"
        spec = {"ad_hdf5": "AD_HDF5", "ad_tiff": "AD_TIFF", "npy": "NPY_SEQ"}[form]
        path = {"ad_hdf5": f"{stream}.h5", "ad_tiff": "", "npy": stream}[form]
        kwargs: dict[str, Any] = {} if form == "npy" else {"frame_per_point": 2}
        if form == "ad_tiff":
            kwargs |= {"template": "%s%s_%6.6d.tiff", "filename": stream}
        document = {
            "uid": resources[stream],
            "run_start": uid,
            "spec": spec,
            "root": str(folder),
            "resource_path": path,
        }
        documents.append(("resource", document | {"resource_kwargs": kwargs, "path_semantics": "posix"}))
    datum_id = f"{resources[stream]}/{seq}"
    kwargs = {"index" if form == "npy" else "point_number": seq - 1}
    documents.append(("datum", {"datum_id": datum_id, "resource": resources[stream], "datum_kwargs": kwargs}))
    return datum_id, documents


def _stream(form: str, folder: Path, uid: str, stream: str, seq: int, resources: dict[str, str]) -> Documents:
    documents: Documents = []
    if stream not in resources:
        resources[stream] = f"{uid}-resource-{stream}"
        document = {
            "uid": resources[stream],
            "run_start": uid,
            "data_key": "cam_image",
            "mimetype": "application/x-hdf5",
        }
        uri = f"file://localhost{folder}/{stream}.h5"
        documents.append(("stream_resource", document | {"uri": uri, "parameters": {"dataset": "/entry/data/data"}}))
    rows = {"indices": {"start": seq - 1, "stop": seq}, "seq_nums": {"start": seq, "stop": seq + 1}}
    datum = {"uid": f"{resources[stream]}/{seq}", "stream_resource": resources[stream], "descriptor": f"{uid}-{stream}"}
    return [*documents, ("stream_datum", datum | rows)]


def _write(form: str, folder: Path, stream: str, images: list[np.ndarray]) -> None:
    if form == "ad_tiff":
        for number, image in enumerate(np.concatenate(images)):
            tifffile.imwrite(folder / f"{stream}_{number:06d}.tiff", image)
    elif form == "npy":
        for index, image in enumerate(images):
            np.save(folder / f"{stream}_{index}.npy", image)
    elif form not in ("inline", "lists"):
        stack = np.stack(images) if form == "stream_4d" else np.concatenate(images)
        with h5py.File(folder / f"{stream}.h5", "w") as file:
            file["/entry/data/data"] = stack
