"""The white line of every pixel against the spectra it was made of."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.errors import BadStackError
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing import white_line_map

ENERGIES = nickel_energies(120)
FINE = np.arange(8335.0, 8375.0, 0.01)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((96, 112), chemistry="region", seed=3)


def true_tops(phantom):
    """Return energy and height (2, y, x) of the top of the mixed spectra."""
    mixed = np.tensordot(phantom.spectra(FINE), phantom.abundances, axes=1)
    return FINE[mixed.argmax(axis=0)], mixed.max(axis=0)


def test_white_line_of_a_clean_stack(phantom):
    stack = phantom.stack(ENERGIES)
    order = np.random.default_rng(0).permutation(len(ENERGIES))
    found = white_line_map(stack[order], ENERGIES[order])
    energy, height = true_tops(phantom)
    inside = phantom.inside
    assert np.isfinite(found.energy_eV[inside]).all()
    away = (found.energy_eV - energy)[inside]
    higher = np.abs(found.height - height)[inside].max()
    print(f"energy off by {np.abs(away).max():.3f} eV at most, height by {higher:.3f}")
    assert np.sqrt(np.mean(away**2)) < 0.12
    assert higher < 0.08
    np.testing.assert_allclose(found.jump[inside], phantom.edge_jump[inside], rtol=0.1)
    empty = phantom.edge_jump < 0.02
    assert np.isnan(found.energy_eV[empty]).mean() > 0.99


def test_a_step_without_a_peak_has_no_white_line():
    rise = np.clip((ENERGIES - 8340) / 100, 0, None)[:, None, None] + (ENERGIES > 8345)[:, None, None] * 1.0
    found = white_line_map(rise * np.ones((4, 4)), ENERGIES)
    assert np.isnan(found.energy_eV).all()
    assert np.isfinite(found.jump).all()


def test_masked_and_missing_pixels_say_nothing(phantom):
    stack = phantom.stack(ENERGIES)
    y, x = (int(i[0]) for i in np.nonzero(phantom.inside))
    stack[5, y, x] = np.nan
    mask = np.ones(phantom.shape, dtype=bool)
    mask[:20] = False
    found = white_line_map(stack, ENERGIES, mask=mask)
    assert np.isnan(found.energy_eV[y, x])
    assert np.isnan(found.jump[:20]).all()


def test_bad_input_is_one_clear_line():
    with pytest.raises(BadStackError, match="with 5 energies"):
        white_line_map(np.zeros((6, 4, 4)), ENERGIES[:5])
    with pytest.raises(BadStackError, match="mask of shape"):
        white_line_map(np.zeros((120, 4, 4)), ENERGIES, mask=np.ones((3, 4), dtype=bool))
