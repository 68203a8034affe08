"""Every legal form and order of a run's documents becomes the same frames."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_documents import FORMS, Documents, new_descriptors, pack, run_documents, scan_images

from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.pixels import AssetRef, FrameUnreadableError, PixelReader, locate_stream
from txm_stream.frames import Frame
from txm_stream.profile import Profile
from txm_stream.simulated_devices.hdf5_writer import DATASET, Hdf5Writer

ROLES = {"primary": "sample", "flat": "flat", "dark": "dark"}


def assemble(
    documents: Documents, profile: Profile | None = None, **options: Any
) -> tuple[list[Frame], FrameAssembler]:
    assembler = FrameAssembler(profile or Profile(), last_patience_s=0.3, **options)
    frames = [frame for name, document in documents for frame in assembler(name, document)]
    assembler.close()
    return frames, assembler


def facts(frame: Frame) -> tuple[Any, ...]:
    return (
        frame.role,
        frame.seq,
        frame.energy_eV,
        frame.exposure_s,
        frame.time,
        frame.image.dtype,
        frame.image.tobytes(),
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_frames_in_the_order_of_events(form: str, tmp_path: Path) -> None:
    frames, assembler = assemble(run_documents(form, tmp_path))

    assert not assembler.lost
    assert len(frames) == 9
    seqs: dict[str, int] = {}
    for step, (frame, (stream, energy_eV, image)) in enumerate(zip(frames, scan_images(), strict=True)):
        seqs[stream] = seqs.get(stream, 0) + 1
        assert (frame.role, frame.seq) == (ROLES[stream], seqs[stream])
        assert frame.energy_eV == (None if stream == "dark" else energy_eV)
        assert (frame.exposure_s, frame.time) == (0.1, 1001.0 + step)
        assert frame.image.dtype == np.uint16
        np.testing.assert_array_equal(frame.image, image)


def test_the_scan_is_read_from_the_start_document(tmp_path: Path) -> None:
    _, assembler = assemble(run_documents("inline", tmp_path))
    scan = assembler.scan
    assert scan is not None
    assert (scan.scan_id, scan.sample, scan.plan_name) == (7, "powder", "xanes")
    assert scan.planned_energies_eV == (8320.0, 8330.0, 8340.0, 8350.0)


def test_a_plan_that_says_eng_list_as_a_string_has_no_planned_energies(tmp_path: Path) -> None:
    documents = run_documents("inline", tmp_path)
    documents[0][1].pop("eng_list")
    documents[0][1]["plan_args"] = {"eng_list": "eng_list"}
    _, assembler = assemble(documents)
    assert assembler.scan is not None
    assert assembler.scan.planned_energies_eV == ()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMS), after=st.integers(1, 4), cuts=st.lists(st.booleans(), max_size=7), data=st.data())
def test_packings_interleavings_descriptors_and_doubles_give_the_same_frames(
    form: str, after: int, cuts: list[bool], data: st.DataObject, tmp_path: Path
) -> None:
    documents = run_documents(form, tmp_path)
    expected, _ = assemble(documents)
    documents = new_descriptors(documents, after)

    # any order in which nothing comes before what it refers to, events of the run in their order
    order = data.draw(st.permutations(range(1, len(documents) - 1)))
    rank = {index: place for place, index in enumerate(order)}
    shuffled, done = [documents[0]], {documents[0][1]["uid"]}
    rest = list(range(1, len(documents) - 1))
    last_event = [index for index in rest if documents[index][0] == "event"]
    while rest:
        ready = [
            i for i in rest if _parents(documents[i]) <= done and (documents[i][0] != "event" or i == last_event[0])
        ]
        index = min(ready, key=rank.__getitem__)
        if documents[index][0] == "event":
            last_event.pop(0)
        rest.remove(index)
        name, document = documents[index]
        done.add(document.get("uid") or document["datum_id"])
        shuffled += [(name, document)] * data.draw(st.integers(1, 2)) if name == "event" else [(name, document)]
    shuffled.append(documents[-1])

    frames, assembler = assemble(pack(shuffled, cuts))
    assert not assembler.lost
    assert [facts(frame) for frame in frames] == [facts(frame) for frame in expected]


def _parents(entry: tuple[str, dict[str, Any]]) -> set[str]:
    name, document = entry
    keys = {"event": ["descriptor"], "datum": ["resource"], "stream_datum": ["descriptor", "stream_resource"]}
    return {document[key] for key in keys.get(name, ["run_start"])}


@pytest.mark.parametrize("unit", ["eV", "keV"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_energies_in_the_wrong_unit_are_converted_with_one_warning(
    unit: str, scale: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = run_documents("inline", tmp_path)
    for name, document in documents:
        if name == "event":
            document["data"]["energy"] *= scale
    documents[0][1].pop("eng_list")
    profile = Profile.from_fields({"documents": {"energy_unit": unit}})
    with caplog.at_level(logging.WARNING, "txm_stream"):
        frames, _ = assemble(documents, profile)
    energies = [frame.energy_eV for frame in frames if frame.role == "sample"]
    assert energies == pytest.approx([8320.0, 8330.0, 8340.0, 8350.0])
    wrong = (unit == "eV") == (scale < 1)
    assert len(caplog.records) == int(wrong)


def test_the_energy_comes_from_xeng_in_kev_where_the_key_is_missing(tmp_path: Path) -> None:
    documents = run_documents("inline", tmp_path)
    for name, document in documents:
        if name == "event":
            document["data"]["XEng"] = document["data"].pop("energy") / 1000
    frames, _ = assemble(documents)
    assert [f.energy_eV for f in frames if f.role == "sample"] == pytest.approx([8320.0, 8330.0, 8340.0, 8350.0])


def test_documents_of_fxi_are_read_with_its_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    renamed: Documents = []
    for name, document in run_documents("inline", tmp_path):
        new = dict(document)
        if name == "start":
            new |= {"detectors": ["Andor"], "eng_list": [8.32, 8.33, 8.34, 8.35], "XEng": 8.32, "chunk_size": 2}
        for part in ("data", "timestamps", "data_keys"):
            if part in new:
                old = new[part]
                new[part] = {"Andor_image": old["cam_image"], "XEng": old["energy"], "ic3": 0.5}
        if name == "event":
            new["data"]["XEng"] /= 1000
        renamed.append((name, new))
    profile = Profile.load(Path(__file__).parents[1] / "profiles" / "fxi.toml")
    frames, assembler = assemble(renamed, profile)
    plain, _ = assemble(run_documents("inline", tmp_path))
    assert [(f.role, f.energy_eV and round(f.energy_eV, 6), f.exposure_s) for f in frames] == [
        (f.role, f.energy_eV, f.exposure_s) for f in plain
    ]
    assert assembler.scan is not None
    assert assembler.scan.planned_energies_eV == pytest.approx((8320.0, 8330.0, 8340.0, 8350.0))
    assert not caplog.records


def test_positions_take_turns(tmp_path: Path) -> None:
    documents = run_documents("inline", tmp_path)
    documents[0][1]["num_pos"] = 2
    frames, _ = assemble(documents)
    assert [frame.position for frame in frames if frame.role == "sample"] == [0, 1, 0, 1]


def test_malformed_documents_are_one_warning_each_and_malformed_events_lost_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = run_documents("inline", tmp_path)
    event = next(document for name, document in documents if name == "event")
    bad: Documents = [
        ("event", {"descriptor": event["descriptor"]}),
        ("event", {**event, "uid": "another", "seq_num": 77, "time": None}),
        ("event", {"descriptor": "of another stream"}),
        ("descriptor", {}),
        ("event_page", {"data": 3}),
        ("datum", {}),
        ("stream_datum", {}),
        ("nonsense", {}),
    ]
    with caplog.at_level(logging.WARNING, "txm_stream"):
        frames, assembler = assemble([*documents[:-1], *bad, documents[-1]])
    assert len(frames) == 9
    assert [(frame.stream, frame.seq) for frame in assembler.lost] == [
        ("dark", 0),
        ("dark", 77),
        ("a stream not named", 0),
    ]
    assert all("malformed event" in frame.reason for frame in assembler.lost)
    assert len(caplog.records) == 6
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_events_that_never_came_are_known_from_the_stop_document(tmp_path: Path) -> None:
    documents = run_documents("inline", tmp_path)
    gone = {"dark": {1}, "primary": {2}, "flat": {1, 2, 3}}
    left = [
        (name, document)
        for name, document in documents
        if name != "event" or document["seq_num"] not in gone[document["descriptor"].rsplit("-", 1)[-1]]
    ]
    frames, assembler = assemble(left)
    assert len(frames) == 9 - 5
    assert sorted(str(frame) for frame in assembler.lost) == [
        "dark 1 (its event never came)",
        *(f"flat {seq} (its event never came)" for seq in (1, 2, 3)),
        "primary 2 (its event never came)",
    ]


WRONG: list[Any] = [None, "", "x", b"", 0, -1, 2**70, 1e300, float("nan"), True, [], [[]], {}, {"a": 1}, (), object()]
WRONG += [
    np.zeros(0),
    np.zeros((2, 0, 3)),
    np.array(["a"]),
    np.full((2, 8, 6), np.nan),
    {1: 2},
    [None, {}],
    "7",
    3 + 4j,
]


def spoil(document: Any, rng: random.Random, others: list[Any]) -> Any:
    """Change a document, or something in it: another value, a key less, a key of its own, another's value."""
    if not isinstance(document, dict) or not document or rng.random() < 0.05:
        return rng.choice(WRONG)
    changed = dict(document)
    key = rng.choice(sorted(changed, key=str))
    if isinstance(changed[key], dict) and changed[key] and rng.random() < 0.6:
        changed[key] = spoil(changed[key], rng, others)
    elif rng.random() < 0.3:
        del changed[key]
    else:
        changed[key] = rng.choice(WRONG if rng.random() < 0.7 else others)
    return changed


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMS), seed=st.integers(0, 2**32))
def test_ten_thousand_malformed_documents_are_one_line_each_at_most(
    form: str, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(seed)
    documents = run_documents(form, tmp_path)
    documents = pack(documents, [False]) if seed % 2 else documents
    others = [value for _, document in documents for value in document.values()]
    names = sorted({name for name, _ in documents} | {"event_page", "datum_page", "lost", "nonsense"})
    assembler = FrameAssembler(Profile(), reader=PixelReader(patience_s=0.0), last_patience_s=0.0)
    given = 0
    with caplog.at_level(logging.WARNING, "txm_stream"):
        for _ in range(100):
            name, document = rng.choice(documents)
            name = rng.choice(names) if rng.random() < 0.1 else name
            if rng.random() < 0.2:
                next(assembler(*rng.choice(documents)), None)
            list(assembler(name, spoil(document, rng, others)))
            given += 1
        list(assembler(*documents[-1]))
        assembler.close()
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert all("\n" not in line and len(line) < 1000 for line in lines)
    assert len(lines) <= given + len(documents)


def test_a_frame_without_its_file_is_lost_by_name_and_the_others_come(tmp_path: Path) -> None:
    documents = run_documents("ad_tiff", tmp_path)
    (tmp_path / "primary_000002.tiff").unlink()
    frames, assembler = assemble(documents, reader=PixelReader(patience_s=0.05))
    assert len(frames) == 8
    assert [(frame.stream, frame.seq) for frame in assembler.lost] == [("primary", 2)]
    assert "primary_000002.tiff" in assembler.lost[0].reason


def test_events_whose_pixels_are_never_announced_are_lost_by_name(tmp_path: Path) -> None:
    documents = [entry for entry in run_documents("stream_hdf5", tmp_path) if entry[1].get("uid", "")[-6:] != "flat/2"]
    frames, assembler = assemble(documents)
    assert len(frames) == 8
    assert [(frame.stream, frame.seq) for frame in assembler.lost] == [("flat", 2)]


def test_an_image_key_of_the_profile_wins_and_a_wrong_one_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = run_documents("inline", tmp_path)
    assert len(assemble(documents, Profile.from_fields({"documents": {"image_key": "cam_image"}}))[0]) == 9
    with caplog.at_level(logging.WARNING, "txm_stream"):
        frames, _ = assemble(documents, Profile.from_fields({"documents": {"image_key": "nothing"}}))
    assert frames == []
    assert "documents.image_key" in caplog.text


CAMERA = """
import sys, time, h5py, numpy as np
path, swmr = sys.argv[1], sys.argv[2] == "True"
images = np.arange(24, dtype=np.uint16).reshape(4, 2, 3)
with h5py.File(path, "w", libver="latest" if swmr else None) as file:
    dataset = file.create_dataset("d", (0, 2, 3), maxshape=(None, 2, 3), chunks=(1, 2, 3), dtype="u2")
    if swmr:
        file.swmr_mode = True
    for index, image in enumerate(images):
        time.sleep(0.05)
        dataset.resize(index + 1, axis=0)
        dataset[index] = image
        dataset.flush()
"""


@pytest.mark.parametrize("swmr", [True, False])
def test_pixels_are_waited_for_while_the_camera_writes(swmr: bool, tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint16).reshape(4, 2, 3)
    camera = subprocess.Popen([sys.executable, "-c", CAMERA, str(tmp_path / "late.h5"), str(swmr)])
    reader = PixelReader(path_map=[("/at/the/camera", str(tmp_path))], patience_s=20)
    for index in range(4):
        asset = AssetRef("hdf5", ("/at/the/camera/late.h5",), "d", index)
        np.testing.assert_array_equal(reader.read(asset, name="frame")[0], images[index])
    assert camera.wait() == 0
    with pytest.raises(FrameUnreadableError, match=r"primary frame 5: .*late.h5"):
        reader.read(AssetRef("hdf5", ("/at/the/camera/late.h5",), "d", 4), name="primary frame 5", patience_s=0.1)
    reader.close()


def test_a_file_that_is_cut_off_is_not_read_as_zeros(tmp_path: Path) -> None:
    camera = Hdf5Writer(tmp_path, (32, 32), 2)
    camera.append(np.full((2, 32, 32), 7, np.uint16))
    cut, content = tmp_path / "cut.h5", camera.path.read_bytes()
    reader = PixelReader(patience_s=0.05)
    asset = AssetRef("hdf5", (str(cut),), DATASET, 0, 2)
    for share in (0.5, 0.75, 0.9):
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(FrameUnreadableError, match="does not hold it yet"):
            reader.read(asset, name="primary frame 1")
    cut.write_bytes(content)
    assert (reader.read(asset, name="primary frame 1") == 7).all()
    reader.close()
    camera.close()


def test_a_resource_of_endless_files_costs_its_frames_not_the_memory(tmp_path: Path) -> None:
    documents = run_documents("ad_tiff", tmp_path)
    for name, document in documents:
        if name == "resource":
            document["resource_kwargs"]["frame_per_point"] = 2**70
    frames, assembler = assemble(documents)
    assert frames == []
    assert len(assembler.lost) == 9
    assert all("files for one event, at most" in frame.reason for frame in assembler.lost)
    stream = {"mimetype": "multipart/related;type=image/tiff", "uri": "file://localhost/data/"}
    with pytest.raises(FrameUnreadableError, match="files for one event"):
        locate_stream(stream | {"parameters": {"multiplier": 2**70, "template": "img_{:d}.tif"}}, 0, (1, 8, 6))
