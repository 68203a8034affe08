"""The fit of a region's mean spectrum: truth within its errors, its own energy shift, what it cannot explain."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.phantoms.spectra import nickel_states
from txm_stream.unmixing import References, fit_region

ENERGIES = nickel_energies(50)
GRID = np.arange(8200.0, 8500.0, 0.25)
PHANTOM = make_phantom((96, 96), n_states=3, seed=4)
CLEAN = PHANTOM.stack(ENERGIES)
SIGMA = 0.05


def references(shift_eV=0.0):
    states = nickel_states(3)
    return References(states.names, GRID + shift_eV, states(GRID))


def noisy(seed=0):
    return CLEAN + np.float32(SIGMA) * np.random.default_rng(seed).standard_normal(CLEAN.shape, dtype=np.float32)


def truth(region):
    amounts = (PHANTOM.edge_jump * PHANTOM.abundances)[:, region].sum(axis=1)
    return amounts / amounts.sum(), float(PHANTOM.edge_jump[region].mean())


def test_abundances_shift_and_their_errors_over_many_draws():
    region = PHANTOM.inside & (np.arange(96) < 40)
    shares, scale = truth(region)
    fits = [fit_region(noisy(seed), ENERGIES, references(shift_eV=0.3), region=region) for seed in range(40)]
    pulls = np.array([(fit.abundances - shares) / fit.sigma for fit in fits])
    assert np.abs(pulls.mean(axis=0)).max() < 0.6  # 40 draws: ± 0.16, and the curvature of the shift
    assert 0.7 < np.sqrt((pulls**2).mean()) < 1.35
    shifts = np.array([fit.shift_eV for fit in fits])
    assert shifts.mean() == pytest.approx(0.3, abs=0.01)
    assert shifts.std() == pytest.approx(fits[0].shift_sigma_eV, rel=0.5)
    assert np.mean([fit.scale for fit in fits]) == pytest.approx(scale, rel=0.02)
    assert np.mean([fit.reduced_chi2 for fit in fits]) == pytest.approx(1, abs=0.1)
    assert np.mean([fit.explained for fit in fits]) > 0.8
    assert fits[0].n_pixels == region.sum()


def test_a_shift_that_is_given_is_kept_and_the_errors_are_smaller():
    region = PHANTOM.inside
    free, given = (fit_region(noisy(), ENERGIES, references(), region=region, shift_eV=s) for s in (None, 0.0))
    assert given.shift_eV == given.shift_sigma_eV == 0.0
    assert (given.sigma <= free.sigma * 1.001).all()
    np.testing.assert_allclose(given.abundances, truth(region)[0], atol=5 * given.sigma.max())


def test_a_missing_state_is_not_explained():
    all_but_one = references().subset([0, 2])
    fit = fit_region(noisy(), ENERGIES, all_but_one, region=PHANTOM.inside, shift_eV=0.0)
    assert not fit.explained
    assert fit.reduced_chi2 > 2


def test_order_of_energies_and_visits_outside_the_references_do_not_matter():
    order = np.random.default_rng(1).permutation(len(ENERGIES))
    stack = noisy()
    known = references()
    short = References(known.names, known.energies_eV[:900], known.mu[:900])
    forward, mixed = (
        fit_region(stack[o], ENERGIES[o], short, region=PHANTOM.inside, sigma=SIGMA)
        for o in (np.arange(len(ENERGIES)), order)
    )
    np.testing.assert_allclose(mixed.abundances, forward.abundances, atol=1e-6)
    outside = ENERGIES + forward.shift_eV > short.range_eV[1]
    np.testing.assert_array_equal(np.isnan(forward.fit), outside)


def test_bad_input_is_told():
    stack = noisy()
    with pytest.raises(BadStackError, match="49 energies"):
        fit_region(stack, ENERGIES[1:], references())
    with pytest.raises(BadStackError, match="no pixel is valid"):
        fit_region(stack, ENERGIES, references(), region=np.zeros((96, 96), dtype=bool))
    with pytest.raises(BadStackError, match="mask of shape"):
        fit_region(stack, ENERGIES, references(), region=np.ones((9, 9), dtype=bool))
    with pytest.raises(BadReferenceError, match="nothing of the element"):
        fit_region(-stack, ENERGIES, references(), region=PHANTOM.inside, sigma=SIGMA, shift_eV=0.0)
    with pytest.raises(BadReferenceError, match="at least 5 are needed"):
        fit_region(stack[:4], ENERGIES[:4], references(), sigma=SIGMA)
