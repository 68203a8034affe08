"""The plans of three beamlines, simulated, through RunEngine, profile and pipeline: the same map as the plain scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine

from txm_stream.callbacks.beamline_plans import aps_xanes, fxi_xanes, ssrl_xanes
from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.errors import BadFrameError, BadStackError
from txm_stream.frames import Frame
from txm_stream.judgement import judge
from txm_stream.phantoms import Truth, nickel_energies, nickel_states
from txm_stream.pipeline import Pipeline
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM, simulated_beamline
from txm_stream.unmixing.references import References

PROFILES = Path(__file__).parents[1] / "profiles"
ENERGIES = [round(float(energy), 2) for energy in nickel_energies(32)]
SHAPE = (96, 96)
GRID = np.arange(8200.0, 8600.0, 0.25)
REFERENCES = References(nickel_states(2).names, GRID, nickel_states(2)(GRID))
Documents = list[tuple[str, dict[str, Any]]]


def documents_of(plan: Any) -> Documents:
    documents: Documents = []
    engine = RunEngine({}, context_managers=[])
    engine(plan, lambda name, document: documents.append((name, document)))
    return documents


def frames_of(documents: Documents, name: str) -> list[Frame]:
    assembler = FrameAssembler(Profile.load(PROFILES / f"{name}.toml"), last_patience_s=1.0)
    frames = [frame for kind, document in documents for frame in assembler(kind, document)]
    assert not assembler.lost
    assembler.close()
    return frames


def map_error(frames: list[Frame], name: str, truth: Truth) -> float:
    """Return the abundance RMSE of the pixels inside the particles that have a map."""
    with Pipeline(Profile.load(PROFILES / f"{name}.toml"), references=REFERENCES) as pipeline:
        for frame in frames:
            pipeline.keep(frame)
        result = pipeline.finish()
    verdict = judge(result, truth)
    assert verdict.map_coverage > 0.95
    return verdict.mapped_rmse


@pytest.fixture(scope="module")
def plain() -> float:
    txm = SimulatedTXM(SHAPE, chunk_size=5)
    return map_error(frames_of(documents_of(xanes_scan(txm, ENERGIES)), "sim"), "sim", txm.truth())


SCANS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "fxi xanes_scan2": ("fxi", fxi_xanes),
    "fxi xanes_scan": ("fxi", lambda txm, energies: fxi_xanes(txm, energies, flats="last")),
    "ssrl_6_2c": ("ssrl_6_2c", ssrl_xanes),
    "aps_32id": ("aps_32id", aps_xanes),
}


@pytest.mark.parametrize(("scan", "delivery"), list(zip(SCANS, ["hdf5", "inline"] * 2, strict=True)))
def test_every_beamline_ends_with_the_map_of_the_plain_scan(
    scan: str, delivery: str, plain: float, tmp_path: Path
) -> None:
    name, plan = SCANS[scan]
    txm = simulated_beamline(name, SHAPE, energies_eV=ENERGIES, delivery=delivery, directory=tmp_path)
    found = map_error(frames_of(documents_of(plan(txm, ENERGIES)), name), name, txm.truth())
    print(f"{scan}: RMSE {found:.4f}, plain scan {plain:.4f}")
    assert found < 1.25 * plain


def test_flats_after_each_energy_or_all_at_the_end_give_the_same_final_result() -> None:
    """The same arrays, in the two orders of FXI's plans."""
    per_energy = documents_of(xanes_scan(SimulatedTXM(SHAPE, chunk_size=5), ENERGIES))
    flats = {document["uid"] for kind, document in per_energy if kind == "descriptor" and document["name"] == "flat"}
    late = [kind == "event" and document["descriptor"] in flats for kind, document in per_energy]
    assert sum(late) == len(ENERGIES)
    flats_last = [entry for entry, is_late in zip(per_energy, late, strict=True) if not is_late]
    flats_last[-1:-1] = [entry for entry, is_late in zip(per_energy, late, strict=True) if is_late]
    moments = iter(sorted(document["time"] for kind, document in per_energy if kind == "event"))
    flats_last = [
        (kind, document | {"time": next(moments)} if kind == "event" else document) for kind, document in flats_last
    ]
    results = []
    for documents in (per_energy, flats_last):
        with Pipeline(Profile(), references=REFERENCES) as pipeline:
            for frame in frames_of(documents, "sim"):
                pipeline.keep(frame)
            results.append(pipeline.finish())
    one, other = results
    for name in ("denoised", "phase_map", "phase_sigma", "shifts_px", "scale"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=0, atol=1e-5, err_msg=name)


