"""What the final map's error is forecast to be while the scan runs is what the final pass says of the same visits."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_scan import frames_of, references_of

from txm_stream import Pipeline, Profile
from txm_stream.live.forecast import TILE, tiles_of
from txm_stream.phantoms import nickel_energies
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
