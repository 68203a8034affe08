"""Subspace: streaming equals batch, noise, rank, Marchenko–Pastur, projection, denoising of a stack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from txm_stream import denoise_stack
from txm_stream.denoising import load_denoiser
from txm_stream.errors import BadProfileError, BadStackError
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.results import K_MAX
from txm_stream.subspace.gram import SMOOTHING_PX, SmoothedGram, Spectrum, _all_within
from txm_stream.subspace.missing import INFLATION_AT_MOST, complete
from txm_stream.subspace.noise import (
    coarse_excess,
    marchenko_pastur_median,
    noise_beyond,
    noise_from_spectrum,
    noise_of_image,
    noise_of_samples,
)
from txm_stream.subspace.projection import Projection, project
from txm_stream.subspace.rank import noise_edge, parallel_analysis
from txm_stream.subspace.risk import component_risks

SHAPE = (48, 56)
ALL = np.ones(SHAPE, dtype=bool)
FRAMES = np.random.default_rng(0).standard_normal((9, *SHAPE)).astype(np.float32)
FRAMES += np.linspace(0.2, 2, 9, dtype=np.float32)[:, None, None] * np.sin(np.arange(56, dtype=np.float32) / 5)


def gram_of(frames, sigma=1.0):
    gram = SmoothedGram(frames.shape[1:])
    for t, frame in enumerate(frames):
        gram.partial_fit(t, frame, np.ones(frame.shape, dtype=bool), sigma)
    return gram


def batch_gram(frames, step):
    smooth = [ndimage.gaussian_filter(f, SMOOTHING_PX, truncate=3.0, mode="nearest") for f in frames]
    inside = ndimage.binary_erosion(np.ones(frames.shape[1:], dtype=bool), np.ones((9, 9)))  # borders do not count
    lattice = (slice(step // 2, None, step), slice(step // 2, None, step))
    flat = np.stack([s[lattice][inside[lattice]] for s in smooth]).astype(np.float64)
    return flat @ flat.T


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(9)), sigma=st.floats(0.2, 5))
def test_frames_in_any_order_with_replacements_give_the_batch_gram(order, sigma):
    gram = SmoothedGram(SHAPE)
    for t in range(9):  # first something else, then the frame itself, in any order
        gram.partial_fit(t, FRAMES[(t + 4) % 9] + 1, ALL, 1.0)
    for t in order:
        gram.partial_fit(t, FRAMES[t], ALL, sigma)
    spectrum = gram.spectrum()
    expected = np.linalg.eigvalsh(batch_gram(FRAMES, gram.step))[::-1] / sigma**2
    np.testing.assert_allclose(spectrum.values, expected, rtol=1e-4)
    rebuilt = (spectrum.vectors * spectrum.values) @ spectrum.vectors.T
    np.testing.assert_allclose(rebuilt, batch_gram(FRAMES, gram.step) / sigma**2, rtol=1e-3, atol=1e-3 * expected[0])


def test_a_replaced_visit_leaves_no_trace():
    fresh, changed = gram_of(FRAMES), gram_of(FRAMES)
    changed.partial_fit(3, 100 * FRAMES[5], ALL, 7.0)
    changed.partial_fit(3, FRAMES[3], ALL, 1.0)
    np.testing.assert_array_equal(changed.spectrum().values, fresh.spectrum().values)
    assert changed.noise_level() == fresh.noise_level()


def test_a_visit_without_weight_does_not_count():
    keep = np.ones(9)
    keep[4] = 0
    spectrum = gram_of(FRAMES).spectrum(keep)
    alone = gram_of(np.delete(FRAMES, 4, axis=0)).spectrum()
    np.testing.assert_allclose(spectrum.values[:8], alone.values, rtol=1e-4)
    np.testing.assert_allclose(spectrum.vectors[4, :8], 0, atol=1e-6)


@pytest.mark.parametrize("n_signal", [0, 2, 4])
def test_noise_level_is_found_within_half_a_percent(n_signal):
    rng = np.random.default_rng(n_signal)
    samples = rng.standard_normal((60, 12000))
    samples += 3 * rng.standard_normal((60, n_signal)) @ rng.standard_normal((n_signal, 12000))
    assert noise_of_samples(0.37 * samples) == pytest.approx(0.37, rel=0.005)
    values = np.linalg.eigvalsh(0.37**2 * samples @ samples.T)
    assert noise_from_spectrum(values, 12000) == pytest.approx(0.37, rel=0.015)


def test_what_the_subspace_leaves_tells_the_noise_of_a_large_stack_to_hundredths_of_a_percent():
    energies = nickel_energies(40)
    clean = make_phantom((256, 256), seed=2).stack(energies)
    sigma = 50 / 255 * np.ptp(clean)
    noisy = clean + np.float32(sigma) * np.random.default_rng(3).standard_normal(clean.shape, dtype=np.float32)
    found = denoise_stack(noisy, denoiser="tv")
    assert found.sigma == pytest.approx(sigma, rel=4 / np.sqrt(2 * noisy.size))  # four standard errors
    error = float(np.mean((found.stack - clean) ** 2))
    assert found.risk == pytest.approx(error, rel=0.1)


def test_where_white_noise_is_not_all_that_is_left_the_median_is_believed():
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((20, 64, 64)).astype(np.float32)
    frames[:, :32] *= 2
    basis = np.linalg.qr(rng.standard_normal((20, 2)))[0]
    components = project(lambda t: frames[t], basis, (64, 64))
    field = np.ones((64, 64), dtype=bool)
    assert noise_beyond(1.0, lambda t: frames[t], basis, components, field) == 1.0
    assert noise_beyond(1.6, lambda t: frames[t], basis, components, field) == pytest.approx(np.sqrt(2.5), rel=0.01)


def test_few_visits_and_few_pixels():
    samples = np.random.default_rng(0).standard_normal((4, 5000))
    assert noise_of_samples(samples) == pytest.approx(1, rel=0.03)
    with pytest.raises(ValueError, match="at least as many pixels"):
        noise_from_spectrum(np.ones(10), 9)


@pytest.mark.parametrize("beta", [0.05, 0.3, 0.8])
def test_median_of_marchenko_pastur_by_simulation(beta):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((round(beta * 1000), 1000))
    assert marchenko_pastur_median(beta) == pytest.approx(np.median(np.linalg.eigvalsh(x @ x.T / 1000)), rel=0.01)


@pytest.mark.parametrize(("shape", "visits"), [((64, 72), 20), ((176, 160), 40)])
def test_noise_edge_by_simulation_of_smoothed_white_noise(shape, visits):
    rng = np.random.default_rng(0)
    largest, edges = [], []
    for _ in range(12):
        gram = gram_of(rng.standard_normal((visits, *shape)).astype(np.float32))
        spectrum = gram.spectrum()
        largest.append(spectrum.values[0])
        edges.append(noise_edge(spectrum, 1.0, visits))
    assert 0.94 < edges[0] / np.mean(largest) < 1.2


@pytest.mark.parametrize("sigma", [0.01, 0.05])
@pytest.mark.parametrize("n_states", [2, 4])
def test_rank_is_the_oracle_rank_give_or_take_one(n_states, sigma):
    energies = nickel_energies(40)
    phantom = make_phantom((96, 96), n_states=n_states, seed=2)
    clean = phantom.stack(energies)
    rng = np.random.default_rng(0)
    noisy = clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)
    gram = gram_of(noisy, sigma)
    found = parallel_analysis(gram.spectrum(), 1.0)
    truth = np.linalg.eigvalsh(batch_gram(clean, gram.step))[::-1] / sigma**2
    oracle = int(np.sum(truth > noise_edge(gram.spectrum(), 1.0, len(energies))))
    assert abs(found - max(oracle, 2)) <= 1


def test_rank_stays_between_its_limits():
    rng = np.random.default_rng(0)
    assert parallel_analysis(gram_of(rng.standard_normal((20, 64, 64)).astype(np.float32)).spectrum(), 1.0) == 2
    many = Spectrum(np.full(30, 1e9), np.eye(30), 1000, 500.0, 0.02)
    assert parallel_analysis(many, 1.0) == K_MAX
    assert parallel_analysis(gram_of(FRAMES[:1]).spectrum(), 1.0) == 1


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 11), max_size=5), changed=st.integers(0, 5))
def test_streamed_projection_equals_batch(cuts, changed):
    rng = np.random.default_rng(1)
    time = rng.standard_normal((12, 3))
    frames = np.einsum("tk,kyx->tyx", time, 5 * rng.standard_normal((3, 32, 40)))
    frames = (frames + 0.01 * rng.standard_normal(frames.shape)).astype(np.float32)
    current = frames.copy()
    current[changed] += 1
    projection = Projection((32, 40), lambda t: current[t])
    for end in sorted(cuts | {12}):
        basis = np.linalg.svd(current[:end].reshape(end, -1), full_matrices=False)[0]
        projection.turn(basis, min(3, end))
        if end > changed and not np.array_equal(current[changed], frames[changed]):
            projection.replace(changed, frames[changed] - current[changed])
            current[changed] = frames[changed]
    basis = np.linalg.svd(frames.reshape(12, -1), full_matrices=False)[0]
    projection.turn(basis, 3)
    exact = project(lambda t: frames[t], basis[:, :3], (32, 40))
    error = np.sqrt(np.mean((projection.images[:3] - exact) ** 2) / np.mean(exact**2))
    assert error < 0.02


def test_unseen_visits_are_filled_without_bias_and_the_noise_grows_as_said():
    rng = np.random.default_rng(5)
    visits, pixels, draws = 40, 60, 400
    basis = np.linalg.qr(rng.standard_normal((visits, 3)))[0]
    signal = basis @ rng.standard_normal((3, pixels)) * 5
    seen = rng.random((visits, pixels)) < np.linspace(0.25, 1, pixels)
    projected, inflation = [], np.empty(0)
    for _ in range(draws):
        filled, noise = complete(signal + rng.standard_normal(signal.shape), seen, basis)
        inflation = noise.variance(basis)[0]
        assert np.array_equal(np.isfinite(filled), np.ones_like(seen))
        projected.append(basis.T @ filled)
    wrong = np.stack(projected) - basis.T @ signal
    enough = np.isfinite(inflation)
    assert enough.mean() > 0.8
    assert np.abs(wrong.mean(axis=0) / wrong.std(axis=0))[:, enough].max() < 4.5 / np.sqrt(draws)
    ratio = (wrong**2).mean(axis=(0, 1))[enough] / inflation[enough]
    assert ratio == pytest.approx(1, abs=0.2)
    assert ratio.mean() == pytest.approx(1, abs=0.03)


def test_a_pixel_that_too_few_visits_saw_is_given_up_as_it_is():
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 2)))[0]
    values = np.ones((20, 3), dtype=np.float32)
    seen = np.ones((20, 3), dtype=bool)
    seen[1:, 1] = False
    seen[:, 2] = False
    filled, noise = complete(values, seen, basis)
    inflation = noise.variance(basis)[0]
    assert np.array_equal(filled, values)
    assert inflation[0] == pytest.approx(1)
    assert np.isinf(inflation[1:]).all()
    assert INFLATION_AT_MOST > 1


def test_risk_is_the_true_error_of_a_linear_filter():
    rng = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(rng.standard_normal((128, 128)), 4).astype(np.float32)
    clean /= clean.std()

    def smooth(image, sigma):
        return ndimage.gaussian_filter(image, 1.5)

    noisy = (clean + 0.5 * rng.standard_normal(clean.shape)).astype(np.float32)
    risk = component_risks(noisy[None], smooth(noisy, 0.5)[None], 0.5, smooth, rng=rng, factors=np.ones(1))
    assert risk[0] == pytest.approx(np.mean((smooth(noisy, 0.5) - clean) ** 2), rel=0.15)


def test_risk_sees_signal_that_a_denoiser_takes_away():
    rng = np.random.default_rng(1)
    texture = 0.3 * rng.standard_normal((150, 200)).astype(np.float32)
    noisy = texture + rng.standard_normal(texture.shape).astype(np.float32)

    def nothing(image, sigma):
        return np.zeros_like(image)

    risk = component_risks(noisy[None], nothing(noisy, 1.0)[None], 1.0, nothing, rng=rng, factors=np.ones(1))
    assert risk[0] == pytest.approx(np.mean(texture**2), rel=0.3)


def test_risk_is_not_at_the_mercy_of_the_noise_that_is_removed():
    unet, phantom = load_denoiser("unet"), make_phantom((150, 200), seed=1)
    clean = (phantom.field_jump * (phantom.field_abundances[0] - 0.5)).astype(np.float32)
    clean *= np.float32(1 / clean.std())
    ratios, plain = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        noisy = clean + rng.standard_normal(clean.shape, dtype=np.float32)
        found = unet(noisy, 1.0)
        true = float(np.mean((found - clean) ** 2))
        risk = component_risks(noisy[None], found[None], 1.0, unet, rng=rng, factors=np.ones(1))
        ratios.append(risk[0] / true)
        plain.append(float(np.mean((noisy - clean) ** 2 - 1)) / true)  # what chance adds to Stein's estimate
    assert 0.85 < np.mean(ratios) < 1.15
    assert np.std(ratios) < 0.7 * np.std(plain)


@pytest.fixture(scope="module")
def measured():
    energies = nickel_energies(30)
    phantom = make_phantom((96, 112), seed=3)
    clean = phantom.stack(energies)
    noise = np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    return clean, (clean + np.float32(0.05) * noise).astype(np.float32)


def test_a_stack_is_denoised_and_says_by_how_much(measured):
    clean, noisy = measured
    kept = noisy.copy()
    out = denoise_stack(noisy)
    np.testing.assert_array_equal(noisy, kept)
    error = float(np.mean((out.stack - clean) ** 2))
    assert out.sigma == pytest.approx(0.05, rel=0.02)
    assert error < 0.05**2 / 25
    assert out.risk == pytest.approx(error, rel=0.35)
    assert 2 <= out.rank <= 4
    np.testing.assert_allclose(np.tensordot(out.loadings, out.components, axes=1), out.stack, atol=1e-5)


def test_noise_given_or_measured_gives_the_same(measured):
    _, noisy = measured
    given = denoise_stack(noisy, sigma=0.05, rank=2, denoiser="tv")
    free = denoise_stack(noisy, rank=2, denoiser="tv")
    assert given.sigma == pytest.approx(0.05)
    np.testing.assert_allclose(given.stack, free.stack, atol=0.02)


def test_missing_pixels_and_frames(measured):
    clean, noisy = measured
    holed = noisy.copy()
    holed[4] = np.nan
    holed[:, 20, 30] = np.nan
    holed[3, 50, 50] = np.nan
    mask = np.ones(clean.shape[1:], dtype=bool)
    mask[:, :5] = False
    out = denoise_stack(holed, mask=mask)
    assert np.isnan(out.stack[4]).all()
    assert np.isnan(out.stack[:, 20, 30]).all()
    assert np.isnan(out.stack[:, :, :5]).all()
    assert np.isfinite(out.stack[3, 50, 50])
    good = np.isfinite(out.stack)
    assert np.mean((out.stack - clean)[good] ** 2) < 0.05**2 / 20


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rank": 31}, BadStackError, "allowed are 1 to 30"),
        ({"sigma": 0.0}, BadStackError, "positive"),
        ({"sigma": np.ones(3)}, BadStackError, "one per frame"),
        ({"mask": np.zeros((96, 112), dtype=bool)}, BadStackError, "no pixel"),
        ({"mask": np.ones((9, 9), dtype=bool)}, BadStackError, "mask of shape"),
        ({"denoiser": "magic"}, BadProfileError, "available"),
        ({"device": "tpu"}, BadProfileError, "allowed are"),
        ({"stack": np.zeros((30, 96, 112))}, BadStackError, "noise cannot be measured"),
        ({"stack": np.zeros((96, 112))}, BadStackError, "expected numbers"),
        ({"stack": np.full((3, 40, 40), np.nan)}, BadStackError, "no pixel"),
    ],
)
def test_bad_input_is_one_clear_line(measured, change, error, message):
    arguments = {"stack": measured[1]} | change
    with pytest.raises(error, match=message):
        denoise_stack(arguments.pop("stack"), **arguments)


def test_noise_of_an_image_ignores_its_content():
    y, x = np.mgrid[:128, :128] / 20
    image = np.sin(x) * np.cos(y) + 0.1 * np.random.default_rng(0).standard_normal((128, 128))
    image[4:9, 5] = np.nan
    assert noise_of_image(image) == pytest.approx(0.1, rel=0.05)
    assert np.isnan(noise_of_image(np.full((40, 40), np.nan)))


@pytest.mark.parametrize("width_px", [0.0, 0.8])
def test_noise_that_is_correlated_over_pixels_is_noticed(width_px):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((40, 96, 112)).astype(np.float32)
    if width_px:
        frames = np.stack([ndimage.gaussian_filter(frame, width_px) for frame in frames])
        frames /= frames.std()
    gram = gram_of(frames)
    spectrum, level = gram.spectrum(), gram.noise_level()
    white = level**2 * spectrum.gain * spectrum.n_samples
    excess = coarse_excess(spectrum.values[2:], spectrum.n_effective, white)
    # Gaussian smoothing leaves the noise of a pixel at 1 / (2 sqrt(pi) width) of the coarse one
    expected = 2 * np.sqrt(np.pi) * width_px / np.sqrt(1 + (width_px / SMOOTHING_PX) ** 2) if width_px else 1.0
    assert excess == pytest.approx(expected, rel=0.12)


def test_too_few_eigenvalues_say_nothing_about_the_noise():
    assert coarse_excess(np.ones(7), 1000.0, 0.1) == 1
    assert coarse_excess(np.ones(100), 150.0, 0.1) == 1


@pytest.mark.parametrize("reach", [1, 5, 9])
def test_pixels_whose_surroundings_are_all_seen(reach: int) -> None:
    mask = np.random.default_rng(0).random((40, 30)) > 0.05
    expected = ndimage.minimum_filter1d(mask, reach, axis=0, mode="constant", cval=0)
    np.testing.assert_array_equal(_all_within(mask, reach), expected)