def test_fxi_has_its_streams_keys_and_traps(tmp_path: Path) -> None:
    txm = simulated_beamline("fxi", (32, 32), energies_eV=ENERGIES, delivery="hdf5", directory=tmp_path)
    documents = documents_of(fxi_xanes(txm, [8340.0, 8350.0]))
    (start,) = [document for kind, document in documents if kind == "start"]
    assert start["plan_name"] == "xanes_scan2"
    assert start["plan_args"]["eng_list"] == "eng_list"
    assert start["eng_list"] == [8.34, 8.35]
    streams = {document["uid"]: document for kind, document in documents if kind == "descriptor"}
    assert {stream["name"] for stream in streams.values()} == {"baseline", "dark", "primary", "flat"}
    (primary,) = [stream for stream in streams.values() if stream["name"] == "primary"]
    assert primary["data_keys"]["Andor_image"]["shape"] == [5, 32, 32]
    assert sum(kind == "resource" for kind, _ in documents) > 4, "the camera is staged anew for flats"
    energies = [d["data"]["XEng"] for kind, d in documents if kind == "event" and d["descriptor"] == primary["uid"]]
    assert energies == [8.34, 8.35]


def test_fxi_positions_and_passes_come_out_in_turn() -> None:
    txm = simulated_beamline("fxi", (32, 32), energies_eV=ENERGIES)
    documents = documents_of(fxi_xanes(txm, [8340.0, 8350.0], n_positions=3, n_passes=2))
    samples = [frame for frame in frames_of(documents, "fxi") if frame.role == "sample"]
    assert [frame.position for frame in samples] == [0, 1, 2] * 4
    assert [frame.energy_eV for frame in samples] == pytest.approx(([8340.0] * 3 + [8350.0] * 3) * 2)


def test_ssrl_has_flats_of_their_own_exposure_before_or_after_the_sample() -> None:
    txm = simulated_beamline("ssrl_6_2c", (32, 32), energies_eV=ENERGIES)
    documents = documents_of(ssrl_xanes(txm, [8340.0, 8350.0, 8360.0]))
    frames = frames_of(documents, "ssrl_6_2c")
    assert [frame.role for frame in frames[1:]] == ["sample", "flat", "flat", "sample", "sample", "flat"]
    assert {frame.image.shape for frame in frames if frame.role == "sample"} == {(3, 32, 32)}
    assert {frame.image.shape for frame in frames if frame.role == "flat"} == {(10, 32, 32)}
    assert [frame.exposure_s for frame in frames if frame.role == "flat"] == pytest.approx([0.06] * 3)
    shapes = {d["name"]: d["data_keys"]["camera_image"]["shape"] for kind, d in documents if kind == "descriptor"}
    assert shapes == {"dark": [3, 32, 32], "primary": [3, 32, 32], "flat": [10, 32, 32]}
    assert txm.camera.chunk_size.get() == 3, "the camera is left as it was"


def test_aps_has_no_darks_and_all_read_backs() -> None:
    txm = simulated_beamline("aps_32id", (32, 32), energies_eV=ENERGIES)
    documents = documents_of(aps_xanes(txm, [8340.0, 8350.0]))
    assert [frame.role for frame in frames_of(documents, "aps_32id")] == ["sample", "flat"] * 2
    event = next(document for kind, document in documents if kind == "event")
    assert {"energy", "zone_plate", "sample_x", "camera_image"} <= set(event["data"])


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadFrameError, match="fxi, ssrl_6_2c, aps_32id"):
        simulated_beamline("esrf", energies_eV=ENERGIES)
    txm = simulated_beamline("fxi", (32, 32), energies_eV=ENERGIES)
    with pytest.raises(BadStackError, match="at least one energy"):
        list(fxi_xanes(txm, []))
    with pytest.raises(BadStackError, match="'each', 'last' or 'none'"):
        list(fxi_xanes(txm, [8340.0], flats="some"))
