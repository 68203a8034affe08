"""Measured stacks in every form, energy lists, result files, the summary figure."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from txm_stream.errors import BadStackError
from txm_stream.io import read_energies, read_result, read_stack, save_summary, write_result
from txm_stream.io.summary_figure import fitted_spectrum, inside_particles, mean_spectrum
from txm_stream.results import Result, VisitMetrics

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
measured = pytest.mark.skipif(not DATA.is_dir(), reason="measured data of ../shared/data are not here")
ENERGIES = np.array([8300.0, 8320.0, 8335.0, 8345.0, 8350.0, 8360.0, 8350.0, 8400.0])
SHAPE = (20, 30)


def optical_density(energies=ENERGIES):
    """One particle in an empty field, 70 % open beam; pre-edge absorption as in nature."""
    thickness = np.zeros(SHAPE)
    thickness[4:16, 8:22] = 0.5
    mu = 0.2 + 1.0 / (1.0 + np.exp(-(np.asarray(energies) - 8345.0)))
    return (mu[:, None, None] * thickness).astype(np.float32)


def write_h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


# energy lists


@pytest.mark.parametrize("factor", [1.0, 1e-3])
@pytest.mark.parametrize("form", ["lines", "row", "column", "csv", "comments"])
def test_energy_lists(tmp_path, factor, form):
    values = ENERGIES * factor
    text = {
        "lines": "\n".join(f"{v:.18e}" for v in values),
        "row": " ".join(f"{v:.6f}" for v in values),
        "column": "# index energy\n" + "\n".join(f"{i} {v:.6f}" for i, v in enumerate(values)),
        "csv": "energy,exposure\n" + "\n".join(f"{v:.6f},0.5" for v in values),
        "comments": "# by hand\n\n" + "\n".join(f"{v:.6f}" for v in values) + "\n\n",
    }[form]
    path = tmp_path / "list.txt"
    path.write_text(text)
    np.testing.assert_allclose(read_energies(path), ENERGIES)


@pytest.mark.parametrize(
    ("text", "message"), [("", "no line with numbers"), ("8300\n-3\n", "positive"), ("nan\n", "finite")]
)
def test_bad_energy_lists(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(BadStackError, match=message):
        read_energies(path)
    with pytest.raises(BadStackError, match="no such file"):
        read_energies(tmp_path / "absent.txt")


# stacks


def test_data_exchange_with_flats_and_darks(tmp_path):
    counts = (2000 * np.exp(-optical_density()) + 100).astype(np.uint16)
    flats, darks = np.full((8, *SHAPE), 2100, np.uint16), np.full((2, *SHAPE), 100, np.uint16)
    path = write_h5(
        tmp_path / "a.h5",
        **{"exchange/data": counts, "exchange/data_white": flats, "exchange/data_dark": darks},
        **{"exchange/energy": ENERGIES / 1000.0, "exchange/theta": np.zeros(8)},
    )
    stack = read_stack(path)
    assert stack.signal == "counts"
    assert stack.frames.dtype == np.uint16
    np.testing.assert_array_equal(stack.frames, counts)
    np.testing.assert_allclose(stack.energies_eV, ENERGIES)
    np.testing.assert_array_equal(stack.flats, flats)
    np.testing.assert_array_equal(stack.darks, darks)


@pytest.mark.parametrize("where", ["group", "dataset"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_nexus_by_attributes_with_a_monitor(tmp_path, where, order):
    i0 = np.linspace(900.0, 1100.0, 8)
    names = ["energy", "sample_y", "sample_x"]
    path = tmp_path / "stxm.nxs"
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry1")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("counter0")
        data.attrs["NX_class"] = "NXdata"
        data.attrs["signal"] = "data"
        data["data"] = np.transpose(i0[:, None, None] * np.exp(-optical_density()), order)
        data["energy"] = ENERGIES
        data["sample_x"] = np.arange(30) * 0.05
        data["sample_x"].attrs["units"] = "um"
        owner = data if where == "group" else data["data"]
        owner.attrs["axes"] = [names[i] for i in order] if where == "group" else ":".join(names[i] for i in order)
        control = entry.create_group("control")
        control.attrs["NX_class"] = "NXmonitor"
        control["data"] = i0
    stack = read_stack(path)
    assert stack.signal == "transmission"
    assert stack.pixel_nm == pytest.approx(50.0)
    np.testing.assert_allclose(-np.log(stack.frames), optical_density(), atol=1e-5)


def test_transmission_without_i0_is_divided_by_the_open_beam(tmp_path):
    i0 = np.linspace(390.0, 410.0, 8)
    rng = np.random.default_rng(0)
    counts = i0[:, None, None] * np.exp(-optical_density()) + rng.normal(0, 0.5, (8, *SHAPE))
    path = write_h5(
        tmp_path / "als.h5", transmission=counts.astype(np.float32), energy_eV=ENERGIES, x_um=np.arange(30) * 0.08
    )
    stack = read_stack(path)
    assert stack.signal == "transmission"
    assert stack.frames.dtype == np.float32
    assert stack.pixel_nm == pytest.approx(80.0)
    np.testing.assert_allclose(stack.frames, np.exp(-optical_density()), atol=0.01)
    assert any("open beam" in note for note in stack.notes)


def test_pyxas_images(tmp_path):
    path = write_h5(
        tmp_path / "fxi.h5",
        img_xanes=np.exp(-optical_density()),
        X_eng=ENERGIES / 1000.0,
        img_bkg=np.full((8, *SHAPE), 900.0),
        **{"Pixel Size": "20.3 nm"},
    )
    stack = read_stack(path)
    assert stack.signal == "transmission"
    assert stack.flats is None
    assert stack.pixel_nm == pytest.approx(20.3)
    np.testing.assert_allclose(stack.frames, np.exp(-optical_density()), atol=1e-6)


def test_a_named_dataset_among_several(tmp_path):
    path = write_h5(tmp_path / "two.h5", first=optical_density(), second=2 * optical_density(), energy=ENERGIES)
    with pytest.raises(BadStackError, match=r"/first, /second.*two\.h5::/path"):
        read_stack(path)
    stack = read_stack(f"{path}::/second")
    assert stack.name == "two.h5::/second"
    np.testing.assert_array_equal(stack.frames, 2 * optical_density())
    with pytest.raises(BadStackError, match="no dataset '/third'; stacks there: /first, /second"):
        read_stack(f"{path}::/third")


def test_tiff_with_a_list_beside_it(tmp_path):
    tifffile.imwrite(
        tmp_path / "test_stack.tiff", optical_density(), imagej=True, resolution=(40, 40), metadata={"unit": "um"}
    )
    (tmp_path / "test_energy.txt").write_text("\n".join(str(e / 1000) for e in ENERGIES))
    stack = read_stack(tmp_path / "test_stack.tiff")
    assert stack.signal == "optical-density"
    assert stack.pixel_nm == pytest.approx(25.0)
    np.testing.assert_array_equal(stack.frames, optical_density())
    np.testing.assert_allclose(stack.energies_eV, ENERGIES)
    assert read_stack(tmp_path / "test_stack.tiff", energies=ENERGIES, signal="fluorescence").signal == "fluorescence"
    (tmp_path / "test_energy.txt").unlink()
    with pytest.raises(BadStackError, match="a TIFF needs its energies"):
        read_stack(tmp_path / "test_stack.tiff")


def test_what_the_values_mean(tmp_path):
    background_free = 0.3 * (optical_density() - optical_density()[:1]) + 0.001
    stacks = {
        "transmission": np.exp(-optical_density()),
        "optical-density": optical_density() + np.random.default_rng(0).normal(0, 0.01, (8, *SHAPE)),
        "fluorescence": background_free,
        "counts": (1000 * np.exp(-optical_density())).astype(np.uint16),
    }
    for index, (expected, values) in enumerate(stacks.items()):
        path = write_h5(tmp_path / f"{index}.h5", values=values, energy=ENERGIES)
        stack = read_stack(path)
        assert stack.signal == expected
        assert any(expected in note for note in stack.notes)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_energy_axis_is_the_one_as_long_as_the_list(tmp_path, axis):
    path = write_h5(tmp_path / "a.h5", od=np.moveaxis(optical_density(), 0, axis))
    np.testing.assert_array_equal(read_stack(path, energies=ENERGIES).frames, optical_density())
    with pytest.raises(BadStackError, match=r"9 energies for an array of shape \("):
        read_stack(path, energies=np.arange(8300.0, 8309.0))
    with pytest.raises(BadStackError, match="no energies in the file"):
        read_stack(path)


def test_a_cube_takes_its_first_axis_and_says_so(tmp_path):
    cube = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    stack = read_stack(write_h5(tmp_path / "cube.h5", od=cube, energy=ENERGIES), signal="optical-density")
    np.testing.assert_array_equal(stack.frames, cube)
    assert any("the first is taken" in note for note in stack.notes)


def test_repeats_are_averaged_and_nan_is_kept(tmp_path):
    repeats = np.repeat(optical_density()[:, None], 3, axis=1) + np.array([-0.1, 0.0, 0.1]).reshape(1, 3, 1, 1)
    repeats[2, 1, 3, 4] = np.nan
    frames = read_stack(write_h5(tmp_path / "a.h5", od=repeats, energy=ENERGIES), signal="optical-density").frames
    expected = optical_density()
    expected[2, 3, 4] = np.nan
    np.testing.assert_allclose(frames, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"no hdf5", "cannot be opened as HDF5"),
        ("a.tif", b"no tiff", "cannot be read as TIFF"),
        ("a.csv", b"1,2", "unknown format"),
        ("a.nxs", None, "no 3-D array in it; there is: /energy"),
    ],
)
def test_files_that_are_no_stack(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        write_h5(path, energy=ENERGIES)
    else:
        path.write_bytes(content)
    with pytest.raises(BadStackError, match=message) as caught:
        read_stack(path, energies=ENERGIES)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadStackError, match="no such file"):
        read_stack(tmp_path / "absent.h5")


@measured
def test_measured_stacks():
    xrf = read_stack(DATA / "hxn_fe_k/test_stack.tiff")
    assert (xrf.signal, xrf.frames.shape) == ("fluorescence", (57, 91, 95))
    np.testing.assert_allclose(xrf.energies_eV[[0, -1]], [7092.584, 7173.230])
    stxm = read_stack(DATA / "als11022_stxm_Fe_L23_71214078.h5")
    assert (stxm.signal, stxm.frames.shape) == ("transmission", (123, 125, 125))
    assert stxm.pixel_nm == pytest.approx(80.0)
    assert 0.99 < np.median(stxm.frames.max(axis=(1, 2))) < 1.1


# results


def make_result(*, chemistry=True):
    rng = np.random.default_rng(0)
    energies = np.arange(8300.0, 8400.0, 5.0)
    n = len(energies)
    denoised = optical_density(energies)
    phase = np.full((2, *SHAPE), np.nan, np.float32)
    phase[0, 4:16, 8:22] = np.linspace(0, 1, 14, dtype=np.float32)
    phase[1] = 1.0 - phase[0]
    mu = 1.0 / (1.0 + np.exp(-(energies - 8345.0)))
    extra = {
        "states": ("Ni²⁺", "Ni3+"),
        "references": np.stack([mu, mu], axis=1),
        "phase_map": phase,
        "phase_sigma": np.where(np.isfinite(phase), np.float32(0.03), np.float32(np.nan)),
        "fit": np.ones(SHAPE, np.float32),
        "scale": np.where(np.isfinite(phase[0]), np.float32(0.5), np.float32(0.0)),
        "predicted_rmse": 0.031,
        "map_method": "rum+",
    }
    edge = {"edge50": np.where(np.isfinite(phase[0]), 8343.0 + 2 * phase[0], np.nan).astype(np.float32)}
    return Result(
        energies_eV=energies,
        noisy=denoised + rng.normal(0, 0.02, denoised.shape).astype(np.float32),
        denoised=denoised,
        mask=np.ones(SHAPE, bool),
        shifts_px=rng.normal(size=(n, 2)),
        shift_sigma_px=np.full((n, 2), 0.05),
        loadings=rng.normal(size=(n, 8)).astype(np.float32),
        components=rng.normal(size=(8, *SHAPE)).astype(np.float32),
        sigma=0.02,
        rank=2,
        risk=1e-5,
        metrics=tuple(VisitMetrics(seq=i + 1, energy_eV=float(e), rank=2) for i, e in enumerate(energies)),
        provenance={"versions": {"txm-stream": "0"}, "shift_eV": np.float64(0.1), "used": np.arange(3)},
        warnings=("one thing",),
        **(extra if chemistry else edge),
    )


def same(first, second):
    for entry in fields(Result):
        a, b = getattr(first, entry.name), getattr(second, entry.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, entry.name
            np.testing.assert_array_equal(a, b, err_msg=entry.name)
        elif entry.name == "metrics":
            np.testing.assert_array_equal(
                [[getattr(m, c) for c in m.columns()] for m in a], [[getattr(m, c) for c in m.columns()] for m in b]
            )
            assert all(type(m.rank) is int for m in b)
        elif entry.name != "provenance":
            assert a == b or (a != a and b != b), entry.name


@pytest.mark.parametrize("chemistry", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_result_survives_the_file(tmp_path, chemistry, compression):
    result = make_result(chemistry=chemistry)
    path = write_result(tmp_path / "deep" / "r.h5", result, title="cathode", compression=compression)
    back = read_result(path)
    same(result, back)
    assert back.provenance == {"versions": {"txm-stream": "0"}, "shift_eV": 0.1, "used": [0, 1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["r.h5"]


def test_a_memory_mapped_stack_is_streamed(tmp_path):
    result = make_result()
    mapped = np.lib.format.open_memmap(tmp_path / "n.npy", "w+", np.float32, result.noisy.shape)
    mapped[:] = result.noisy
    from dataclasses import replace

    same(result, read_result(write_result(tmp_path / "r.h5", replace(result, noisy=mapped), title="t")))


@pytest.mark.parametrize("chemistry", [True, False])
def test_nexus_readers_find_the_default_plot(tmp_path, chemistry):
    path = write_result(tmp_path / "r.h5", make_result(chemistry=chemistry), title="cathode", pixel_nm=20.0)
    with h5py.File(path) as file:
        assert file.attrs["NX_class"] == "NXroot"
        entry = file[file.attrs["default"]]
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry["title"].asstr()[()] == "cathode"
        for name in (entry.attrs["default"], "stack"):
            view = entry[name]
            assert view.attrs["NX_class"] == "NXdata"
            signal = view[view.attrs["signal"]]
            assert len(view.attrs["axes"]) == signal.ndim
            for length, axis in zip(signal.shape, view.attrs["axes"], strict=True):
                assert axis == "." or view[axis].shape == (length,)
            for auxiliary in view.attrs.get("auxiliary_signals", []):
                assert view[auxiliary].shape == signal.shape
        assert entry["energies_eV"].attrs["units"] == "eV"
        assert entry["x"].attrs["units"] == "nm"
        assert entry["x"][1] == 20.0
        assert entry["metrics/energy_eV"].shape == (20,)
        assert entry["sigma"][()] == 0.02
    stack = read_stack(f"{path}::/final/noisy")
    assert stack.signal == "optical-density"
    np.testing.assert_array_equal(stack.energies_eV, make_result().energies_eV)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    from dataclasses import replace

    result = make_result()
    path = write_result(tmp_path / "r.h5", result, title="first")
    broken = replace(result, metrics=(replace(result.metrics[0], energy_eV="oops"),))
    with pytest.raises(ValueError, match="oops"):
        write_result(path, broken, title="second")
    assert [p.name for p in tmp_path.iterdir()] == ["r.h5"]
    same(result, read_result(path))


def test_files_that_hold_no_result(tmp_path):
    with pytest.raises(BadStackError, match="/final/denoised is not there"):
        read_result(write_h5(tmp_path / "a.h5", energy=ENERGIES))
    with pytest.raises(BadStackError, match="cannot be opened"):
        read_result(tmp_path / "absent.h5")


# the figure


def test_spectra_of_the_figure_are_means_inside():
    result = make_result()
    inside = inside_particles(result)
    assert inside.sum() == 12 * 14
    denoised = mean_spectrum(result.denoised, inside)
    np.testing.assert_allclose(denoised, result.denoised[:, 5, 10], rtol=1e-6)
    np.testing.assert_allclose(fitted_spectrum(result, inside, denoised), denoised, atol=1e-4)


@pytest.mark.parametrize("chemistry", [True, False])
def test_summary_is_a_png_of_some_content(tmp_path, chemistry):
    path = save_summary(tmp_path / "s.png", make_result(chemistry=chemistry), title="cathode")
    import matplotlib.image

    image = matplotlib.image.imread(path)
    assert image.shape[0] > 600
    assert image.shape[1] > 900
    assert image[..., :3].std() > 0.1
