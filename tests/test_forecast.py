"""What the final map's error is forecast to be while the scan runs is what the final pass says of the same visits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_scan import frames_of, references_of

from txm_stream import Pipeline, Profile
from txm_stream.live.forecast import TILE, FinalForecast, tiles_of
from txm_stream.phantoms import nickel_energies
from txm_stream.resampling import field_after_shift
from txm_stream.simulated_devices import SimulatedTXM


@pytest.mark.parametrize(
    ("shape", "photons", "n_states", "chemistry"),
    [((192, 192), 100.0, 2, "region"), ((200, 420), 200.0, 3, "core-shell")],
)
def test_the_forecast_is_the_prediction_of_the_final_pass(shape, photons, n_states, chemistry):
    txm = SimulatedTXM(shape, n_states=n_states, chemistry=chemistry, photons=photons, seed=5)
    with Pipeline(Profile(), references=references_of(txm)) as pipeline:
        for frame in frames_of(txm, nickel_energies(24)):
            pipeline.ingest(frame)
            if frame.role == "flat":  # a snapshot of every visit, the last ones forecast
                pipeline.snapshot()
                pipeline.settle(forecast=frame.seq > 18)
        while pipeline.settle():  # visits are divided by pooled flats
            pipeline.snapshot()
        forecast = pipeline.final_rmse
        result = pipeline.finish()
    noise = float(np.sqrt(result.predicted_rmse**2 - result.provenance["common_rmse"] ** 2))
    print(f"{shape}: forecast {forecast:.4f}, the final pass predicts {noise:.4f} from noise ({forecast / noise:.2f})")
    assert forecast == pytest.approx(noise, rel=0.12)


def test_borders_are_forecast_as_the_final_frame_will_have_them(monkeypatch):
    shape, told = (160, 192), []
    txm = SimulatedTXM(shape, photons=200.0, seed=7, jitter_px=3.0)
    frames = list(frames_of(txm, nickel_energies(16)))
    shifts = txm.truth().shifts_px
    far = int(np.argmax(np.hypot(*(shifts - shifts.mean(axis=0)).T))) + 1
    frames.sort(key=lambda frame: (frame.role != "dark", frame.seq != far, frame.seq))  # the first one lies far off
    monkeypatch.setattr(FinalForecast, "of", lambda self, measured: told.append(measured))
    with Pipeline(Profile(), references=references_of(txm)) as pipeline:
        for number, frame in enumerate(frames, start=1):
            pipeline.ingest(replace(frame, seq=max(number // 2, 1)))  # a dark, then pairs
        pipeline.snapshot()
        final = pipeline.finish().shifts_px
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    off = 0
    for visit, shift in enumerate(final):
        said, live = told[-1].seen_centred(visit, whole), told[-1].seen(visit, whole)
        true = field_after_shift(shape, shift)
        for axis in (0, 1):
            assert abs(int(said.any(axis=axis).sum()) - int(true.any(axis=axis).sum())) <= 1
            off += abs(int(live.any(axis=axis).sum()) - int(true.any(axis=axis).sum()))
    assert off > len(final), "the first frame lies in the middle: this test says nothing"


def test_nothing_is_forecast_before_the_edge():
    txm = SimulatedTXM((96, 96), seed=5)
    with Pipeline(Profile(), references=references_of(txm)) as pipeline:
        for frame in frames_of(txm, [8310.0, 8315.0, 8320.0]):
            pipeline.ingest(frame)
        pipeline.snapshot()
        pipeline.settle()
        assert np.isnan(pipeline.final_rmse)


@pytest.mark.parametrize("shape", [(1, 1), (150, 700), (1024, 2560)])
def test_tiles_cover_an_image_once(shape):
    counted = np.zeros(shape, dtype=int)
    for tile in tiles_of(shape):
        counted[tile] += 1
        assert max(counted[tile].shape) <= 1.5 * TILE
    assert (counted == 1).all()
