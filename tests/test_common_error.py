"""Errors that all pixels of a visit share: their size is known, and the design measures where they hurt least."""

from __future__ import annotations

import numpy as np
import pytest

from txm_stream.energies import Advisor, select_energies
from txm_stream.energies.common_error import LEAST_ERROR, common_information, common_rows, visit_error
from txm_stream.energies.map_error import Contents, common_rmse, contrast_information
from txm_stream.open_beam import open_pixels
from txm_stream.phantoms import nickel_energies, nickel_states
from txm_stream.profile import Steering
from txm_stream.unmixing.energy_shift import fit_energy_shift
from txm_stream.unmixing.references import References

GRID = np.arange(8150.0, 8850.0, 0.25)
SPECTRA = nickel_states(2)
REFERENCES = References(SPECTRA.names, GRID, SPECTRA(GRID))
FEW = np.array([8212.0, *[8341.0] * 3, *[8345.5] * 3, *[8346.0] * 6, 8349.5, *[8351.5] * 8, 8512.0, 8777.0])


def shift_sigma(energies, tau, references=REFERENCES):
    rows = common_rows(references, np.asarray(energies), centre_eV=8500.0, width_eV=600.0)
    return float(np.sqrt(np.linalg.inv(common_information(rows, tau))[-1, -1]))


@pytest.mark.parametrize("pixels", ["alike", "different"])
@pytest.mark.parametrize("energies", [FEW, np.array([*FEW, *[8344.0] * 4])], ids=["poor", "good"])
def test_fitted_shifts_and_the_abundances_err_as_predicted(energies, pixels):
    rng = np.random.default_rng(0)
    tau, nu, shifts, errors, predicted = 0.002, 0.02, [], [], []
    nickel = rng.uniform(0, 1, 400) if pixels == "different" else np.full(400, 0.5)
    scale = rng.uniform(0.5, 1.5, 400) if pixels == "different" else np.ones(400)
    contents = Contents(np.stack([nickel, 1 - nickel]), scale, 400)
    sigma = np.full(len(energies), nu)
    background = np.column_stack([np.ones(len(energies)), energies - 8500.0])
    for _ in range(60):
        stack = REFERENCES.at(energies) @ (scale * contents.abundances)
        stack += tau * rng.standard_normal((len(energies), 1)) + nu * rng.standard_normal(stack.shape)
        white = stack / nu
        shifts.append(fit_energy_shift(REFERENCES, energies, sigma, lambda d, w=white: (d.T @ w) @ (d.T @ w).T))
        fit = np.linalg.pinv(np.hstack([REFERENCES.at(energies, shift_eV=shifts[-1]), background]))[:2]
        amounts = fit @ stack
        errors.append(np.mean((amounts / amounts.sum(axis=0))[0] - nickel))  # the mean pixel's: noise averages out
        predicted.append(common_rmse(REFERENCES, energies, sigma, stack.mean(axis=1), contents, shift_eV=shifts[-1]))
    rmse, shift = np.sqrt(np.mean(np.square(predicted), axis=0))
    assert shift == pytest.approx(np.std(shifts), rel=0.35)
    assert 0.9 * np.std(errors) < rmse < 2.2 * np.std(errors)  # a pixel's, larger than that of their mean
    if pixels == "alike":
        assert np.std(shifts) == pytest.approx(shift_sigma(energies, np.hypot(tau, nu / 20)), rel=0.35)
    else:
        assert shift < 0.75 * shift_sigma(energies, np.hypot(tau, nu / 20))


