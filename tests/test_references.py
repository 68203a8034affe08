"""Reference spectra: every file format, normalisation, interpolation, conditioning."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.edge_step import find_edge_eV, normalise, sort_and_average
from txm_stream.unmixing.references import References, load_references

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
measured = pytest.mark.skipif(not DATA.is_dir(), reason="measured data of ../shared/data are not here")
GRID = np.arange(8250.0, 8750.0, 0.5)


def spectrum(energies_eV, edge_eV=8343.0, white_line=0.6):
    """Edge jump of exactly 1 at large energies: arctan step and a white line."""
    x = np.asarray(energies_eV) - edge_eV
    return 0.5 + np.arctan(x / 1.2) / np.pi + white_line * np.exp(-(((x - 5.0) / 3.0) ** 2))


def write_columns(path, *columns, header="", separator=" "):
    rows = (separator.join(f"{value:.8g}" for value in row) for row in zip(*columns, strict=True))
    path.write_text(header + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("scale", [0.05, 1.0, 7.0])
def test_raw_absorption_is_normalised_to_its_edge_jump(scale):
    background = 0.4 + 2.0 - 0.002 * (GRID - 8300.0)
    step = normalise(GRID, scale * (spectrum(GRID) + background))
    assert not step.already_normalised
    assert step.step == pytest.approx(scale, rel=0.03)
    assert step.e0_eV == pytest.approx(8343.0, abs=1.5)
    np.testing.assert_allclose(step.mu, spectrum(GRID), atol=0.04)


def test_xanes_only_range_keeps_its_edge_jump():
    near = GRID[(GRID > 8315.0) & (GRID < 8390.0)]
    step = normalise(near, 3.0 * spectrum(near) + 0.7)
    assert step.step == pytest.approx(3.0, rel=0.1)  # the tails of the edge tilt a short pre-edge line


def test_normalised_spectrum_is_left_alone():
    step = normalise(GRID, spectrum(GRID))
    assert step.already_normalised
    np.testing.assert_array_equal(step.mu, spectrum(GRID))


def test_noise_and_missing_points_do_not_move_the_edge():
    rng = np.random.default_rng(1)
    mu = 0.3 * spectrum(GRID) + 1.0 + rng.normal(0, 0.003, len(GRID))
    mu[[3, 200]] = np.nan
    step = normalise(GRID, mu)
    assert step.step == pytest.approx(0.3, rel=0.03)
    assert step.e0_eV == pytest.approx(8343.5, abs=2.0)


@pytest.mark.parametrize(
    ("energies", "mu", "message"),
    [
        (GRID[:4], spectrum(GRID[:4]), "at least 6"),
        (GRID, np.random.default_rng(0).normal(1.0, 0.1, len(GRID)), "no edge found"),
        (GRID, -spectrum(GRID), "edge"),
    ],
)
def test_spectra_without_an_edge_are_refused(energies, mu, message):
    with pytest.raises(BadReferenceError, match=message):
        normalise(energies, mu, name="sample")


def test_repeats_are_averaged():
    energies, values = sort_and_average(np.array([3.0, 1.0, 3.0, 2.0]), np.array([[4.0], [1.0], [6.0], [2.0]]))
    np.testing.assert_array_equal(energies, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(values[:, 0], [1.0, 2.0, 5.0])


def test_find_edge_ignores_a_glitch():
    mu = spectrum(GRID)
    mu[40] += 0.5
    assert find_edge_eV(GRID, mu) == pytest.approx(8343.0, abs=1.5)


@pytest.mark.parametrize("unit", ["eV", "keV"])
@pytest.mark.parametrize("separator", [" ", ",", "\t", " ; "])
def test_two_columns_in_any_dress(tmp_path, unit, separator):
    energies = GRID / (1000.0 if unit == "keV" else 1.0)
    header = f"# measured long ago\nenergy ({unit}){separator}mu\n"
    path = write_columns(tmp_path / "ref_NiO.txt", energies, spectrum(GRID), header=header, separator=separator)
    refs = load_references([path])
    assert refs.names == ("NiO",)
    np.testing.assert_allclose(refs.energies_eV, GRID, atol=1e-3)
    np.testing.assert_allclose(refs.mu[:, 0], spectrum(GRID), atol=1e-6)


def test_several_files_share_the_range_that_all_cover(tmp_path):
    coarse = np.arange(8200.0, 8700.0, 1.0)
    a = write_columns(tmp_path / "a.txt", GRID, spectrum(GRID))
    b = write_columns(tmp_path / "b.txt", coarse / 1000.0, spectrum(coarse, 8346.0))
    refs = load_references([a, b])
    assert refs.names == ("a", "b")
    assert refs.range_eV == (8250.0, 8699.0)
    assert refs.mu.shape == (len(refs.energies_eV), 2)
    np.testing.assert_allclose(refs.mu[:, 1], spectrum(refs.energies_eV, 8346.0), atol=0.01)


def test_athena_library_and_its_columns(tmp_path):
    near = np.arange(8300.0, 8370.0, 0.5)
    columns = [spectrum(near, edge) for edge in (8340.0, 8343.0, 8346.0)]
    header = (
        "# XDI/1.0 Demeter/0.9.26\n# Demeter.output_filetype: multicolumn normalized mu(E)\n# Column.1: energy eV\n"
        "# Column.2: metal\n# Column.3: oxide.avg\n# Column.4: peroxide\n#-----\n#  energy metal oxide.avg peroxide\n"
    )
    path = write_columns(tmp_path / "library.nor", near, *columns, header=header)
    refs = load_references(path)
    assert refs.names == ("metal", "oxide.avg", "peroxide")
    np.testing.assert_allclose(refs.mu, np.stack(columns, axis=1), atol=1e-6)
    assert load_references(path, columns=["peroxide", 0]).names == ("peroxide", "metal")
    with pytest.raises(BadReferenceError, match=r"no reference column .rust.; there are: metal, oxide\.avg, peroxide"):
        load_references(path, columns=["rust"])


@pytest.mark.parametrize("pack", [False, True])
def test_athena_project(tmp_path, pack):
    def block(group, label, mu, shift, **extra):
        arguments = "".join(f",'{key}','{value}'" for key, value in extra.items())
        listed = [",".join(f"'{v:.6f}'" for v in values) for values in (GRID, mu)]
        return (
            f"$old_group = '{group}';\n@args = ('label','{label}','bkg_eshift','{shift}'{arguments});\n"
            f"@x = ({listed[0]});\n@y = ({listed[1]});\n[record]   # create object\n\n"
        )

    text = "# Athena project file -- Demeter version 0.9.18\n" + block(
        "aaaa", "NiO", 0.8 * spectrum(GRID) + 0.1, 1.5, is_xmu="1"
    )
    text += block("bbbb", "NiO", spectrum(GRID), 0, is_nor="1") + block("cccc", "x", GRID, 0, is_chi="1")
    path = tmp_path / "two.prj"
    path.write_bytes(gzip.compress(text.encode()) if pack else text.encode())
    refs = load_references(path)
    assert refs.names == ("NiO", "NiO#2")
    probe = np.arange(8300.0, 8400.0, 1.0)
    np.testing.assert_allclose(refs.at(probe)[:, 1], spectrum(probe), atol=0.005)
    np.testing.assert_allclose(refs.at(probe)[:, 0], spectrum(probe, 8344.5), atol=0.04)


def test_xdi_with_intensities(tmp_path):
    i0 = np.full(len(GRID), 2e5) * (1 + 0.1 * np.sin(GRID / 50))
    header = (
        "# XDI/1.0\n# Column.1: energy eV\n# Column.2: i0\n# Column.3: itrans\n# Sample.name: nickel thing\n#----\n"
    )
    path = write_columns(tmp_path / "t.xdi", GRID, i0, i0 * np.exp(-0.5 * spectrum(GRID) - 0.3), header=header)
    np.testing.assert_allclose(load_references(path).mu[:, 0], spectrum(GRID), atol=0.04)
    fluorescence = write_columns(
        tmp_path / "f.xdi", GRID, i0, i0 * 0.02 * spectrum(GRID), header=header.replace("itrans", "ifluor")
    )
    np.testing.assert_allclose(load_references(fluorescence).mu[:, 0], spectrum(GRID), atol=0.04)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line with numbers"),
        (b"hello\nworld\n", "no line with numbers"),
        (b"8300 1\n8301 1 2\n", "line 2: 3 columns"),
        (b"\x00\x01\x02", "binary"),
        (b"\x1f\x8bbroken", "cannot be read"),
        (b"8300\n8301\n", "one column"),
        (b"# Athena project file\n$old_group = 'a';\n", "without a mu"),
    ],
)
def test_unreadable_files_say_what_is_allowed(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(BadReferenceError, match=message) as caught:
        load_references([path])
    assert "bad.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(BadReferenceError, match=r"nowhere\.txt: no such file"):
        load_references("nowhere.txt")


def test_a_calibration_costs_no_visit_at_the_end_of_the_range():
    energies = np.linspace(8300.0, 8400.0, 201)
    refs = References(("a",), energies, np.linspace(0, 1, 201)[:, None])
    np.testing.assert_allclose(refs.at([8300.0, 8400.0], shift_eV=-0.3)[:, 0], [0.0, 0.997])
    assert np.isnan(refs.at([8300.0], shift_eV=-1.5)).all()
    assert np.isnan(refs.at([8299.0, 8401.0])).all()


def test_edges_without_common_range_are_refused(tmp_path):
    a = write_columns(tmp_path / "a.txt", GRID, spectrum(GRID))
    b = write_columns(tmp_path / "b.txt", GRID - 1000.0, spectrum(GRID))
    with pytest.raises(BadReferenceError, match="no range in common"):
        load_references([a, b])


def two_states():
    return References(("a", "b"), GRID, np.stack([spectrum(GRID, 8343.0), spectrum(GRID, 8346.0, 0.9)], axis=1))


def test_at_interpolates_and_never_extrapolates():
    refs = two_states()
    energies = np.array([8345.23, 8249.9, 8343.0, 8343.0, 9000.0, 8250.0])
    values = refs.at(energies)
    assert values.dtype == np.float64
    assert np.isnan(values[[1, 4]]).all()
    inside = [0, 2, 3, 5]
    np.testing.assert_allclose(values[inside, 0], spectrum(energies[inside]), atol=0.002)
    np.testing.assert_array_equal(values[2], values[3])
    np.testing.assert_allclose(refs.at(energies[:1], shift_eV=0.77)[0, 0], spectrum(8346.0), atol=0.002)


def test_edge_energy_and_subset():
    refs = two_states()
    mean = 0.5 * (spectrum(GRID) + spectrum(GRID, 8346.0, 0.9))
    assert 8342.0 < refs.edge_eV < 8345.0
    assert np.interp(refs.edge_eV, GRID, mean) == pytest.approx(0.5, abs=1e-6)
    swapped = refs.subset(["b", 0])
    assert swapped.names == ("b", "a")
    np.testing.assert_array_equal(swapped.mu, refs.mu[:, ::-1])
    with pytest.raises(BadReferenceError, match="there are: a, b"):
        refs.subset(["c"])


def test_conditioning_predicts_the_error_of_a_fit():
    refs = two_states()
    energies = np.linspace(8300.0, 8500.0, 60)
    report = refs.conditioning(energies)
    rng = np.random.default_rng(3)
    design = np.column_stack([refs.at(energies), np.ones(60), energies - 8400.0])
    fits = np.linalg.lstsq(design, rng.normal(0, 0.01, (60, 4000)), rcond=None)[0][:2]
    np.testing.assert_allclose(fits.std(axis=1), 0.01 * report.error_per_noise, rtol=0.05)
    assert report.ambiguous == ()


def test_states_that_cannot_be_told_apart_are_named():
    refs = two_states()
    same = References(("a", "b", "c"), GRID, np.column_stack([refs.mu, 0.98 * refs.mu[:, 0] + 0.01]))
    with pytest.raises(BadReferenceError, match="'a' and 'c' are the same"):
        same.conditioning(GRID)
    mixed = References(("a", "b", "half"), GRID, np.column_stack([refs.mu, refs.mu.mean(axis=1)]))
    with pytest.raises(BadReferenceError, match="mixture of the others"):
        mixed.conditioning(GRID)
    near = References(("a", "b", "c"), GRID, np.column_stack([refs.mu, spectrum(GRID, 8343.1)]))
    assert near.conditioning(GRID).ambiguous == (("a", "c"),)
    with pytest.raises(BadReferenceError, match="cover 3 distinct energies"):
        refs.conditioning(np.array([8340.0, 8343.0, 8346.0, 8346.0, 9000.0]))
    with pytest.raises(BadReferenceError, match=r"nothing but background|same spectrum"):
        refs.conditioning(np.linspace(8600.0, 8602.0, 20))


@measured
def test_measured_references():
    nickel = load_references([DATA / "refs/ni_fxi/ref_NiO.txt", DATA / "refs/ni_fxi/ref_LiNiO2.txt"])
    assert nickel.names == ("NiO", "LiNiO2")
    assert nickel.range_eV == (8200.0, 9000.0)
    assert 8338.0 < nickel.edge_eV < 8346.0
    assert 10.0 < nickel.conditioning(np.arange(8250.0, 8700.0, 5.0)).separation_deg.min() < 20.0
    iron = load_references(DATA / "hxn_fe_k/test_ref_athena.nor")
    assert len(iron.names) == 9
    energies = np.loadtxt(DATA / "hxn_fe_k/test_energy.txt")
    assert np.isfinite(iron.at(energies)).all(axis=1).sum() == 37
    oxides = load_references(sorted((DATA / "refs/xasdatalib/Mn").glob("*_01.xdi")))
    assert oxides.names == ("Mn2O3_rt_01", "Mn3O4_rt_01", "MnO2_rt_01", "MnO_rt_01")
    project = load_references(DATA / "refs/NiO.prj", columns=["NiO"])
    xdi = load_references(DATA / "refs/xasdatalib/Ni/NiOH2_rt_01.xdi")
    for refs in (oxides, project, xdi):
        np.testing.assert_allclose(refs.mu[:5], 0.0, atol=0.03)
        assert 1.0 < refs.mu.max() < 1.9
