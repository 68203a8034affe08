"""Phantoms: is the truth what it claims to be?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from txm_stream.errors import BadFrameError, BadReferenceError, BadStackError
from txm_stream.phantoms import (
    Jitter,
    Phantom,
    Truth,
    draw_flicker,
    make_detector,
    make_phantom,
    nickel_energies,
    nickel_states,
    suitable_gain,
)

PHOTONS = 500.0


@pytest.mark.parametrize("n_states", [2, 3, 4, 5])
def test_spectra_are_zero_below_the_edge_and_one_above(n_states: int) -> None:
    spectra = nickel_states(n_states)
    mu = spectra(np.array([8250.0, 8320.0, 9000.0]))
    assert mu.shape == (3, n_states)
    assert np.abs(mu[:2]).max() < 1e-6
    assert mu[2] == pytest.approx(1, abs=0.02)
    edges = np.array([state.edge_eV for state in spectra.states])
    assert np.all((np.diff(edges) >= 2) & (np.diff(edges) <= 3.01))
    fine = np.linspace(8250, 8450, 4001)
    assert np.all(spectra(fine).max(axis=0) > 1.1)  # a white line
    assert len(set(spectra.names)) == n_states


def test_spectra_of_six_states_are_refused() -> None:
    with pytest.raises(BadReferenceError, match="2 to 5"):
        nickel_states(6)


@pytest.mark.parametrize("n", [5, 6, 7, 12, 30, 60, 117, 1000])
def test_energy_lists_ascend_and_span_the_edge(n: int) -> None:
    energies = nickel_energies(n)
    assert energies.shape == (n,)
    assert np.all(np.diff(energies) > 0)
    assert energies[0] == 8250
    assert energies[-1] == 8450
    through = energies[(energies >= 8335) & (energies <= 8365)]
    if n >= 52:
        assert np.diff(through).max() <= 1.0
    with pytest.raises(BadStackError, match="at least 5"):
        nickel_energies(4)


@pytest.mark.parametrize("chemistry", ["core-shell", "region"])
@pytest.mark.parametrize("shape", [(64, 96), (256, 256)])
def test_phantom_keeps_its_promises(chemistry: str, shape: tuple[int, int]) -> None:
    for seed in range(3):
        phantom = make_phantom(shape, n_states=3, chemistry=chemistry, seed=seed)
        assert phantom.edge_jump.shape == shape
        assert phantom.abundances.shape == (3, *shape)
        assert phantom.background.shape == (2, *shape)
        assert phantom.abundances.min() >= 0
        assert phantom.abundances.sum(axis=0) == pytest.approx(1, abs=1e-5)
        assert 0.79 < phantom.edge_jump.max() < 0.81
        assert phantom.open_beam.mean() >= 0.15
        assert 0.2 < phantom.inside.mean() < 0.8
        other = phantom.background[0][phantom.inside]
        assert np.percentile(other, 5) > 0.15
        assert np.percentile(other, 99) < 0.55
        stack = phantom.stack([8250.0, 8350.0, 8450.0])
        assert np.abs(stack[:, phantom.open_beam]).max() < 0.005
        assert phantom.abundances[0][phantom.inside].std() > 0.1  # there is chemistry to see


def test_phantom_is_reproducible_and_follows_its_own_formula() -> None:
    first, second = make_phantom((48, 64), seed=3), make_phantom((48, 64), seed=3)
    assert np.array_equal(first.edge_jump, second.edge_jump)
    assert not np.array_equal(first.edge_jump, make_phantom((48, 64), seed=4).edge_jump)
    mu = first.spectra(8347.3)[0]
    expected = first.edge_jump * np.tensordot(mu, first.abundances, axes=1)
    expected = expected + first.background[0] + (8347.3 - 8345) / 100 * first.background[1]
    assert first.optical_density(8347.3) == pytest.approx(expected, abs=1e-5)


def test_features_move_by_plus_shift(phantom: Phantom) -> None:
    still = phantom.optical_density(8350)
    moved = phantom.optical_density(8350, (3, -2))
    assert moved[3:, :-2] == pytest.approx(still[:-3, 2:], abs=2e-5)
    assert np.abs(moved - still).max() > 0.1


def test_sub_pixel_shift_is_recovered_from_the_gradient(phantom: Phantom) -> None:
    shift = np.array([0.31, -0.42])
    a, b = phantom.optical_density(8350), phantom.optical_density(8350, shift)
    a, b = gaussian_filter(a, 2.0), gaussian_filter(b, 2.0)  # smooth, so that finite differences are slopes
    gy, gx = np.gradient((a + b) / 2)
    inner = (slice(9, -9), slice(9, -9))
    design = -np.stack([gy[inner].ravel(), gx[inner].ravel()], axis=1)
    found = np.linalg.lstsq(design, (b - a)[inner].ravel())[0]
    assert found == pytest.approx(shift, rel=0.05)


def test_shift_beyond_the_margin_is_refused(phantom: Phantom) -> None:
    with pytest.raises(BadFrameError, match="margin of 24 px"):
        phantom.optical_density(8350, (0, 25))
    with pytest.raises(BadFrameError, match="at least 32 and 24"):
        make_phantom((16, 16))


def test_jitter_has_the_stated_size_and_is_reproducible() -> None:
    steady = Jitter(2.0, seed=1, drift_px=0.0).shifts(3000)
    assert steady.std(axis=0) == pytest.approx(2.0, rel=0.06)
    assert np.abs(steady).max() <= 6.0
    jitter = Jitter(2.0, seed=1)
    assert np.array_equal(jitter.shifts(60), jitter.shifts(90)[:60])
    drift = jitter.shifts(61) - Jitter(2.0, seed=1, drift_px=0.0).shifts(61)
    assert np.hypot(*drift[60]) == pytest.approx(2.0, abs=0.01)
    assert np.abs(jitter.shifts(500)).max() <= jitter.largest_px
    assert np.array_equal(Jitter(0.0).shifts(3), np.zeros((3, 2)))


@pytest.mark.parametrize("photons", [8.0, 500.0, 20000.0])
def test_counts_are_poisson_with_read_noise(photons: float) -> None:
    gain = suitable_gain(photons)
    detector = make_detector((64, 64), electrons_per_adu=gain)
    good = ~(detector.dead | detector.hot)
    frames = detector.expose(None, photons=400 * photons, rng=np.random.default_rng(5), repeats=400).astype(float)
    assert frames.dtype == np.float64
    quanta = (frames - detector.offset_adu)[:, good] * gain
    expected = photons * detector.beam[good]
    assert quanta.mean(axis=0).mean() == pytest.approx(expected.mean(), rel=0.01)
    assert quanta.mean(axis=0) / expected == pytest.approx(1, abs=6 / np.sqrt(400 * photons * 0.4) + 0.02)
    read = (detector.read_noise_adu**2 + 1 / 12) * gain**2
    assert quanta.var(axis=0, ddof=1).mean() == pytest.approx(expected.mean() + read, rel=0.02)
    third = ((quanta - quanta.mean(axis=0)) ** 3).mean()
    if photons < 1000:
        assert third == pytest.approx(expected.mean(), rel=0.35)  # the skewness of a Poisson law, not of a normal one


def test_beam_dark_level_and_bad_pixels() -> None:
    detector = make_detector((256, 256), seed=2)
    assert detector.beam.mean() == pytest.approx(1, abs=1e-3)
    assert detector.beam.min() < 0.75
    assert detector.beam.max() > 1.2
    assert detector.dead.sum() == detector.hot.sum() == round(2e-4 * 256 * 256)
    assert not np.any(detector.dead & detector.hot)
    rng = np.random.default_rng(0)
    flat = detector.expose(None, photons=PHOTONS, rng=rng, repeats=5).mean(axis=0)
    dark = detector.expose(None, photons=0, rng=rng, repeats=5)
    assert dark.dtype == np.uint16
    dark_level = dark.mean(axis=0)
    good = ~(detector.dead | detector.hot)
    assert dark_level[good].mean() == pytest.approx(100, abs=0.1)
    assert dark[:, good].std() == pytest.approx(2.5, abs=0.1)
    assert np.all(flat[detector.dead] < 110)
    assert np.all(dark_level[detector.hot] > 1500)
    assert dark_level[good].max() < 125
    assert flat == pytest.approx(detector.expected_adu(None, photons=PHOTONS / 5), rel=0.4)
    half = np.full((256, 256), 0.5, dtype=np.float32)
    through = detector.expose(half, photons=PHOTONS, rng=rng, repeats=5).mean(axis=0)
    assert np.median((through - 100)[good] / (flat - 100)[good]) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(BadFrameError, match="expected"):
        detector.expose(half[:10], photons=PHOTONS, rng=rng)


def test_flicker_has_the_stated_size() -> None:
    rng = np.random.default_rng(1)
    intensities = np.array([draw_flicker(0.02, rng=rng, repeats=5) for _ in range(4000)])
    assert np.log(intensities.mean(axis=1)).std() == pytest.approx(0.02, rel=0.06)
    assert np.all(draw_flicker(0.0, rng=rng, repeats=3) == 1)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((96, 128), seed=1)


def _truth(phantom: Phantom, energies: np.ndarray, *, repeats: int = 5) -> Truth:
    detector = make_detector(phantom.shape, seed=0)
    return Truth(
        edge_jump=phantom.edge_jump,
        abundances=phantom.abundances,
        background=phantom.background,
        names=phantom.names,
        energies_eV=energies,
        spectra=phantom.spectra(energies),
        shifts_px=np.zeros((energies.size, 2)),
        flicker=np.ones(energies.size),
        faults=("",) * energies.size,
        photons=PHOTONS,
        repeats=repeats,
        beam=detector.beam,
        bad_pixels=detector.dead | detector.hot,
        electrons_per_adu=detector.electrons_per_adu,
        read_noise_adu=detector.read_noise_adu,
        offset_adu=detector.offset_adu,
    )


def test_truth_survives_a_file(phantom: Phantom, tmp_path: Path) -> None:
    truth = _truth(phantom, nickel_energies(7))
    truth.save(tmp_path / "truth.npz")
    read = Truth.load(tmp_path / "truth.npz")
    assert read.names == truth.names
    assert read.faults == truth.faults
    assert (read.photons, read.repeats) == (500.0, 5)
    assert np.array_equal(read.edge_jump, truth.edge_jump)
    assert np.array_equal(read.optical_density(), truth.optical_density())
    assert truth.optical_density() == pytest.approx(phantom.stack(truth.energies_eV), abs=1e-5)


def test_stated_noise_is_the_noise(phantom: Phantom) -> None:
    energies = np.array([8300.0, 8347.0])
    truth = _truth(phantom, energies)
    detector = make_detector(phantom.shape, seed=0)
    rng = np.random.default_rng(3)
    where = truth.inside & ~truth.bad_pixels
    for visit, energy in enumerate(energies):
        od = phantom.optical_density(energy)
        errors = []
        for _ in range(20):
            sample = detector.expose(np.exp(-od), photons=PHOTONS, rng=rng, repeats=5).mean(axis=0)[where] - 100
            flat = detector.expose(None, photons=PHOTONS, rng=rng, repeats=5).mean(axis=0)[where] - 100
            errors.append(np.log(flat / sample) - od[where])
        assert np.std(errors) == pytest.approx(truth.noise_sigma()[visit], rel=0.03)
    assert np.all(truth.noise_sigma(flat_visits=np.inf) < truth.noise_sigma())


@pytest.mark.parametrize("chemistry", ["core-shell", "region"])
def test_least_squares_reads_twenty_decibel_at_500_photons(chemistry: str) -> None:
    phantom = make_phantom((256, 256), chemistry=chemistry, seed=0)
    detector = make_detector(phantom.shape, seed=0)
    rng = np.random.default_rng(0)
    energies = nickel_energies(60)
    where = phantom.inside & ~(detector.dead | detector.hot)
    data, weights = [], []
    for energy in energies:
        transmission = np.exp(-phantom.optical_density(energy))
        sample = np.maximum(detector.expose(transmission, photons=PHOTONS, rng=rng)[0][where] - 100.0, 1)
        flat = np.maximum(detector.expose(None, photons=PHOTONS, rng=rng)[0][where] - 100.0, 1)
        data.append(np.log(flat / sample))
        weights.append(1 / (1 / sample + 1 / flat))
    design = np.column_stack([phantom.spectra(energies), np.ones(60), (energies - 8345) / 100])
    y, w = np.array(data), np.array(weights)
    normal = np.einsum("tk,tn,tl->nkl", design, w, design)
    right = np.einsum("tk,tn->nk", design, w * y)
    found = np.linalg.solve(normal, right[..., None])[:, :2, 0]
    share = np.clip(found[:, 0] / np.maximum(found.sum(axis=1), 1e-3), 0, 1)
    rmse = np.sqrt(np.mean((share - phantom.abundances[0][where]) ** 2))
    psnr = -20 * np.log10(rmse)
    print(f"{chemistry}: least squares {psnr:.2f} dB")
    assert 17 < psnr < 23
