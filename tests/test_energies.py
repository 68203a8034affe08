"""Energy selection: mandatory energies, gain over uniform lists, predicted error by simulation, time, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream import select_energies
from txm_stream.energies import predicted_rmse
from txm_stream.errors import BadReferenceError
from txm_stream.phantoms import nickel_energies, nickel_states
from txm_stream.plan_energies import list_energies
from txm_stream.unmixing import References

CANDIDATES = nickel_energies(117)


def error_of(energies, n_states, sigma):
    """Standard error of the abundances of a pixel, averaged over the simplex, by Monte Carlo."""
    rng = np.random.default_rng(0)
    axis = (energies - energies.mean()) / 100
    design = np.column_stack([nickel_states(n_states)(energies), np.ones_like(axis), axis])
    truth = rng.dirichlet(np.ones(n_states), 4000).T
    data = design[:, :n_states] @ truth + sigma * rng.standard_normal((len(energies), 4000))
    scaled = (np.linalg.pinv(design) @ data)[:n_states]
    return float(np.sqrt(np.mean((scaled / scaled.sum(axis=0) - truth) ** 2)))


def visits(plan):
    return np.repeat(plan.energies_eV, plan.repeats)


@pytest.mark.parametrize("n_states", [2, 3])
@pytest.mark.parametrize("n", [12, 24, 60])
def test_the_plan_beats_a_uniform_list_and_knows_its_error(n_states, n):
    plan = select_energies(CANDIDATES, nickel_states(n_states)(CANDIDATES), n=n, sigma=0.01)
    assert plan.repeats.sum() == n
    assert len(np.unique(plan.energies_eV)) == len(plan.energies_eV)
    assert (np.diff(plan.energies_eV) > 0).all()
    found = error_of(visits(plan), n_states, 0.01)
    assert found == pytest.approx(plan.predicted_rmse, rel=0.1)
    uniform = CANDIDATES[np.linspace(0, 116, n).round().astype(int)]
    assert found < 0.75 * error_of(uniform, n_states, 0.01)


def test_every_plan_has_both_sides_of_the_edge_and_the_white_line():
    spectra = nickel_states(2)
    plan = select_energies(CANDIDATES, spectra(CANDIDATES), n=6)
    line = CANDIDATES[np.argmax(spectra(CANDIDATES).mean(axis=1))]
    assert (plan.energies_eV < 8342).sum() >= 2
    assert (plan.energies_eV > line).sum() >= 2
    assert line in plan.energies_eV


def test_more_visits_lower_the_error_and_noise_scales_it():
    spectra = nickel_states(2)(CANDIDATES)
    errors = [select_energies(CANDIDATES, spectra, n=n).predicted_rmse for n in (8, 16, 32, 64)]
    assert (np.diff(errors) < 0).all()
    loud = select_energies(CANDIDATES, spectra, n=16, sigma=0.1)
    assert loud.predicted_rmse == pytest.approx(2 * errors[1], rel=1e-3)


def test_where_moves_cost_time_the_scan_stays():
    spectra = nickel_states(3)(CANDIDATES)
    free = select_energies(CANDIDATES, spectra, n=40)
    costly = select_energies(CANDIDATES, spectra, n=40, move_s=20.0, exposure_s=0.1)
    assert len(costly.energies_eV) < len(free.energies_eV)
    assert costly.repeats.sum() == 40


def test_costly_moves_do_not_keep_a_scan_from_telling_the_states_apart():
    spectra = nickel_states(3)(CANDIDATES)
    plan = select_energies(CANDIDATES, spectra, n=8, move_s=20.0, exposure_s=0.1)
    uniform = CANDIDATES[np.linspace(0, 116, 8).round().astype(int)]
    assert plan.predicted_rmse < predicted_rmse(uniform, nickel_states(3)(uniform))
    assert len(plan.energies_eV) < 8


def test_a_plan_is_the_beginning_of_a_longer_one_and_its_error_is_that_of_the_list():
    spectra = nickel_states(2)
    references = References(spectra.names, CANDIDATES, spectra(CANDIDATES))
    short, long = (select_energies(CANDIDATES, references, n=n, sigma=0.02) for n in (12, 30))
    np.testing.assert_array_equal(long.sequence_eV[:12], short.sequence_eV)
    assert predicted_rmse(visits(long), references, sigma=0.02) == pytest.approx(long.predicted_rmse)
    with pytest.raises(BadReferenceError, match="cannot tell"):
        predicted_rmse(CANDIDATES[:6], references)


def test_energies_with_little_flux_are_visited_less():
    spectra = nickel_states(2)(CANDIDATES)
    even = select_energies(CANDIDATES, spectra, n=40)
    most = even.energies_eV[np.argmax(even.repeats)]
    dim = np.where(np.abs(CANDIDATES - most) < 1, 0.5, 0.05)
    other = select_energies(CANDIDATES, spectra, n=40, sigma=dim)
    assert other.repeats[np.abs(other.energies_eV - most) < 1].sum() < even.repeats.max() / 2


@pytest.mark.parametrize("n_states", [2, 3])
def test_budget_in_seconds_is_kept_and_used(n_states):
    spectra = nickel_states(n_states)
    grid = np.arange(8200.0, 8500.0, 0.5)
    references = References(spectra.names, grid, spectra(grid))
    chosen = list_energies(references, budget_s=90.0, move_s=3.0, exposure_s=0.5)
    assert 80 < chosen.seconds <= 90
    assert chosen.plan.predicted_rmse < list_energies(references, budget_s=40.0).plan.predicted_rmse
    assert chosen.own_rmse is None


def test_references_are_looked_up_and_candidates_outside_not_used():
    grid = np.arange(8300.0, 8420.0, 0.25)
    spectra = nickel_states(2)
    plan = select_energies(CANDIDATES[::-1], References(spectra.names, grid, spectra(grid)), n=12)
    assert plan.energies_eV.min() >= 8300
    assert plan.energies_eV.max() <= 8420
    inside = CANDIDATES[(CANDIDATES >= 8300) & (CANDIDATES < 8420)]
    same = select_energies(inside, spectra(inside), n=12)
    np.testing.assert_allclose(plan.energies_eV, same.energies_eV)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 4}, "n is 4"),
        ({"sigma": 0.0}, "must be positive"),
        ({"exposure_s": 0.0}, "must be positive"),
        ({"references": np.ones((3, 2))}, "expected \\(117, states\\)"),
        ({"references": np.full((117, 2), np.nan)}, "0 candidates"),
        ({"references": np.ones((117, 2))}, "before the edge"),
        ({"references": np.repeat(nickel_states(2)(CANDIDATES)[:, :1], 2, axis=1)}, "cannot tell"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    arguments = {"references": nickel_states(2)(CANDIDATES), "n": 12} | change
    with pytest.raises(BadReferenceError, match=message):
        select_energies(CANDIDATES, arguments.pop("references"), **arguments)
