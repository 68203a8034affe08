"""The dark of few frames: as good as its noise and the camera's own pattern allow; hot pixels stay what they are."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream import Profile
from txm_stream.dark_field import DarkField, without_noise
from txm_stream.frame_store import FrameStore
from txm_stream.frames import Frame
from txm_stream.normaliser import Normaliser

SHAPE = (192, 256)
READ_NOISE = 2.5


def pattern(rng, fine):
    """A dark with a slope, columns and rows of their own, and pixels that differ by ``fine`` ADU rms."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    columns, rows = 3 * rng.standard_normal(SHAPE[1]), 2 * rng.standard_normal((SHAPE[0], 1))
    return 100 + 4 * np.exp(-((y / 60) ** 2) - (x / 80) ** 2) + columns + rows + fine * rng.standard_normal(SHAPE)


def taken(rng, truth, repeats):
    """Frames as a camera gives them: read noise, whole numbers."""
    return np.rint(truth + READ_NOISE * rng.standard_normal((repeats, *SHAPE))).astype(np.uint16)


@pytest.mark.parametrize("fine", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("repeats", [2, 5, 20])
def test_the_error_is_that_of_the_best_linear_estimate(fine, repeats):
    rng = np.random.default_rng([repeats, int(fine)])
    truth = pattern(rng, fine)
    frames = taken(rng, truth, repeats)
    field = DarkField()
    field.add(frames)
    noise = (READ_NOISE**2 + 1 / 12) / repeats
    bound = fine**2 * noise / (fine**2 + noise)
    error = np.mean((field.image - truth) ** 2)
    columns_and_rows = 1.6 * noise * (1 / SHAPE[0] + 1 / SHAPE[1])  # medians
    assert error < 1.05 * bound + 1.3 * columns_and_rows + 0.03 * noise
    assert error < 1.02 * np.mean((frames.mean(axis=0) - truth) ** 2)


def test_single_frames_that_come_one_by_one_are_told_by_their_differences():
    rng = np.random.default_rng(1)
    truth = pattern(rng, 0.0)
    frames, field = taken(rng, truth, 6), DarkField()
    field.add(frames[0])
    assert np.array_equal(field.image, frames[0])
    for frame in frames[1:]:
        field.add(frame)
    plain = np.mean((frames.mean(axis=0) - truth) ** 2)
    assert np.mean((field.image - truth) ** 2) < 0.15 * plain
    assert field.repeats == 6


def test_hot_pixels_keep_their_value_and_invalid_ones_stay_invalid():
    rng = np.random.default_rng(2)
    dark = (pattern(rng, 0.0) + rng.standard_normal(SHAPE)).astype(np.float32)
    dark[5, 7], dark[100, 100], dark[30, 40] = 9000.0, 140.0, np.nan
    out = without_noise(dark, 1.0)
    assert out[5, 7] == 9000.0
    assert out[100, 100] == 140.0
    assert np.isnan(out[30, 40])
    assert np.isfinite(out).sum() == out.size - 1
    assert np.abs(out - dark)[100:110, 90:99].max() < 5.0
    assert np.array_equal(without_noise(np.full(SHAPE, 100.0, dtype=np.float32), 1.0), np.full(SHAPE, 100.0))


def test_the_darks_noise_is_not_in_every_visit(tmp_path):
    """Five dark frames, 8 quanta per pixel and frame: of forty visits the noise of the plain mean would be left."""
    rng, quanta = np.random.default_rng(3), 8.0
    profile = Profile.model_validate({"detector": {"electrons_per_adu": 0.4}})
    store = FrameStore(tmp_path / "frames")
    normaliser = Normaliser(profile, store)
    level = np.full(SHAPE, 100.0)
    normaliser.add(Frame("dark", taken(rng, level, 5), None, 1, 1.0, 0.0))
    beam = taken(rng, level + 4 * quanta / 0.4, 5) + np.rint(rng.standard_normal((5, *SHAPE))).astype(np.uint16)
    normaliser.add(Frame("flat", np.repeat(beam, 8, axis=0), 8350.0, 1, 1.0, 0.0))
    total = np.zeros(SHAPE)
    for seq in range(1, 41):
        counts = taken(rng, level + rng.poisson(5 * quanta, SHAPE) / 5 / 0.4, 5)
        visit = normaliser.add(Frame("sample", counts, 8350.0, seq, 1.0, float(seq)))
        total += normaliser.density(visit, np.full(SHAPE, np.log(4.0), dtype=np.float32)).image / 40
    store.close()
    left = total[2:-2, 2:-2].std()
    by_visits = np.sqrt((1 / (5 * quanta) + READ_NOISE**2 * 0.4**2 / (5 * quanta**2)) / 40)
    assert left < 1.25 * by_visits
    assert READ_NOISE / np.sqrt(5) * 0.4 / quanta > 1.5 * by_visits, "the plain mean's noise alone would be more"
