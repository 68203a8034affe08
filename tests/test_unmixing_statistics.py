"""Sufficient statistics: the same channels as from all visits at once, in whatever order they came and changed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.metrics import abundance_rmse
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.one_pass import invert
from txm_stream.unmixing.statistics import UnmixingStatistics
from txm_stream.unmixing.streaming import StreamingMap

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
    np.testing.assert_allclose(found.white, white, atol=1e-4 * np.abs(white).max())


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
    np.testing.assert_allclose(sums.solve().white, white, atol=1e-4 * np.abs(white).max())
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


@pytest.mark.parametrize("n_states", [2, 3])
def test_warm_iterations_stay_at_the_solution(n_states):
    """From 60 energies on within 0.1 dB of the converged answer."""
    energies = nickel_energies(80)
    energies = np.concatenate([energies[::4], np.delete(energies, np.s_[::4])])  # over the edge soon
    phantom = make_phantom((128, 128), n_states=n_states, seed=2)
    spectra, sigma = phantom.spectra(energies), 0.1
    stack = phantom.stack(energies)
    stack += np.float32(sigma) * np.random.default_rng(2).standard_normal(stack.shape, dtype=np.float32)
    warm = StreamingMap(phantom.shape, n_states, centre_eV=8350.0)
    behind = []
    for t, image in enumerate(stack):
        warm.add(image, spectra[t], float(energies[t]), sigma)
        if t < 12:
            continue
        abundances, scale = warm.update()
        if t >= 60 and t % 6 == 0:
            cold = StreamingMap(phantom.shape, n_states, centre_eV=8350.0)
            for s in range(t + 1):
                cold.add(stack[s], spectra[s], float(energies[s]), sigma)
            errors = [abundance_rmse(x, phantom.abundances, phantom.inside) for x in (abundances, cold.update(300)[0])]
            behind.append(20 * np.log10(errors[0] / errors[1]))
    inside = phantom.inside
    print(f"{n_states} states: behind the converged map by {np.max(behind):.3f} dB at most, RMSE {errors[0]:.4f}")
    assert np.max(behind) < 0.1
    np.testing.assert_allclose(abundances.sum(axis=0), 1, atol=1e-5)
    assert np.sqrt(np.mean((scale - phantom.edge_jump)[inside] ** 2)) < 0.05
    plain = UnmixingStatistics(phantom.shape, n_states, centre_eV=8350.0)
    for t, image in enumerate(stack):
        plain.add(image, spectra[t], float(energies[t]), sigma)
    solved = plain.solve()
    least_squares = invert(solved.white, solved.triangle)[0]
    assert errors[0] < 0.6 * abundance_rmse(least_squares, phantom.abundances, inside)
