"""One run per energy (3-D XANES): the runs of a scan are one scan, live, watched and replayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins import TiledWriter
from run_documents import FORMS, run_documents

from txm_stream.callbacks import XanesStream, replay
from txm_stream.callbacks.beamline_plans import fxi_xanes_3d
from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.run_groups import RunGroups
from txm_stream.callbacks.sources import find_scan
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_source import TiledSource
from txm_stream.callbacks.watch import Watch
from txm_stream.callbacks.watch_folder import WatchFolder
from txm_stream.errors import BadProfileError, BadStackError
from txm_stream.frames import Frame
from txm_stream.profile import Group, Profile
from txm_stream.simulated_devices import simulated_beamline

FXI = Profile.load(Path(__file__).parents[1] / "profiles" / "fxi.toml")
ENERGIES = [8320.0, 8336.0, 8340.0, 8343.0, 8346.0, 8349.0, 8353.0, 8400.0]
Documents = list[tuple[str, dict[str, Any]]]


def profile(**group: Any) -> Profile:
    return FXI.model_copy(update={"group": FXI.group.model_copy(update=group)})


def documents_of(plan: Any, engine: RunEngine | None = None) -> Documents:
    documents: Documents = []
    engine = engine or RunEngine({}, context_managers=[])
    engine(plan, lambda name, document: documents.append((name, document)))
    return documents


def scan_documents(energies: list[float] = ENERGIES[:3], **options: Any) -> Documents:
    txm = simulated_beamline("fxi", (32, 36), energies_eV=energies)
    return documents_of(fxi_xanes_3d(txm, energies, n_projections=10, **options))


def grouped(documents: Documents, groups: RunGroups) -> Documents:
    return [(kind, dict(facts)) for name, document in documents for kind, facts in groups(name, document)]


def starts(documents: Documents) -> list[str]:
    return [document["uid"] for name, document in documents if name == "start"]


def stops(documents: Documents) -> list[str]:
    return [document["run_start"] for name, document in documents if name == "stop"]


def frames_of(documents: Documents, rules: Profile) -> list[Frame]:
    groups, assembler = RunGroups(rules), FrameAssembler(rules, last_patience_s=1.0)
    together = grouped(documents, groups) + [(name, dict(facts)) for name, facts in groups.close()]
    frames = [frame for name, document in together for frame in assembler(name, document)]
    assert assembler.lost == []
    assert assembler.stop is not None
    assert assembler.runs == starts(documents)
    return frames


def primaries(documents: Documents) -> list[str]:
    return [facts["uid"] for name, facts in documents if name == "descriptor" and facts["name"] == "primary"]


def test_the_runs_of_a_scan_give_its_frames() -> None:
    frames = frames_of(scan_documents(), profile(frames=(1, 7)))
    samples = [frame for frame in frames if frame.role == "sample"]
    assert [(frame.energy_eV, frame.position) for frame in samples] == [
        (energy, position) for energy in ENERGIES[:3] for position in (0, 1)
    ]
    assert all(frame.image.shape == (32, 36) for frame in samples)
    flats = [frame for frame in frames if frame.role == "flat"]
    assert [frame.energy_eV for frame in flats] == ENERGIES[:3]
    assert flats[0].image.shape == (5, 32, 36)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_wanted_projections_are_taken_whatever_the_form(form: str, tmp_path: Path) -> None:
    rules = Profile(group=Group(plans=("xanes",), frames=(1, 6)))
    documents = run_documents(form, tmp_path, n=3, shape=(3, 8, 6))
    assembler = FrameAssembler(Profile())
    every = [frame.image for entry in documents for frame in assembler(*entry) if frame.role == "sample"]
    documents[0][1]["note"] = "a_energy=8.32"
    found = [frame for frame in frames_of(documents, rules) if frame.role == "sample"]
    assert [frame.position for frame in found] == [0, 1]
    np.testing.assert_array_equal(found[0].image, every[0][1])
    np.testing.assert_array_equal(found[1].image, every[2][0])


def test_a_scan_ends_when_no_run_follows_or_another_begins_or_all_planned_are_there() -> None:
    now = [0.0]
    groups = RunGroups(profile(patience_s=60.0), clock=lambda: now[0])
    first = scan_documents(note="a")
    seen = grouped(first, groups)
    scan = starts(first)[0]
    assert (starts(seen), stops(seen)) == ([scan], [])
    assert sum(name == "part" for name, _ in seen) == 2
    now[0] = 59.0
    assert groups.overdue() == []
    now[0] = 60.0
    ((name, stop),) = groups.overdue()
    assert (name, stop["run_start"], stop["exit_status"]) == ("stop", scan, "success")
    second, third = scan_documents(note="a"), scan_documents(note="b")
    seen = grouped(second + third, groups)
    assert starts(seen) == [starts(second)[0], starts(third)[0]]
    assert stops(seen) == [starts(second)[0]]
    again = scan_documents(note="b")  # the first energy once more: another scan
    assert stops(grouped(again, groups)) == [starts(third)[0]]
    planned = scan_documents(note="c", md={"num_eng": 3})
    assert stops(grouped(planned, groups)) == [starts(again)[0], starts(planned)[0]]
    assert groups.close() == []


def test_other_runs_pass_as_they_are_and_a_start_that_comes_again_is_no_energy() -> None:
    groups = RunGroups(FXI)
    documents = scan_documents()
    tomography = [(name, dict(document)) for name, document in scan_documents()]
    for name, document in tomography:
        if name == "start":
            document["note"] = "no energy"
    assert grouped(tomography, groups) == tomography
    assert grouped(documents, RunGroups(Profile())) == documents
    begun = grouped(documents[:1], groups)
    assert grouped(documents[:1], groups) == begun
    part = next(entry for entry in documents if entry[0] == "start" and entry[1] is not documents[0][1])
    assert [name for name, _ in grouped([part], groups)] == ["part"]
    assert grouped([part], groups) == []


def test_an_event_that_never_came_is_missed_in_its_own_run() -> None:
    documents = scan_documents()
    primary = [d["uid"] for name, d in documents if name == "descriptor" and d["name"] == "primary"]
    index = next(i for i, (name, d) in enumerate(documents) if name == "event" and d["descriptor"] == primary[1])
    del documents[index]
    groups, assembler = RunGroups(FXI), FrameAssembler(FXI, last_patience_s=1.0)
    for name, document in grouped(documents, groups):
        list(assembler(name, document))
    assert [(lost.stream, lost.seq, lost.run) for lost in assembler.lost] == [("primary", 1, starts(documents)[1])]


def test_a_run_that_is_too_short_lacks_its_projection_by_name() -> None:
    assembler = FrameAssembler(profile(frames=(0, 7)), last_patience_s=1.0)
    documents = scan_documents()
    events = {
        name: [d for kind, d in documents if kind == "event" and d["descriptor"] == name]
        for name in primaries(documents)
    }
    short = events[primaries(documents)[1]][1]
    counts = next(d for name, d in documents if name == "stop" and d["run_start"] == starts(documents)[1])
    counts["num_events"]["primary"] = 1
    documents = [entry for entry in documents if entry[1] is not short]
    for name, document in grouped(documents, RunGroups(FXI)):
        list(assembler(name, document))
    (lost,) = assembler.lost
    assert str(lost) == f"projection 7 of run {starts(documents)[1][:8]} (the run has 5 frames)"


@pytest.mark.parametrize("form", ["stream_hdf5", "stream_4d"])
def test_detectors_without_events_lose_nothing_in_a_part(form: str, tmp_path: Path) -> None:
    runs: Documents = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        one = run_documents(form, folder, n=1, shape=(3, 8, 6), seed=seed)
        one[0][1].update(note=f"a_energy={seed}", XEng=8.32 + 0.01 * seed)
        runs += [entry for entry in one if entry[0] != "event"]
    frames = frames_of(runs, Profile(group=Group(plans=("xanes",), frames=(1,))))
    samples = [(frame.energy_eV, frame.seq) for frame in frames if frame.role == "sample"]
    assert samples == [(pytest.approx(8320.0), 1), (pytest.approx(8330.0), 2)]


def test_a_lost_stop_document_holds_nothing_up() -> None:
    now = [0.0]
    groups = RunGroups(profile(patience_s=60.0), clock=lambda: now[0])
    documents = scan_documents(md={"num_eng": 3})
    first_stop = next(entry for entry in documents if entry[0] == "stop")
    seen = grouped([entry for entry in documents if entry is not first_stop], groups)
    assert stops(seen) == []  # two energies are known to be done
    assert [entry[0] for entry in groups.close()] == ["stop"]
    last_stop = next(entry for entry in reversed(documents) if entry[0] == "stop")
    grouped([entry for entry in documents if entry is not last_stop], groups)
    now[0] = 719.0
    assert groups.overdue() == []
    now[0] = 720.0
    assert len(groups.overdue()) == 1
    assert groups._scans == {}


def test_what_is_long_ago_is_another_scan_and_so_is_an_energy_that_its_plan_names_again() -> None:
    documents, later = scan_documents(), scan_documents([8330.0, 8340.0])
    for name, document in later:
        if name in ("start", "stop"):
            document["time"] += 3600.0
    groups = RunGroups(profile(patience_s=60.0))
    seen = grouped(documents + later, groups)
    assert starts(seen) == [starts(documents)[0], starts(later)[0]]
    noisy = scan_documents()
    for name, document in noisy:
        if name == "start":
            document["XEng"] += 2e-5  # a motor's read-back
    groups = RunGroups(FXI)
    seen = grouped(documents + noisy, groups)
    assert starts(seen) == [starts(documents)[0], starts(noisy)[0]]


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadProfileError, match="frames must ascend"):
        Profile.from_fields({"group": {"plans": ["fly_scan"], "frames": [3, 3]}})
    with pytest.raises(BadProfileError, match=r"group\.frames"):
        Profile.from_fields({"group": {"frames": [-1]}})
    txm = simulated_beamline("fxi", (32, 36), energies_eV=ENERGIES)
    with pytest.raises(BadStackError, match="n_projections is 7"):
        list(fxi_xanes_3d(txm, ENERGIES, n_projections=7))


# -- through stream, server, watch and replay


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("groups")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(folder / "server", readable_storage=[folder / "camera"]) as embedded:
        yield embedded


@pytest.fixture(scope="module")
def rules(folder: Path) -> Profile:
    return profile(frames=(0, 6), patience_s=60.0).model_copy(update={"scratch_dir": folder / "scratch"})


@pytest.fixture(scope="module")
def engine() -> Iterator[RunEngine]:
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(5)
    engine.loop.close()


@pytest.fixture(scope="module")
def uids(folder: Path, server: EmbeddedServer, rules: Profile, engine: RunEngine) -> tuple[str, ...]:
    """Runs of a scan that a subscribed stream has processed."""
    txm = simulated_beamline(
        "fxi", (48, 40), energies_eV=ENERGIES, delivery="hdf5", directory=folder / "camera", photons=20_000
    )
    with XanesStream(rules, tiled=server.client()) as stream:
        tokens = [engine.subscribe(stream), engine.subscribe(TiledWriter(server.client(), batch_size=1))]
        runs: tuple[str, ...] = engine(fxi_xanes_3d(txm, ENERGIES, note="grain 3"))
        for token in tokens:
            engine.unsubscribe(token)
    report = stream.wait(0)  # of the last run: it is the scan's, which ended with the stream
    assert report is not None
    assert stream.wait(0, run_uid=runs[0]) is report
    assert (report.run_uid, report.status, report.reason) == (runs[0], "final", "")
    assert (report.visits, report.frames_lost) == (2 * len(ENERGIES), ())
    return runs


def test_a_scan_has_one_result_per_projection_that_names_its_runs(
    uids: tuple[str, ...], server: EmbeddedServer
) -> None:
    assert len(uids) == len(ENERGIES)
    results = server.client()["fxi", "processed", "txm_stream"]
    assert list(results) == [uids[0]]
    for position, projection in enumerate((0, 6)):
        tree = results[uids[0], f"position_{position}"]
        assert tree.metadata["status"] == "final"
        assert tree.metadata["raw_uids"] == list(uids)
        assert tree.metadata["projection"] == projection
        np.testing.assert_allclose(tree["final", "energies_eV"].read(), ENERGIES, atol=1e-6)


@pytest.mark.parametrize("which", [0, 5])
def test_a_replay_of_any_of_its_runs_gives_the_scan_as_it_was_live(
    which: int, uids: tuple[str, ...], server: EmbeddedServer, rules: Profile
) -> None:
    runs = find_scan(server.client(), uids[which], rules)
    assert [run.start["uid"] for run in runs] == list(uids)
    report = replay(runs, profile=rules)
    assert (report.run_uid, report.status, report.frames_lost) == (uids[0], "final", ())
    assert report.result is not None
    live = server.client()["fxi", "processed", "txm_stream", uids[0], "position_0", "final"]
    for name, image in report.result.images().items():
        np.testing.assert_array_equal(np.asarray(image), np.asarray(live[name].read()), err_msg=name)


def test_a_stored_scan_of_one_run_is_found_as_ever(
    uids: tuple[str, ...], server: EmbeddedServer, engine: RunEngine, rules: Profile
) -> None:
    txm = simulated_beamline("fxi", (32, 36), energies_eV=ENERGIES)
    (uid,) = engine(xanes_scan(txm, [8320.0, 8400.0]), TiledWriter(server.client(), batch_size=1))
    (run,) = find_scan(server.client(), uid, rules)
    assert run.start["uid"] == uid


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # Tiled's own
def test_a_watch_that_is_stopped_in_the_middle_of_a_scan_goes_on_with_it(
    uids: tuple[str, ...], server: EmbeddedServer, engine: RunEngine, rules: Profile, folder: Path
) -> None:
    client = server.client()
    target = client.create_container("watched")
    rules = rules.model_copy(update={"results_path": ()})
    txm = simulated_beamline("fxi", (48, 40), energies_eV=ENERGIES, photons=20_000)
    writer = TiledWriter(client, batch_size=1)
    runs: list[str] = []

    def watch(energies: list[float], *, finish: bool) -> Watch:
        with_folder = WatchFolder(folder / "watch", "raw", "watched", keep_documents=False)
        ended = threading.Event()
        with Watch(target, rules, with_folder) as watching:
            watching.resume()
            source = TiledSource(
                client,
                rules,
                since=with_folder.since,
                resumed=with_folder.resumed,
                wanted=watching.wanted,
                interesting=watching.is_interesting,
            )
            thread = threading.Thread(
                target=lambda: watching.follow(source, ended, most_runs=1 if finish else None), daemon=True
            )
            thread.start()
            if energies:
                plan = fxi_xanes_3d(txm, energies, note="grain 4", md={"num_eng": len(ENERGIES)})
                runs.extend(engine(plan, writer))
            else:
                time.sleep(5.0)
            deadline = time.monotonic() + 60
            while not finish and len(watching._stopped) < len(energies) and time.monotonic() < deadline:
                time.sleep(0.1)
            if not finish:
                ended.set()
            thread.join(90)
            assert not thread.is_alive()
        with_folder.close()
        return watching

    first = watch(ENERGIES[:3], finish=False)
    assert (first.reports, [report.visits for report in first.cut]) == ([], [6])
    second = watch(ENERGIES[3:], finish=True)
    (report,) = second.reports
    assert (report.run_uid, report.status, report.visits) == (runs[0], "final", 2 * len(ENERGIES))
    assert target[runs[0], "position_1"].metadata["raw_uids"] == runs
    third = watch([], finish=False)  # everything is done
    assert (third.reports, third.cut, third._starts) == ([], [], {})
    assert list(target) == [runs[0]]
