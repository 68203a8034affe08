"""Exports: every format is read back and compared with the arrays that went in; bad input is one clear line."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest
import tifffile
from example_result import SHAPE, STATES, example_result

from txm_stream.errors import ExportError, OutputExistsError
from txm_stream.export import FORMATS, ExportOptions, export_result
from txm_stream.io import read_result, read_stack, write_result
from txm_stream.io.absorption_edges import edge_near
from txm_stream.io.picture import bar_length, save_picture
from txm_stream.io.pyxas_export import write_pyxas
from txm_stream.io.report_page import numbers, state_shares, write_report
from txm_stream.io.summary_figure import inside_particles, mean_spectrum
from txm_stream.io.tiff_export import write_tiff
from txm_stream.io.xdi_export import Region, write_xdi
from txm_stream.results import Result
from txm_stream.unmixing.reference_files import parse_table, read_spectra


@pytest.fixture(scope="module")
def result() -> Result:
    return example_result()


# ImageJ


def test_the_stack_is_a_hyperstack_with_its_energies_as_labels(tmp_path: Path, result: Result) -> None:
    stack_path, map_path = write_tiff(tmp_path / "run.tif", result, pixel_nm=20.3)
    with tifffile.TiffFile(stack_path) as file:
        assert file.is_imagej
        about = dict(file.imagej_metadata)
        np.testing.assert_array_equal(file.asarray(), result.denoised)
        assert file.series[0].axes == "ZYX"
    assert about["Labels"] == [f"{energy:.2f} eV" for energy in result.energies_eV]
    assert about["hyperstack"] is True
    assert (about["slices"], about["unit"]) == (14, "nm")
    stack = read_stack(stack_path, energies=result.energies_eV, signal="optical-density")
    assert stack.pixel_nm == pytest.approx(20.3, rel=1e-6)
    np.testing.assert_array_equal(stack.frames, result.denoised)

    assert map_path == tmp_path / "run_maps.tif"
    with tifffile.TiffFile(map_path) as file:
        labels = file.imagej_metadata["Labels"]
        images = dict(zip(labels, file.asarray(), strict=True))
    assert labels == [*STATES, *(f"sigma {name}" for name in STATES), "edge jump (OD)", "reduced chi-square"]
    for j, name in enumerate(STATES):
        np.testing.assert_array_equal(images[name], result.phase_map[j])
        np.testing.assert_array_equal(images[f"sigma {name}"], result.phase_sigma[j])
    np.testing.assert_array_equal(images["edge jump (OD)"], result.scale)
    np.testing.assert_array_equal(images["reduced chi-square"], result.fit)


def test_without_states_there_is_the_edge_map_or_no_second_file(tmp_path: Path) -> None:
    edge = example_result(chemistry="edge-50")
    _, map_path = write_tiff(tmp_path / "edge.tif", edge)
    with tifffile.TiffFile(map_path) as file:
        assert file.imagej_metadata["Labels"] == "edge-50 (eV)"  # of a single slice: tifffile gives no list
        np.testing.assert_array_equal(np.squeeze(file.asarray()), edge.edge50)
    assert write_tiff(tmp_path / "none.tif", example_result(chemistry="none")) == (tmp_path / "none.tif",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge.tif", "edge_maps.tif", "none.tif"]


# NeXus


def check_nexus(path: Path) -> list[str]:
    """Check the rules of NeXus on entries and NXdata; return the paths of the NXdata groups.

    https://manual.nexusformat.org/classes/base_classes/NXdata.html and …/datarules.html
    """
    found: list[str] = []
    with h5py.File(path) as file:
        assert file.attrs["NX_class"] == "NXroot"
        entry = file[file.attrs["default"]]
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry[entry.attrs["default"]].attrs["NX_class"] == "NXdata"

        def check(name: str, item: Any) -> None:
            for part in name.split("/"):
                assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.]*[A-Za-z0-9_])?", part), name
            if isinstance(item, h5py.Group):
                assert item.attrs["NX_class"].startswith("NX"), name
                if item.attrs["NX_class"] == "NXdata":
                    check_data(item)
                    found.append(name)

        file.visititems(check)
    return found


def check_data(group: h5py.Group) -> None:
    signal = group[group.attrs["signal"]]
    axes = list(group.attrs["axes"])
    assert len(axes) == signal.ndim
    for dimension, axis in enumerate(axes):
        assert group[axis].shape == (signal.shape[dimension],)
        assert np.issubdtype(group[axis].dtype, np.number)
        assert group.attrs[f"{axis}_indices"] == dimension
        assert isinstance(group[axis].attrs["units"], str)
    assert isinstance(signal.attrs["units"], str)
    for auxiliary in group.attrs.get("auxiliary_signals", []):
        assert group[auxiliary].shape == signal.shape
        assert group[auxiliary].attrs["units"] == signal.attrs["units"]
    named = {group.attrs["signal"], *axes, *group.attrs.get("auxiliary_signals", [])}
    for name in group:
        if name not in named:
            assert name.endswith("_errors"), name
            assert group[name].shape == group[name.removesuffix("_errors")].shape
            assert group[name].attrs["units"] == group[name.removesuffix("_errors")].attrs["units"]


def test_nexus_is_valid_and_sigma_is_the_error_of_the_map(tmp_path: Path, result: Result) -> None:
    path = write_result(tmp_path / "r.nxs", result, title="cathode", pixel_nm=20.3, compression="gzip")
    assert sorted(check_nexus(path)) == ["final/map", "final/sigma_of_map", "final/stack"]
    with h5py.File(path) as file:
        view = file["final/map"]
        np.testing.assert_array_equal(view["phase_map"], result.phase_map)
        np.testing.assert_array_equal(view["phase_map_errors"], result.phase_sigma)
        assert all(name in view["state"].attrs["long_name"] for name in STATES)
        assert file["final/stack/energies_eV"].attrs["units"] == "eV"
        assert file["final/stack/denoised"].attrs["units"] == "OD"
        np.testing.assert_allclose(file["final/stack/x"], 20.3 * np.arange(SHAPE[1]))
        assert file["final/process"].attrs["NX_class"] == "NXprocess"
    back = read_result(path)
    for name, array in result.images().items():
        np.testing.assert_array_equal(getattr(back, name), array, err_msg=name)


@pytest.mark.parametrize(("chemistry", "groups"), [("edge-50", 2), ("none", 1)])
def test_nexus_is_valid_without_states(tmp_path: Path, chemistry: str, groups: int) -> None:
    path = write_result(tmp_path / "r.nxs", example_result(chemistry=chemistry), title="t")
    assert len(check_nexus(path)) == groups


# PyXAS and TXM-Sandbox


def test_pyxas_and_txm_sandbox_find_the_optical_density(tmp_path: Path, result: Result) -> None:
    about: dict[str, Any] = {"pixel_nm": 20.3, "magnification": 320.0, "scan_id": 7, "uid": "3f1c", "title": "cathode"}
    path = write_pyxas(tmp_path / "scan.h5", result, **about)
    expected = np.where(np.isfinite(result.denoised), result.denoised, 0.0)
    with h5py.File(path) as file:
        assert {"img_xanes", "X_eng", "img_bkg", "img_dark", "Magnification", "Pixel Size", "note", "scan_time"} <= set(
            file
        )
        np.testing.assert_allclose(file["X_eng"][:] * 1000, result.energies_eV, rtol=1e-12)
        assert np.all(file["X_eng"][:] < 100)
        images = np.array(file["img_xanes"])
        np.testing.assert_allclose(-np.log(images), expected, atol=2e-6)  # PyXAS: norm_txm
        dark, bright = np.array(file["img_dark"]), np.array(file["img_bkg"])
        assert dark.shape == (1, *SHAPE)
        assert bright.shape == images.shape
        np.testing.assert_allclose(-np.log((images - dark) / (bright - dark)), expected, atol=2e-6)  # TXM-Sandbox
        np.testing.assert_array_equal(file["mask"], result.mask)
        assert file["Pixel Size"].asstr()[()] == "20.3nm"
        assert file["Magnification"][()] == 320.0
        assert file["img_bkg"].id.get_storage_size() == 0
    stack = read_stack(path)
    assert (stack.signal, stack.pixel_nm) == ("transmission", 20.3)
    np.testing.assert_allclose(stack.energies_eV, result.energies_eV, rtol=1e-12)
    np.testing.assert_allclose(-np.log(stack.frames), expected, atol=2e-6)


def test_pyxas_makes_up_no_figures(tmp_path: Path) -> None:
    yields = replace(example_result(), provenance={"signal": "fluorescence"})
    path = write_pyxas(tmp_path / "scan.h5", yields)
    assert read_stack(path, signal="fluorescence").pixel_nm is None
    with h5py.File(path) as file:
        assert np.isnan(file["Magnification"][()])
        np.testing.assert_array_equal(file["img_xanes"], np.nan_to_num(yields.denoised))


# XDI


def test_mean_and_regions_read_back_as_xdi(tmp_path: Path, result: Result) -> None:
    region = Region.parse("10:30,20:50")
    paths = write_xdi(tmp_path / "ni.xdi", result, regions=(region,), title="cathode, scan 7")
    assert [path.name for path in paths] == ["ni.xdi", "ni_roi1.xdi"]
    order = np.argsort(result.energies_eV, kind="stable")
    for path, mask in zip(paths, (inside_particles(result), region.mask(SHAPE)), strict=True):
        text = path.read_text()
        lines = text.splitlines()
        assert lines[0].startswith("# XDI/1.0 ")
        fields = dict(re.findall(r"^# (\w+\.\w+): (.*)$", text, re.MULTILINE))
        assert (fields["Element.symbol"], fields["Element.edge"], fields["Mono.d_spacing"]) == ("Ni", "K", "0")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", fields["Scan.start_time"])
        assert fields["Column.1"] == "energy eV"
        ends = [index for index, line in enumerate(lines) if re.fullmatch(r"# -{3,}", line)]
        assert len(ends) == 1
        assert all(line.startswith("#") for line in lines[: ends[0] + 2])
        (spectrum,) = read_spectra(path)
        np.testing.assert_allclose(spectrum.energies_eV, result.energies_eV[order], rtol=0, atol=1e-6)
        np.testing.assert_allclose(spectrum.mu, mean_spectrum(result.denoised, mask)[order], rtol=0, atol=1e-6)
        table = parse_table(text, path)
        np.testing.assert_allclose(table.values[:, 2], mean_spectrum(result.noisy, mask)[order], atol=1e-6)
        if path == paths[0]:
            assert table.names == ("energy", "mutrans", "noisy", "fit")
            np.testing.assert_allclose(table.values[:, 3], table.values[:, 1], atol=2e-3)  # the phantom is the fit
        else:  # half of the region has no map
            assert table.names == ("energy", "mutrans", "noisy")


def test_edges_are_found_or_said(tmp_path: Path, result: Result) -> None:
    assert edge_near(8345.0) == ("Ni", "K")
    assert edge_near(708.0) == ("Fe", "L3")
    assert edge_near(5724.0) == ("Ce", "L3")
    with pytest.raises(ExportError, match="--edge"):
        edge_near(8600.0)
    (path,) = write_xdi(tmp_path / "a.xdi", result, edge="Ce L3")
    assert "Element.symbol: Ce" in path.read_text()
    for wrong in ("nickel K", "Ni", "ni K", "Ni 4"):
        with pytest.raises(ExportError, match="such as 'Ni K'"):
            write_xdi(tmp_path / "b.xdi", result, edge=wrong)


@pytest.mark.parametrize("text", ["10:20", "a:b,c:d", "1:2:3,4", "", "10:20,30"])
def test_regions_that_are_none(text: str) -> None:
    with pytest.raises(ExportError, match="y0:y1,x0:x1"):
        Region.parse(text)


@pytest.mark.parametrize("text", ["10:10,0:5", "0:49,0:5", "-1:5,0:5", "5:2,0:5"])
def test_regions_beyond_the_image(tmp_path: Path, result: Result, text: str) -> None:
    with pytest.raises(ExportError, match="0:48,0:72"):
        write_xdi(tmp_path / "a.xdi", result, regions=(Region.parse(text),))
    with pytest.raises(ExportError, match="0 visits"):
        write_xdi(tmp_path / "a.xdi", result, regions=(Region.parse("0:1,0:5"),))
    assert not list(tmp_path.iterdir())


# pictures


@pytest.mark.parametrize("what", ["map", "sigma", "frame"])
def test_pictures_show_the_image_in_its_colours(tmp_path: Path, result: Result, what: Any) -> None:
    path = save_picture(tmp_path / "p.png", result, what=what, pixel_nm=20.3, energy_eV=8346.0, title="cathode")
    picture = matplotlib.image.imread(path)[..., :3]
    assert min(picture.shape[:2]) > 600
    nearest = int(np.argmin(np.abs(result.energies_eV - 8346.0)))
    images = {"map": result.phase_map, "sigma": result.phase_sigma, "frame": result.denoised[nearest][None]}[what]
    low, high = (0.0, 1.0) if what == "map" else np.percentile(images[np.isfinite(images)], [0.5, 99.5])
    cividis = matplotlib.colormaps["cividis"]
    for value in np.quantile(images[np.isfinite(images)], [0.2, 0.5, 0.8]):
        colour = cividis((value - (0.0 if what == "sigma" else low)) / (high - (0.0 if what == "sigma" else low)))[:3]
        assert np.abs(picture - colour).max(axis=-1).min() < 0.01, value
    grey = np.abs(picture - 0.85).max(axis=-1) < 0.01
    share = grey.mean() / (np.isnan(images).mean() * picture[..., 0].size / picture[..., 0].size)
    assert 0.4 < share < 1.1  # pixels that say nothing fill their share of the panels


def test_pictures_that_the_result_has_not(tmp_path: Path) -> None:
    edge = example_result(chemistry="edge-50")
    save_picture(tmp_path / "edge.png", edge, what="map")
    for what, chemistry in (("sigma", "edge-50"), ("map", "none")):
        with pytest.raises(ExportError, match=f"has no {what}"):
            save_picture(tmp_path / "p.png", example_result(chemistry=chemistry), what=what)


@pytest.mark.parametrize(
    ("most", "nm", "length", "label"),
    [(730, True, 500, "500 nm"), (2100, True, 2000, "2 µm"), (1000, True, 1000, "1 µm"), (18, False, 10, "10 px")],
)
def test_scale_bars_are_round(most: float, nm: bool, length: float, label: str) -> None:
    assert bar_length(most, nm=nm) == (pytest.approx(length), label)


# report


class Page(HTMLParser):
    """Collects what a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_holds_everything_and_fetches_nothing(tmp_path: Path, result: Result) -> None:
    html = write_report(tmp_path / "r.html", result, title="cathode <3>", pixel_nm=20.3).read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert [link[:22] for link in page.links] == ["data:image/png;base64,"]
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?://", html)
    for text in ("cathode <3>", *STATES, *result.warnings, "</pre><script>", "0.021", "20.3 nm per pixel", "all dark"):
        assert text in page.text
    (name, share, sigma), _ = state_shares(result)
    inside = np.isfinite(result.phase_map[0]) & inside_particles(result)
    assert name == STATES[0]
    assert share == pytest.approx(np.average(result.phase_map[0][inside], weights=result.scale[inside]))
    assert sigma == pytest.approx(np.median(result.phase_sigma[0][inside]))
    assert sum(share for _, share, _ in state_shares(result)) == pytest.approx(1.0, abs=1e-5)


