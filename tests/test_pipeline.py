"""The one path: what comes out is the truth, in whatever order and company the frames came in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from simulated_scan import frames_of, references_of

from txm_stream import Pipeline, Profile, scan_model
from txm_stream.errors import BadFrameError, MissingFramesError
from txm_stream.frames import Frame
from txm_stream.judgement import judge
from txm_stream.phantoms import growing_scan, inside, nickel_energies
from txm_stream.resampling import shift_image
from txm_stream.results import Result
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.subspace.projection import project

SIZE = (128, 128)


def scan(**options: object) -> SimulatedTXM:
    return SimulatedTXM(SIZE, **{"seed": 3, **options})


def judged(result: Result, txm: SimulatedTXM, *, coverage: float = 0.98) -> tuple[float, float, float]:
    """Return map correlation, abundance RMSE and shift RMSE against the truth, all pixels inside the particles."""
    verdict = judge(result, txm.truth())
    assert verdict.map_coverage > coverage
    return verdict.map_correlation, verdict.abundance_rmse, verdict.shift_rmse_px


@pytest.mark.parametrize("chemistry", ["core-shell", "region"])
def test_recovers_truth_with_calibrated_error(chemistry: str, tmp_path: Path) -> None:
    txm = scan(chemistry=chemistry)
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(40)):
            pipeline.ingest(frame)
        live = pipeline.snapshot()
        result = pipeline.finish()
        correlation, rmse, shift = judged(result, txm)
        print(f"{chemistry}: correlation {correlation:.4f}, rmse {rmse:.4f}, predicted {result.predicted_rmse:.4f}")
        print(f"    shift {shift:.3f} px, rank {result.rank}, live predicted {live.rows[-1].map_rmse:.4f}")
        assert correlation > 0.97
        assert rmse < 0.055
        assert 0.75 < result.predicted_rmse / rmse < 1.25
        assert shift < 0.08
        expected = txm.truth().noise_sigma(~txm.truth().bad_pixels, flat_visits=result.provenance["flat_visits"])
        assert result.sigma == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.05)
        assert abs(result.provenance["energy_shift_eV"]) < 0.06
        assert 0.03 < result.provenance["misfit_share"] < 0.12
        assert not any("misses the data" in warning for warning in result.warnings)
    assert not list(tmp_path.iterdir()), "working files must be gone"


def test_sigma_map_covers_the_error(tmp_path: Path) -> None:
    txm = scan(photons=1000.0)
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(40)):
            pipeline.ingest(frame)
        result = pipeline.finish()
        truth = txm.truth()
        offset = (result.shifts_px + truth.shifts_px).mean(axis=0)
        abundances = np.stack([shift_image(a, offset) for a in truth.abundances])
        assert result.phase_map is not None
        assert result.phase_sigma is not None
        where = inside(shift_image(truth.edge_jump, offset)) & np.isfinite(result.phase_map[0])
        where &= (abundances[0] > 0.05) & (abundances[0] < 0.95)
        covered = np.abs(result.phase_map - abundances)[:, where] < result.phase_sigma[:, where]
        print(f"68 % interval covers {100 * covered.mean():.0f} %")
        assert 0.5 < covered.mean() < 0.85


def test_a_fit_that_misses_the_data_is_told(tmp_path: Path) -> None:
    txm = scan(jitter_px=1.0)
    with Pipeline(Profile(registration=False), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(40)):
            pipeline.keep(frame)
        result = pipeline.finish()
    assert result.provenance["common_rmse"] > 0.02, "no fit of the mean pixel either"
    assert result.provenance["misfit_share"] > 0.2
    assert any("frames are not registered" in warning for warning in result.warnings)


def test_energies_that_do_not_hold_the_shift_are_told(tmp_path: Path) -> None:
    txm = SimulatedTXM((32, 32), photons=4000, seed=1)
    energies = np.delete(nickel_energies(8), 3)  # 12 eV without a visit, where the edge rises
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, energies):
            pipeline.keep(frame)
        result = pipeline.finish()
    assert judge(result, txm.truth()).abundance_rmse > 0.2, "the map is not to be trusted"
    assert 0.2 < result.predicted_rmse < 0.8
    assert any("how far the spectra are shifted" in warning for warning in result.warnings)


def test_no_map_before_the_edge(tmp_path: Path) -> None:
    txm = scan()
    energies = [e for e in nickel_energies(40) if e < 8338]
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, energies):
            snapshot = pipeline.add(frame)
            assert snapshot.phase_map is None
            assert snapshot.fit is None
        result = pipeline.finish()
    assert snapshot.n_visits == len(energies)
    assert result.phase_map is None or result.predicted_rmse > 0.1


def test_order_of_flats_and_skipped_previews_change_nothing(tmp_path: Path) -> None:
    txm = scan()
    frames = list(frames_of(txm, nickel_energies(16)))
    results = []
    for live in (True, False):
        with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
            for frame in frames if live else sorted(frames, key=lambda f: f.role != "dark" and f.role == "flat"):
                pipeline.ingest(frame)
                if live:
                    pipeline.snapshot()
            result = pipeline.finish()
            results.append({name: np.array(array) for name, array in result.images().items()})
    assert results[0].keys() == results[1].keys()
    for name, array in results[0].items():
        np.testing.assert_allclose(array, results[1][name], atol=1e-6, err_msg=name)


def test_a_frame_that_comes_late_stands_where_it_was_measured(tmp_path: Path) -> None:
    txm = scan()
    frames = list(frames_of(txm, nickel_energies(16)))
    sample = [frame for frame in frames if frame.role == "sample"]
    late = [frame for frame in frames if frame is not sample[2]] + [sample[2]]
    results = []
    for order in (frames, late):
        with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
            for frame in order:
                pipeline.ingest(frame)
            images = pipeline.finish().images()
            results.append({name: np.array(array) for name, array in images.items()})
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=name)


def test_late_flat_replaces_a_visit_exactly(tmp_path: Path) -> None:
    txm = scan()
    frames = list(frames_of(txm, nickel_energies(24)))
    late = [f for f in frames if f.role != "flat"] + [f for f in frames if f.role == "flat"]
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in late:
            if pipeline.ingest(frame):
                pipeline.snapshot()
        live = pipeline._live
        assert live is not None
        kept = live.projection
        rebuilt = project(live._whitened, kept.basis, SIZE)
        squares = sum(live._whitened(t) ** 2 for t in range(24))
        scale = np.abs(rebuilt[0]).max()
        np.testing.assert_allclose(kept.images[:2], rebuilt[:2], atol=0.03 * scale)
        np.testing.assert_allclose(live._squares, squares, rtol=1e-3)


def test_dark_frame_is_rejected_and_named(tmp_path: Path) -> None:
    txm = scan()
    txm.fault(5, "dark")
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(24)):
            snapshot = pipeline.add(frame)
        result = pipeline.finish()
        assert snapshot.n_visits == 24
        assert any("visit 6" in warning for warning in result.warnings)
        assert list(result.provenance["visits_rejected"]) == ["6"]
        assert np.isnan(result.noisy[5]).all()
        assert judged(result, txm)[1] < 0.09


def test_scan_without_flats_still_maps_and_says_so(tmp_path: Path) -> None:
    txm = scan(jitter_px=0.0)
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(30), flats="none"):
            pipeline.ingest(frame)
        result = pipeline.finish()
        assert any("no flat" in warning for warning in result.warnings)
        assert judged(result, txm, coverage=0.95)[0] > 0.9  # nothing moves, so dead pixels stay dead


def test_without_references_edge50_and_vca(tmp_path: Path) -> None:
    txm = scan()
    with Pipeline(Profile(), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(40)):
            pipeline.ingest(frame)
        snapshot = pipeline.snapshot()
        result = pipeline.finish()
        assert snapshot.edge50 is not None
        assert result.edge50 is not None
        assert result.map_method == "vca+rum+"
        truth = txm.truth()
        offset = (result.shifts_px + truth.shifts_px).mean(axis=0)
        second = shift_image(truth.abundances[1], offset)
        where = inside(shift_image(truth.edge_jump, offset)) & np.isfinite(result.edge50)
        correlation = np.corrcoef(result.edge50[where], second[where])[0, 1]
        print(f"edge-50 against the abundance of the higher state: {correlation:.3f}")
        assert correlation > 0.8


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (Frame("sample", np.ones((128, 127), "u2"), 8340.0, 2), "expected (128, 128)"),
        (Frame("sample", np.ones((128, 128), "u2"), None, 2), "no energy"),
        (Frame("sample", np.ones((128, 128), "c8"), 8340.0, 2), "expected numbers"),
        (Frame("flat", np.ones((0, 128, 128), "u2"), 8340.0, 2), "shape"),
    ],
)
def test_bad_frame_gives_one_clear_error_and_changes_nothing(frame: Frame, says: str, tmp_path: Path) -> None:
    txm = scan()
    good = list(frames_of(txm, nickel_energies(6)))
    with Pipeline(Profile(), scratch=tmp_path) as pipeline:
        for entry in good:
            pipeline.ingest(entry)
        with pytest.raises(BadFrameError) as caught:
            pipeline.ingest(frame)
        assert says in str(caught.value)
        assert pipeline.snapshot().n_visits == 6


def test_run_without_sample_frames_fails_clearly(tmp_path: Path) -> None:
    with Pipeline(Profile(), scratch=tmp_path) as pipeline, pytest.raises(MissingFramesError, match="no sample frame"):
        pipeline.finish()


@pytest.mark.parametrize("mode", ["proportional", "fitted"])
def test_a_magnification_that_grows_with_energy_is_taken_out(mode: str, tmp_path: Path) -> None:
    scan = growing_scan(sigma=5.0)
    profile = Profile(signal="optical-density", magnification=mode)
    with Pipeline(profile, scratch=tmp_path) as pipeline:
        for n, (image, energy) in enumerate(zip(scan.stack, scan.energies_eV, strict=True)):
            pipeline.ingest(Frame("sample", image, float(energy), seq=n + 1, time=float(n)))
        live = pipeline.snapshot()
        result = pipeline.finish()
    found = result.provenance["magnification"]
    assert found["model"] == mode
    assert found["growth"] == pytest.approx(1.0, abs=0.03)
    assert result.rank <= 5  # frames of different size would need many components
    assert live.rows[-1].rank <= (5 if mode == "proportional" else 8)


def test_few_quanta_are_linearised_about_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    txm = scan(photons=25.0, jitter_px=1.0)
    energies = nickel_energies(30)
    frames = list(frames_of(txm, energies))
    errors = {}
    for threshold in (0.0, scan_model.FEW_QUANTA):
        monkeypatch.setattr(scan_model, "FEW_QUANTA", threshold)
        with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
            for frame in frames:
                pipeline.keep(frame)
            result = pipeline.finish()
            offset = np.mean(result.shifts_px + txm.truth().shifts_px[: len(energies)], axis=0)
            clean = txm.microscope.phantom.stack(energies, np.tile(offset, (len(energies), 1)))
            difference = (result.denoised - clean)[:, result.mask]
            errors[threshold] = float(np.sqrt(np.mean(difference**2)))
    print("OD error without and with linearisation", errors, result.provenance["quanta_per_pixel_and_visit"])
    assert result.provenance["quanta_per_pixel_and_visit"] < scan_model.FEW_QUANTA
    assert errors[scan_model.FEW_QUANTA] < 0.95 * errors[0.0]


def test_at_most_one_visit_is_placed_again_for_every_visit_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a burst of them delays the frames that come next."""
    monkeypatch.setattr("txm_stream.pipeline._RENEWED_UP_TO", 0)  # as with large frames: flats stay as they are
    txm = scan(photons=100.0)
    shown: set[int] = set()
    again = 0
    with Pipeline(Profile(), references=references_of(txm), scratch=tmp_path) as pipeline:
        for frame in frames_of(txm, nickel_energies(20)):
            shown |= {update.index for update in pipeline.ingest(frame)}
            before = again
            for _ in range(3):
                again += len(pipeline.settle())
            assert again - before <= 1
    assert len(shown) == 20
    assert 1 <= again < 20