def test_what_differs_between_pixels_tells_of_the_shift():
    nickel = np.linspace(0, 1, 101)
    contents = Contents(np.stack([nickel, 1 - nickel]), np.ones(101), 101)
    alike = Contents(np.full((2, 101), 0.5), np.ones(101), 101)
    sigma = np.full(len(FEW), 0.02)
    assert contrast_information(REFERENCES, FEW, sigma, alike) == pytest.approx(0, abs=1e-6)
    told = contrast_information(REFERENCES, FEW, sigma, contents)
    assert contrast_information(REFERENCES, FEW, sigma / 2, contents) == pytest.approx(4 * told)
    assert contrast_information(REFERENCES, FEW[:3], sigma[:3], contents) == 0
    advisor = Advisor(Steering(), REFERENCES, planned_eV=tuple(nickel_energies(101)))
    for seq in range(12):
        advisor.visit(seq, advisor.advise(seq).energy_eV, 0.05)
    advisor.measure(0.01, common_error=0.02)
    before = advisor.advise(12).predicted_rmse
    advisor.measure(0.01, common_error=0.02, shift_information=1e4)
    assert advisor.advise(12).predicted_rmse < 0.9 * before


def test_one_energy_on_the_rise_halves_the_error_of_the_shift():
    assert shift_sigma([*FEW, 8344.0], 0.002) < 0.6 * shift_sigma(FEW, 0.002)


@pytest.mark.parametrize("n_states", [2, 3])
def test_a_plan_settles_the_energy_calibration(n_states):
    spectra = nickel_states(n_states)
    references = References(spectra.names, GRID, spectra(GRID))
    plan = select_energies(np.arange(8212.0, 8777.0, 0.5), references, n=24)
    visits = np.repeat(plan.energies_eV, plan.repeats)
    assert shift_sigma(visits, 0.002, references) < 0.025


def test_the_advice_settles_the_energy_calibration_where_visits_share_errors():
    planned = tuple(nickel_energies(101))
    sigma = {}
    for common in (LEAST_ERROR, 0.01):
        advisor = Advisor(Steering(), REFERENCES, planned_eV=planned)
        visits = []
        for seq in range(25):
            energy = advisor.advise(seq).energy_eV
            visits.append(energy)
            advisor.visit(seq, energy, 0.05)
            advisor.measure(0.03 * np.sqrt(10 / (seq + 1)), common_error=common)
        sigma[common] = shift_sigma(visits, 0.002)
    assert sigma[0.01] < 0.8 * sigma[LEAST_ERROR] < 0.8 * shift_sigma(FEW, 0.002)


def test_the_predicted_error_knows_the_shared_one():
    advisor = Advisor(Steering(), REFERENCES, planned_eV=tuple(nickel_energies(101)))
    for seq in range(12):
        advisor.visit(seq, advisor.advise(seq).energy_eV, 0.05)
    advisor.measure(0.01)
    little = advisor.advise(12).predicted_rmse
    advisor.measure(0.01, common_error=0.02)
    assert 0.01 < little < 0.75 * advisor.advise(12).predicted_rmse


def test_a_share_of_the_error_belongs_to_all_pixels_alike():
    assert visit_error(0.1, n_open=10_000, n_inside=10_000, edge_jump=0.5) == pytest.approx(0.0035, abs=1e-4)
    assert visit_error(0.1, n_open=0, n_inside=10_000, edge_jump=0.5) == LEAST_ERROR


def test_no_shared_error_from_too_few_visits():
    energies = np.array([8212.0, 8341.0, 8346.0, 8351.5, 8777.0])
    contents = Contents(np.full((2, 3), 0.5), np.ones(3), 3)
    assert np.isnan(common_rmse(REFERENCES, energies, np.ones(5), np.ones(5), contents, shift_eV=0.0)).all()


def test_most_open_pixels_are_found_and_none_in_the_particles():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:128, :128]
    thickness = np.sqrt(np.maximum(1 - ((y - 64) ** 2 + (x - 60) ** 2) / 36**2, 0))
    mean = (thickness + 0.03 * rng.standard_normal((128, 128))).astype(np.float32)
    found = open_pixels(mean, np.ones(mean.shape, dtype=bool))
    empty = thickness == 0
    assert found is not None
    assert found[empty].mean() > 0.7
    assert thickness[found].mean() < 0.003
    assert open_pixels(np.ones_like(mean), np.ones(mean.shape, dtype=bool)) is None
