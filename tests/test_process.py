"""Processing of measured stacks: files in, one file and one figure out; halves of a scan agree; warnings; bad input."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from txm_stream.errors import BadProfileError, BadReferenceError, BadStackError
from txm_stream.io import read_result, read_stack
from txm_stream.metrics import map_correlation
from txm_stream.phantoms import make_phantom, nickel_energies, nickel_states
from txm_stream.process import process_file
from txm_stream.profile import Profile
from txm_stream.unmixing import References, unmix_stack

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
measured = pytest.mark.skipif(not DATA.is_dir(), reason="measured data of ../shared/data are not here")
HXN, ALS = DATA / "hxn_fe_k/test_stack.tiff", DATA / "als11022_stxm_Fe_L23_71214078.h5"
LIBRARY = DATA / "hxn_fe_k/test_ref_athena.nor"
ENERGIES = nickel_energies(36)
GRID = np.arange(8230.0, 8470.0, 0.5)
STILL = Profile(registration=False)


def write_columns(path, columns, names):
    header = "# XDI/1.0\n" + "\n".join(f"# Column.{i + 1}: {n}" for i, n in enumerate(names)) + "\n#----\n"
    rows = "\n".join(" ".join(f"{value:.7g}" for value in row) for row in columns)
    path.write_text(header + rows + "\n")
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A small optical-density stack on disk, its phantom, and references as a file per state and as a library."""
    folder = tmp_path_factory.mktemp("scan")
    phantom = make_phantom((96, 96), seed=11)
    clean = phantom.stack(ENERGIES)
    stack = (clean + 0.04 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    with h5py.File(folder / "scan.h5", "w") as file:
        file["optical_density"], file["energy"] = stack, ENERGIES / 1000
    mu = nickel_states(5)(GRID)
    names = ["energy", *nickel_states(5).names, "Ni2+copy"]
    library = write_columns(folder / "library.nor", np.column_stack([GRID, mu, mu[:, 2] + 1e-5]), names)
    two = [
        write_columns(
            folder / f"ref_{name}.nor", np.column_stack([GRID, nickel_states(2)(GRID)[:, j]]), ["energy", name]
        )
        for j, name in enumerate(("Ni2", "Ni3"))
    ]
    return folder, phantom, stack, two, library


@pytest.fixture(scope="module")
def processed(scan):
    folder, _, _, two, _ = scan
    steps = []
    report = process_file(
        folder / "scan.h5",
        references=two,
        output=folder / "out.h5",
        profile=STILL,
        progress=lambda done, total: steps.append((done, total)),
    )
    return report, steps


def test_a_stack_becomes_a_map_file_and_a_figure(scan, processed):
    _, phantom, _, _, _ = scan
    report, steps = processed
    assert (report.energies, report.states, report.map_method) == (36, ("Ni2", "Ni3"), "rum+")
    assert report.signal == "optical-density"
    assert report.visits_in_fit == 36
    assert report.sigma == pytest.approx(0.04, rel=0.05)
    assert steps[-1] == (37, 37)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert report.figure.read_bytes().startswith(b"\x89PNG")
    result = read_result(report.output)
    assert map_correlation(result.phase_map, phantom.abundances, phantom.inside) > 0.97
    inside = phantom.inside
    error = np.sqrt(np.nanmean((result.phase_map - phantom.abundances)[:, inside] ** 2))
    assert report.predicted_rmse == pytest.approx(error, rel=0.35)
    assert set(result.provenance["reference_files_sha256"]) == {"ref_Ni2.nor", "ref_Ni3.nor"}
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert {"energies", "states", "rank", "sigma", "predicted_rmse", "output"} <= set(summary)


def test_the_default_output_is_in_the_current_directory(scan, tmp_path, monkeypatch):
    folder, _, _, two, _ = scan
    monkeypatch.chdir(tmp_path)
    report = process_file(folder / "scan.h5", references=two, method="lcf", profile=STILL)
    assert report.output == tmp_path / "scan_txm.h5"
    assert report.figure == tmp_path / "scan_txm.png"
    assert report.map_method == "lcf"
    assert read_result(report.output).map_method == "lcf"


def test_columns_of_a_library_are_chosen_and_named(scan, tmp_path):
    folder, phantom, _, _, library = scan
    report = process_file(folder / "scan.h5", references=library, output=tmp_path / "a.h5", profile=STILL)
    assert set(report.states) in ({"Ni2+", "Ni3+"}, {"Ni2+copy", "Ni3+"})
    note = next(line for line in report.warnings if "6 columns" in line)
    assert all(name in note for name in report.states)
    by_hand = process_file(
        folder / "scan.h5", references=f"{library}::Ni3+,Ni2+", output=tmp_path / "b.h5", profile=STILL
    )
    assert by_hand.states == ("Ni3+", "Ni2+")
    assert not any("columns" in line for line in by_hand.warnings)
    result = read_result(by_hand.output)
    assert map_correlation(result.phase_map[::-1], phantom.abundances, phantom.inside) > 0.97


def test_without_references_states_are_found_in_the_stack(scan, tmp_path):
    folder, phantom, _, two, _ = scan
    reports = [
        process_file(folder / "scan.h5", output=tmp_path / "a.h5", profile=STILL),
        process_file(folder / "scan.h5", references=two, method="vca", output=tmp_path / "b.h5", profile=STILL),
    ]
    for report in reports:
        assert report.map_method == "vca+rum+"
        result = read_result(report.output)
        assert np.isfinite(result.edge50[phantom.inside]).mean() > 0.9
        assert result.provenance["reference_files_sha256"] == {}
    correlation = map_correlation(result.phase_map[:1], phantom.abundances[:1], phantom.inside)
    assert len(result.phase_map) == 2
    assert correlation > 0.9


def test_uncovered_energies_are_left_out_with_a_count(scan, tmp_path):
    folder, _, _, _, _ = scan
    near = GRID[(GRID >= 8320) & (GRID <= 8400)]
    states = nickel_states(2)
    references = References(states.names, near, states(near))
    report = process_file(folder / "scan.h5", references=references, output=tmp_path / "a.h5", profile=STILL)
    outside = int(np.sum(np.abs(ENERGIES - 8360) > 40))
    assert any(f"{outside} of 36 visits lie outside" in line for line in report.warnings)
    assert report.visits_in_fit <= 36 - outside


def test_raw_counts_with_flats_and_darks(scan, tmp_path):
    _, phantom, _, two, _ = scan
    rng = np.random.default_rng(0)
    transmitted = np.exp(-phantom.stack(ENERGIES))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["exchange/data"] = (100 + rng.poisson(900 * transmitted)).astype(np.uint16)
        file["exchange/data_white"] = (100 + rng.poisson(900, (36, 96, 96))).astype(np.uint16)
        file["exchange/data_dark"] = np.full((3, 96, 96), 100, dtype=np.uint16)
        file["exchange/energy"] = ENERGIES
    report = process_file(tmp_path / "raw.h5", references=two, output=tmp_path / "a.h5")
    result = read_result(report.output)
    assert report.signal == "counts"
    assert report.shift_rms_px < 0.06  # nothing moved
    assert map_correlation(result.phase_map, phantom.abundances, phantom.inside) > 0.97


def test_unusual_but_legal_stacks_give_a_result_with_a_warning(scan, tmp_path):
    _, phantom, stack, two, _ = scan
    order = np.random.default_rng(3).permutation(36)
    order = np.concatenate([order, order[:3]])  # unsorted, three energies twice
    odd = stack[order]
    odd[4] = np.nan
    odd[:, 30, 31] = np.nan
    tifffile.imwrite(tmp_path / "odd_stack.tiff", odd)
    np.savetxt(tmp_path / "odd_energy.txt", ENERGIES[order] / 1000)
    report = process_file(tmp_path / "odd_stack.tiff", references=two, output=tmp_path / "a.h5", profile=STILL)
    assert any("rejected" in line for line in report.warnings)
    assert report.visits_in_fit == 38
    result = read_result(report.output)
    assert np.isnan(result.phase_map[:, 30, 31]).all()
    assert map_correlation(result.phase_map, phantom.abundances, phantom.inside) > 0.97


def test_a_fit_that_contradicts_itself_says_so(scan, tmp_path):
    folder, _, _, _, _ = scan
    states = nickel_states(2)
    away = References(states.names, GRID, states(GRID + 2.0))
    report = process_file(folder / "scan.h5", references=away, output=tmp_path / "a.h5", profile=STILL)
    assert any("check the energy calibration" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "nowhere.h5"}, BadStackError, "no such file"),
        ({"method": "magic"}, BadProfileError, "allowed are: auto"),
        ({"method": "rum+"}, BadReferenceError, "needs reference spectra"),
        ({"energies": ENERGIES[:7]}, BadStackError, "7 energies"),
        ({"references": ["nowhere.nor"]}, BadReferenceError, "no such file"),
    ],
)
def test_bad_input_is_one_clear_line(scan, tmp_path, change, error, message):
    folder, _, _, _, _ = scan
    arguments = {"path": folder / "scan.h5", "output": tmp_path / "never.h5"} | change
    with pytest.raises(error, match=message) as caught:
        process_file(arguments.pop("path"), **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never.h5").exists()


def halves_agree(path, signal, references, folder, profile, capsys):
    """Correlate the maps of even and odd energies: ours, and least squares of the same registered halves."""
    stack = read_stack(path, signal=signal)
    maps = []
    for half in (0, 1):
        file = folder / f"half{half}.h5"
        with h5py.File(file, "w") as out:
            out["stack"], out["energy"] = stack.frames[half::2], stack.energies_eV[half::2]
        report = process_file(
            file, references=references, signal=stack.signal, output=folder / f"out{half}.h5", profile=profile
        )
        result = read_result(report.output)
        plain = unmix_stack(
            result.noisy,
            result.references,
            energies_eV=result.energies_eV,
            method="lcf",
            sigma=np.array([row.sigma if row.sigma > 0 else 1.0 for row in result.metrics]),
            mask=result.mask,
        )
        maps.append((result.phase_map, plain.abundances))
    where = np.logical_and.reduce([np.isfinite(image).all(axis=0) for pair in maps for image in pair])
    ours, least_squares = (
        float(np.mean([np.corrcoef(a[where], b[where])[0, 1] for a, b in zip(*pair, strict=True)]))
        for pair in zip(*maps, strict=True)
    )
    with capsys.disabled():
        print(f"\nhalves of {path.name}: {ours:.4f}, least squares {least_squares:.4f} ({where.sum()} pixels)")
    return ours, least_squares


def test_halves_of_a_synthetic_scan_agree_better_than_least_squares(scan, tmp_path, capsys):
    folder, _, _, two, _ = scan
    ours, plain = halves_agree(folder / "scan.h5", "optical-density", two, tmp_path, STILL, capsys)
    assert ours > plain + 0.05
    assert ours > 0.9


@pytest.mark.slow
@measured
def test_halves_of_the_fluorescence_stack_agree_better_than_least_squares(tmp_path, capsys):
    report = process_file(HXN, references=LIBRARY, signal="fluorescence", output=tmp_path / "full.h5")
    assert any("20 of 57 visits lie outside" in line for line in report.warnings)
    note = next(line for line in report.warnings if "9 columns" in line)
    assert 2 <= len(report.states) <= 4
    assert all(name in note for name in report.states)
    chosen = f"{LIBRARY}::{','.join(report.states)}"
    ours, plain = halves_agree(HXN, "fluorescence", chosen, tmp_path, Profile(), capsys)
    assert ours > plain


@pytest.mark.slow
@measured
def test_halves_of_the_transmission_stack_agree_better_than_least_squares(tmp_path, capsys):
    report = process_file(ALS, signal="transmission", output=tmp_path / "full.h5")
    assert report.map_method == "vca+rum+"
    assert report.shift_rms_px < 0.1  # it came registered
    full = read_result(report.output)
    found = References(full.states, full.energies_eV, full.references)
    ours, plain = halves_agree(ALS, "transmission", found, tmp_path, Profile(), capsys)
    assert ours > plain + 0.05