def test_a_report_without_chemistry_says_so(tmp_path: Path) -> None:
    bare = replace(example_result(chemistry="none"), warnings=(), risk=float("nan"))
    html = write_report(tmp_path / "r.html", bare).read_text(encoding="utf-8")
    assert "<h2>States</h2>" not in html
    assert "<h2>Warnings</h2>" not in html
    assert dict(numbers(bare))["map"] == "none"
    assert "nan" not in dict(numbers(bare)).values()


# napari


def test_napari_layers(result: Result) -> None:
    layers = {arguments["name"]: (data, arguments) for data, arguments, kind in result.to_napari(pixel_nm=20.3)}
    assert {kind for *_, kind in result.to_napari()} == {"image"}
    assert list(layers) == ["denoised", "edge jump", *(name for s in STATES for name in (s, f"sigma {s}"))]
    for data, arguments in layers.values():
        assert len(arguments["scale"]) == data.ndim
        assert arguments["scale"][-2:] == (20.3, 20.3)
    np.testing.assert_array_equal(layers["denoised"][0], result.denoised)
    np.testing.assert_array_equal(layers[STATES[1]][0], result.phase_map[1])
    np.testing.assert_array_equal(layers[f"sigma {STATES[1]}"][0], result.phase_sigma[1])
    assert layers["denoised"][1]["metadata"]["energies_eV"] == result.energies_eV.tolist()
    names = [arguments["name"] for _, arguments, _ in example_result(chemistry="edge-50").to_napari()]
    assert names == ["denoised", "edge-50"]


