"""Pixels that some visits did not see: completed from the others and from neighbours, with the error that is said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from simulated_scan import frames_of, references_of

from txm_stream import Pipeline, Profile
from txm_stream.judgement import in_order_of_truth, judge
from txm_stream.phantoms import inside
from txm_stream.resampling import shift_image
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.subspace.borders import borders_elsewhere, complete_beyond, expected_beyond, near_border
from txm_stream.subspace.missing import complete
from txm_stream.unmixing.noise_draws import SharedNoise, draw_noise

SHAPE = (120, 140)
VISITS, RANK = 14, 3


def smooth_images(rng, scale_px, rms):
    images = np.stack([gaussian_filter(rng.standard_normal(SHAPE), scale_px) for _ in range(RANK)])
    return images / images.std(axis=(1, 2), keepdims=True) * rms


def strips(rng):
    """Return where each of the visits measured: all but a strip of up to 5 px at the left, and up to 4 at the top."""
    seen = np.ones((VISITS, *SHAPE), dtype=bool)
    for mask, left, top in zip(seen, rng.integers(0, 6, VISITS), rng.integers(0, 5, VISITS), strict=True):
        mask[:, :left] = False
        mask[:top] = False
    return seen


@pytest.mark.parametrize(("scale_px", "rms"), [(3.0, 2.0), (8.0, 6.0)])
def test_borders_are_completed_with_the_noise_that_is_said(scale_px, rms):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((VISITS, RANK)))[0]
    seen = strips(rng)
    field = seen.all(axis=0)
    far, said, alone = [], [], []
    for _ in range(20):
        loads = smooth_images(rng, scale_px, rms)
        stack = np.tensordot(basis, loads, axes=1) + rng.standard_normal((VISITS, *SHAPE))
        stack[~seen] = 77.0  # whatever registration put there
        frames = stack.astype(np.float32)
        filled, borders = complete_beyond(frames.__getitem__, seen.__getitem__, np.arange(VISITS), basis, field)
        wrong = basis.T @ filled - loads[:, ~field]
        known = borders.field[~field]
        far.append(np.where(known, (wrong**2).mean(axis=0), np.nan))
        said.append(np.where(known, borders.noise.variance(basis)[0], np.nan))
        lonely = complete(frames[:, ~field], seen[:, ~field], basis)[1]
        alone.append(np.where(lonely.known, lonely.variance(basis)[0], np.nan))
    few = (~seen).sum(axis=0)[~field] > 5
    ratio = np.nanmean(np.array(far)[:, few]) / np.nanmean(np.array(said)[:, few])
    print(f"variance of pixels that miss many visits over what is said: {ratio:.2f}")
    assert ratio == pytest.approx(1, abs=0.25)
    assert np.nanmean(far) == pytest.approx(np.nanmean(said), rel=0.2)
    both = np.isfinite(alone) & np.isfinite(said)
    assert (np.array(said)[both] <= np.array(alone)[both] * (1 + 1e-9)).all(), "neighbours made it worse"
    assert np.isfinite(said).mean() > np.isfinite(alone).mean()


def test_borders_are_told_for_a_frame_that_lies_elsewhere():
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.standard_normal((VISITS, RANK)))[0]
    loads = smooth_images(rng, 4.0, 5.0)
    stack = (np.tensordot(basis, loads, axes=1) + rng.standard_normal((VISITS, *SHAPE))).astype(np.float32)
    left, width = np.array([10, 0, 0, 0, 0, 8, 8, 7, 7, 7, 6, 6, 6, 6]), SHAPE[1] - 12
    columns = np.arange(SHAPE[1])
    measured = (columns >= left[:, None]) & (columns < left[:, None] + width)  # of the sample, by each visit

    def seen_from(first):
        strip = measured[:, None, first : first + width]
        return np.broadcast_to(strip, (VISITS, SHAPE[0], width)).copy()

    def read_from(first):
        return lambda visit: np.where(measured[visit], stack[visit], np.float32(77))[:, first : first + width]

    first, middle = int(left[0]), round(float(left.mean()))
    here, there = seen_from(first), seen_from(middle)
    told = borders_elsewhere(read_from(first), basis, here.all(axis=0), there)
    _, found = complete_beyond(read_from(middle), there.__getitem__, np.arange(VISITS), basis, there.all(axis=0))
    assert np.mean(told.field == found.field) > 0.99
    both = told.field & found.field & ~there.all(axis=0)
    assert told.growth(basis)[1][both].max() > 0.5, "neighbours were not asked"
    for said, true in zip(told.growth(basis), found.growth(basis), strict=True):
        assert np.sum(said[both] ** 2) == pytest.approx(np.sum(true[both] ** 2), rel=0.1)


def test_nothing_is_said_of_what_too_few_visits_saw():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((VISITS, RANK)))[0]
    seen = np.ones((VISITS, *SHAPE), dtype=bool)
    seen[RANK - 1 :, :, :2] = False
    frames = rng.standard_normal((VISITS, *SHAPE)).astype(np.float32)
    filled, borders = complete_beyond(frames.__getitem__, seen.__getitem__, np.arange(VISITS), basis, seen.all(axis=0))
    assert not borders.field[:, :2].any()
    assert borders.field[:, 2:].all()
    assert np.array_equal(filled, frames[:, :, :2].reshape(VISITS, -1))
    growth, shared = borders.growth(basis)
    assert (growth == 1).all()
    assert not shared.any()


def test_a_field_too_small_to_tell_is_completed_without_neighbours():
    rng = np.random.default_rng(0)
    field = np.zeros((40, 40), dtype=bool)
    field[15:25, 15:25] = True
    assert expected_beyond(rng.standard_normal((2, 40, 40)).astype(np.float32), field, ~field) is None
    assert np.array_equal(near_border(field), field)
    assert not near_border(np.zeros_like(field)).any()


@pytest.mark.parametrize(("alike_px", "rms"), [(1.0, 0.0), (2.0, 5.0), (4.0, 5.0)])
def test_how_far_deviations_are_alike_is_found(alike_px, rms):
    rng = np.random.default_rng(1)
    field = np.zeros(SHAPE, dtype=bool)
    field[8:-8, 8:-8] = True
    found = []
    for _ in range(5):
        # the field itself is alike by exp(−r²/4s²); its deviation from a mean three pixels away nearly so
        loads = smooth_images(rng, alike_px, rms) + rng.standard_normal((RANK, *SHAPE))
        told = expected_beyond(loads.astype(np.float32), field, ~field)
        found.append(told.alike_px)
    assert np.mean(found) == pytest.approx(alike_px, rel=0.3)


def test_shared_noise_has_its_strength_and_reach():
    rng = np.random.default_rng(2)
    total, part = np.full((400, 400), 2.0, dtype=np.float32), np.full((400, 400), 1.5, dtype=np.float32)
    noise = draw_noise((2, 400, 400), total, SharedNoise(part, 2.0), rng)
    assert noise.std() == pytest.approx(2.0, rel=0.02)
    for apart in (1, 2, 4):
        alike = np.mean(noise[:, apart:] * noise[:, :-apart]) / 1.5**2
        assert alike == pytest.approx(np.exp(-(apart**2) / 16), abs=0.03)
    again = draw_noise((2, 400, 400), total, None, rng)
    assert abs(np.mean(again[:, 1:] * again[:, :-1])) < 0.03


@pytest.mark.parametrize(("chemistry", "photons"), [("core-shell", 500.0), ("region", 100.0)])
def test_few_visits_map_the_whole_field_and_know_their_error_at_the_border(chemistry, photons):
    energies = [8376.5, 8212, 8247, 8576.5, 8777, 8340.5, 8358, 8349, 8345, 8346.5, 8343.5, 8348, 8348, 8353.5, 8353.5]
    wrong, said = [], []
    for seed in (4, 5):
        txm = SimulatedTXM((192, 192), n_states=3, chemistry=chemistry, photons=photons, seed=seed)
        with Pipeline(Profile(), references=references_of(txm)) as pipeline:
            for frame in frames_of(txm, energies):
                pipeline.keep(frame)
            result = pipeline.finish()
        truth = txm.truth()
        figures = judge(result, truth)
        assert figures.map_coverage > 0.99
        offset_px = np.mean(np.asarray(result.shifts_px) + truth.shifts_px, axis=0)
        particles = inside(shift_image(truth.edge_jump, offset_px))
        abundances = np.stack([shift_image(image, offset_px) for image in truth.abundances])
        squares = ((in_order_of_truth(result, truth) - abundances) ** 2).mean(axis=0)
        border = particles & np.isfinite(squares)
        border[8:-8, 8:-8] = False
        wrong.append(squares[border].mean())
        said.append((result.phase_sigma**2).mean(axis=0)[border].mean())
    ratio = np.sqrt(np.mean(said) / np.mean(wrong))
    print(f"{chemistry}: σ at the border over the error there {ratio:.2f}")
    assert 0.75 < ratio < 1.35