def test_live_visits_are_divided_by_pooled_flats_once_there_are_enough(tmp_path: Path) -> None:
    """Repeats share a flat: its noise would not average out, and look like chemistry."""
    txm = SimulatedTXM((96, 96), photons=200.0, jitter_px=0.0, flicker=0.0, seed=2)
    energies = [8300.0, 8320.0, 8341.0, 8346.0, 8349.5, 8352.0, 8400.0, 8440.0] + [8346.0] * 6
    microscope, seen = txm.microscope, set()
    noise, renewed = {}, []
    with Pipeline(Profile(registration=False), references=references_of(txm), scratch=tmp_path) as pipeline:
        microscope.shutter_open = False
        pipeline.ingest(Frame("dark", microscope.expose()[1], None, 1))
        microscope.shutter_open = True
        for seq, energy in enumerate(energies, start=1):
            microscope.move_energy(energy)
            for role in ("sample", "flat") if energy not in seen else ("sample",):
                microscope.sample_in = role == "sample"
                frame = Frame("sample" if role == "sample" else "flat", microscope.expose()[1], energy, seq, 1.0, seq)
                noise |= {update.index: update.sigma for update in pipeline.ingest(frame)}
            seen.add(energy)
            pipeline.snapshot()
            if seq == len(energies) - 1:
                single = dict(noise)
                for _ in range(len(energies)):
                    renewed += pipeline.settle()
                noise |= {update.index: update.sigma for update in renewed}
    assert sorted(update.index for update in renewed) == list(range(13))
    pooled = np.array([noise[index] / single[index] for index in range(13)])
    absorbed = float(np.exp(np.percentile(txm.microscope.phantom.optical_density(8346.0, (0.0, 0.0)), 50)))
    expected = np.sqrt((absorbed + 1 / 8) / (absorbed + 1))
    assert np.median(pooled) == pytest.approx(expected, rel=0.1)
    assert noise[13] == pytest.approx(noise[12], rel=0.1)  # the next one is divided by pooled flats at once