# from a file, all formats, bad input


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, result: Result) -> Path:
    return write_result(tmp_path_factory.mktemp("stored") / "scan_txm.h5", result, title="cathode", pixel_nm=20.3)


def test_every_format_from_a_result_file(tmp_path: Path, stored: Path, result: Result) -> None:
    for format in FORMATS:
        first, *_ = written = export_result(str(stored), format=format, output=tmp_path / f"x.{format}")
        assert all(path.stat().st_size > 500 for path in written)
        assert first == tmp_path / f"x.{format}"
    with h5py.File(tmp_path / "x.pyxas") as file:
        assert file["Pixel Size"].asstr()[()] == "20.3nm"
    np.testing.assert_array_equal(read_result(tmp_path / "x.nexus").denoised, result.denoised)
    assert not list(tmp_path.glob(".*"))


def test_bad_input_is_one_clear_line(tmp_path: Path, stored: Path) -> None:
    def message(run: str, **changes: Any) -> str:
        with pytest.raises((ExportError, OutputExistsError)) as caught:
            export_result(run, **{"format": "tiff", "output": tmp_path / "new.tif"} | changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "tiff, nexus, pyxas, xdi, png, report" in message(str(stored), format="docx")
    assert "--from" in message("latest")
    (tmp_path / "there_maps.tif").touch()
    assert "--overwrite" in message(str(stored), output=tmp_path / "there.tif")
    assert not (tmp_path / "there.tif").exists()
    assert "energy_eV is an option of png" in message(str(stored), options=ExportOptions(energy_eV=8345.0))
    assert "'frame'" in message(str(stored), format="png", options=ExportOptions(what="map", energy_eV=8345.0))
    region = ExportOptions(regions=(Region.parse("0:9,0:999"),))
    assert "0:48,0:72" in message(str(stored), format="xdi", options=region)
    export_result(str(stored), format="tiff", output=tmp_path / "there.tif", overwrite=True)
    assert (tmp_path / "there_maps.tif").stat().st_size > 500
