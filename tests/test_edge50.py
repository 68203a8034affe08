"""Edge-50 maps: known shifts come back, and nothing is made up where there is no edge."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from txm_stream.errors import BadStackError
from txm_stream.unmixing.edge50 import edge50_map

ENERGIES = np.concatenate([np.arange(8300.0, 8330.0, 3.0), np.arange(8330.0, 8360.0, 1.0), np.arange(8360, 8460, 5.0)])


def edge(energies_eV, position_eV, white_line=0.5):
    x = np.asarray(energies_eV)[:, None, None] - position_eV
    return 0.5 + np.arctan(x / 1.2) / np.pi + white_line * np.exp(-(((x - 6.0) / 3.0) ** 2))


def shifted_stack(energies_eV, shape=(12, 16)):
    rng = np.random.default_rng(5)
    position = 8343.0 + rng.uniform(-2.0, 2.0, shape)
    scale = rng.uniform(0.3, 1.0, shape)
    background = 0.3 - 0.001 * (np.asarray(energies_eV) - 8343.0)[:, None, None] * rng.uniform(0.5, 1.0, shape)
    return (scale * edge(energies_eV, position) + background).astype(np.float32), position


def assert_shifts(found, position, tolerance):
    error = (found - found.mean()) - (position - position.mean())
    assert np.abs(error).max() < tolerance


def test_noise_free_shifts_are_recovered():
    stack, position = shifted_stack(ENERGIES)
    found = edge50_map(stack, ENERGIES)
    assert found.dtype == np.float32
    assert found.shape == stack.shape[1:]
    assert_shifts(found, position, 0.1)
    assert abs(float(found.mean() - position.mean())) < 1.0


def test_order_and_repeats_do_not_matter():
    stack, position = shifted_stack(ENERGIES)
    order = np.random.default_rng(2).permutation(np.concatenate([np.arange(len(ENERGIES)), [20, 21, 20]]))
    np.testing.assert_allclose(edge50_map(stack[order], ENERGIES[order]), edge50_map(stack, ENERGIES), atol=2e-3)
    assert_shifts(edge50_map(stack[::-1], ENERGIES[::-1]), position, 0.1)


def test_small_noise_gives_small_errors():
    stack, position = shifted_stack(ENERGIES)
    stack += np.random.default_rng(0).normal(0, 0.005, stack.shape).astype(np.float32)
    found = edge50_map(stack, ENERGIES)
    assert np.std(found - position) < 0.2


def test_pixels_without_an_edge_stay_empty():
    stack, _ = shifted_stack(ENERGIES)
    rng = np.random.default_rng(1)
    stack[:, 0] = 0.2 + rng.normal(0, 0.01, stack[:, 0].shape)
    stack[:, 1] = 0.0
    stack[7, 2] = np.nan
    mask = np.ones(stack.shape[1:], bool)
    mask[3] = False
    found = edge50_map(stack, ENERGIES, mask=mask)
    assert np.isnan(found[:4]).all()
    assert np.isfinite(found[4:]).all()


def test_input_is_not_modified():
    stack, _ = shifted_stack(ENERGIES)
    before = stack.copy()
    edge50_map(stack, ENERGIES)
    np.testing.assert_array_equal(stack, before)


@pytest.mark.parametrize(
    ("energies", "message"),
    [
        ([8300.0, 8340.0, 8345.0, 8350.0, 8350.0, 8350.0], "4 distinct energies"),
        (np.linspace(8343.5, 8460.0, 20), "below"),
        (np.linspace(8250.0, 8343.5, 20), "above"),
    ],
)
def test_scans_that_cannot_give_an_edge_are_refused(energies, message):
    stack, _ = shifted_stack(energies)
    with pytest.raises(BadStackError, match=message):
        edge50_map(stack, np.asarray(energies))


def test_shapes_are_checked():
    stack, _ = shifted_stack(ENERGIES)
    with pytest.raises(BadStackError, match="energies; expected"):
        edge50_map(stack, ENERGIES[:-1])
    with pytest.raises(BadStackError, match="mask of shape"):
        edge50_map(stack, ENERGIES, mask=np.ones((3, 3), bool))


def test_speed_of_a_large_stack():
    small, _ = shifted_stack(ENERGIES, (64, 64))
    stack = np.tile(small, (1, 4, 8))
    start = time.perf_counter()
    found = edge50_map(stack, ENERGIES)
    seconds_per_value = (time.perf_counter() - start) / stack.size
    np.testing.assert_array_equal(found[:64, :64], found[64:128, 64:128])
    assert seconds_per_value * 1024**2 * 120 < 30.0


@pytest.mark.skipif(
    not (Path(__file__).resolve().parents[1] / "../shared/data").is_dir(), reason="measured data are not here"
)
def test_measured_iron_stack():
    import tifffile

    folder = Path(__file__).resolve().parents[1] / "../shared/data/hxn_fe_k"
    found = edge50_map(tifffile.imread(folder / "test_stack.tiff"), np.loadtxt(folder / "test_energy.txt"))
    assert np.isfinite(found).mean() > 0.3
    assert 7114.0 < np.nanmedian(found) < 7124.0
