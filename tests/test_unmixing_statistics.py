"""Sufficient statistics: the same channels as from all visits at once, in whatever order they came and changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.statistics import UnmixingStatistics

ENERGIES = nickel_energies(20)
PHANTOM = make_phantom((32, 36), n_states=3, seed=1)
SPECTRA = PHANTOM.spectra(ENERGIES)
SIGMA = np.linspace(0.02, 0.06, len(ENERGIES))
STACK = PHANTOM.stack(ENERGIES) + np.float32(0.02) * np.random.default_rng(0).standard_normal((20, 32, 36)).astype("f4")


def at_once(keep, stack=STACK, sigma=SIGMA):
    """Return the white channels of the design over the visits that are kept."""
    design = make_design(SPECTRA[keep], ENERGIES[keep], sigma[keep])
    return np.tensordot((design.channels / sigma[keep, None]).T, stack[keep], axes=1), design


def visit(t):
    return STACK[t], SPECTRA[t], float(ENERGIES[t]), float(SIGMA[t])


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(20)), removed=st.sets(st.integers(0, 19), max_size=8))
def test_any_order_and_removals_give_the_channels_of_all_at_once(order, removed):
    sums = UnmixingStatistics((32, 36), 3, centre_eV=8350.0)
    for t in order:
        sums.add(*visit(t))
    for t in removed:
        sums.remove(*visit(t))
    keep = np.array([t not in removed for t in range(20)])
    white, design = at_once(keep)
    found = sums.solve()
    np.testing.assert_allclose(found.triangle, design.triangle, atol=1e-6 * np.abs(design.triangle).max())
    np.testing.assert_allclose(found.white, white, atol=2e-3 * np.abs(white).max())


def test_a_replaced_and_a_newly_weighted_visit():
    sums = UnmixingStatistics((32, 36), 3, centre_eV=8350.0)
    for t in range(20):
        sums.add(*visit(t))
    better = STACK[7] + np.float32(0.1)
    sums.replace(STACK[7], better, SPECTRA[7], float(ENERGIES[7]), float(SIGMA[7]))
    sums.weigh_anew(STACK[3], SPECTRA[3], float(ENERGIES[3]), float(SIGMA[3]), 0.2)
    stack, sigma = STACK.copy(), SIGMA.copy()
    stack[7], sigma[3] = better, 0.2
    white, design = at_once(np.ones(20, dtype=bool), stack, sigma)
    np.testing.assert_allclose(sums.solve().white, white, atol=2e-3 * np.abs(white).max())
    np.testing.assert_allclose(sums.solve().triangle, design.triangle, atol=1e-6 * np.abs(design.triangle).max())


def test_before_the_edge_there_is_no_map():
    sums = UnmixingStatistics((32, 36), 3, centre_eV=8350.0)
    for t in np.flatnonzero(ENERGIES < 8330):
        sums.add(*visit(t))
    with pytest.raises(BadReferenceError, match="cannot tell 3 states"):
        sums.solve()


def test_what_does_not_fit_is_refused_and_nothing_is_changed():
    sums = UnmixingStatistics((32, 36), 3, centre_eV=8350.0)
    with pytest.raises(BadStackError, match="expected 3 finite ones"):
        sums.add(STACK[0], SPECTRA[0, :2], 8300.0, 0.1)
    with pytest.raises(BadStackError, match="expected \\(32, 36\\)"):
        sums.add(STACK[0, :20], SPECTRA[0], 8300.0, 0.1)
    with pytest.raises(BadReferenceError):
        sums.solve()
