"""The live view places early weak visits once more when it knows better."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.frame_store import FrameStore
from txm_stream.live import LiveView
from txm_stream.metrics import shift_rmse_px
from txm_stream.normaliser import Visit
from txm_stream.optical_density import OpticalDensity
from txm_stream.phantoms import make_phantom, nickel_energies

SHAPE, WEAK = (128, 128), 5


@pytest.fixture
def scan():
    """Visits of which the first ones are much noisier."""
    energies = nickel_energies(16)
    phantom = make_phantom(SHAPE, seed=0)
    rng = np.random.default_rng(0)
    motion = rng.uniform(-2, 2, (len(energies), 2))
    motion[0] = 0
    sigma = np.full(len(energies), 0.03)
    sigma[:WEAK] = 0.4
    frames = []
    for t, energy in enumerate(energies):
        image = phantom.optical_density(float(energy), motion[t]) + sigma[t] * rng.standard_normal(SHAPE)
        variance = np.full(SHAPE, sigma[t] ** 2, dtype=np.float32)
        visit = Visit(t, t, t + 1, float(energy), 0.0, 1.0, 1, np.zeros(SHAPE, dtype=bool))
        frames.append((visit, OpticalDensity(image.astype(np.float32), variance, np.ones(SHAPE, dtype=bool))))
    return frames, motion


def test_early_weak_visits_are_placed_again(scan, tmp_path):
    frames, motion = scan
    store = FrameStore(tmp_path / "frames")
    live = LiveView(SHAPE, None, store, registration=True, seed=0)
    for frame in frames:
        live.include(*frame)
    weak = slice(WEAK)
    before = live_shifts(live)
    again = []
    while (index := live.weakest()) is not None:
        again.append(index)
        live.include(*frames[index], anew=True)
    after = live_shifts(live)
    print("early visits", shift_rmse_px(before[weak], motion[weak]), "→", shift_rmse_px(after[weak], motion[weak]))
    assert set(again) >= set(range(1, WEAK))
    assert len(again) == len(set(again)) < len(frames) - 4
    assert shift_rmse_px(after[weak], motion[weak]) < 0.8 * shift_rmse_px(before[weak], motion[weak])
    # what was replaced is the same as if it had been placed so at once
    fresh = live.gram.spectrum(np.ones(len(frames)))
    live.gram.partial_fit(1, live.store.get("registered", 1), live.field, live.gram.sigma[1], live.gram.factor[1])
    np.testing.assert_allclose(live.gram.spectrum(np.ones(len(frames))).values[:3], fresh.values[:3], rtol=0.02)
    store.close()


def live_shifts(live: LiveView) -> np.ndarray:
    """Return the shifts (T, 2) in px that the live view uses."""
    return np.array([[row.shift_y_px, row.shift_x_px] for row in live.rows])


def test_a_visit_normalised_again_keeps_what_its_preview_said(scan, tmp_path):
    frames, _ = scan
    store = FrameStore(tmp_path / "frames")
    live = LiveView(SHAPE, None, store, registration=True, seed=0)
    for frame in frames[:8]:
        live.include(*frame)
    said = live.snapshot().rows[-1]
    live.include(*frames[7])
    assert said.rank >= 2
    assert (live.rows[7].rank, live.rows[7].risk, live.rows[7].basis_version) == (said.rank, said.risk, 1)
    store.close()
