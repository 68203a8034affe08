"""Unmixing: exactness, gain of the one pass, predicted error, choice from a library, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from txm_stream import unmix_stack
from txm_stream.denoising import load_denoiser
from txm_stream.errors import BadProfileError, BadReferenceError, BadStackError
from txm_stream.metrics import abundance_rmse, map_correlation
from txm_stream.phantoms import make_phantom, nickel_energies, nickel_states
from txm_stream.unmixing import References, choose_references
from txm_stream.unmixing.choose_references import can_be_told_apart
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.one_pass import smooth_errors, unmix_channels
from txm_stream.unmixing.plug_and_play import is_hidden, simplex_directions, typical_noise

ENERGIES = nickel_energies(40)
GRID = np.arange(8230.0, 8470.0, 0.25)


@pytest.fixture(scope="module", params=[2, 3])
def sample(request):
    phantom = make_phantom((96, 112), n_states=request.param, seed=4)
    return phantom, phantom.stack(ENERGIES)


def noisy(stack, sigma, seed=0):
    noise = np.random.default_rng(seed).standard_normal(stack.shape, dtype=np.float32)
    return (stack + np.float32(sigma) * noise).astype(np.float32)


def states(n):
    spectra = nickel_states(n)
    return References(spectra.names, GRID, spectra(GRID))


@pytest.mark.parametrize("method", ["lcf", "rum+"])
def test_without_noise_the_abundances_are_exact(sample, method):
    phantom, stack = sample
    maps = unmix_stack(stack, phantom.spectra(ENERGIES), energies_eV=ENERGIES, method=method, sigma=1e-6)
    inside = phantom.inside
    np.testing.assert_allclose(maps.abundances[:, inside], phantom.abundances[:, inside], atol=2e-3)
    np.testing.assert_allclose(maps.scale[inside], phantom.edge_jump[inside], rtol=2e-3)
    np.testing.assert_allclose(maps.abundances[:, maps.mask].sum(axis=0), 1, atol=1e-5)
    assert np.isnan(maps.abundances[:, ~maps.mask]).all()


def test_lcf_is_the_non_negative_least_squares_solution(sample):
    phantom, stack = sample
    data, spectra = noisy(stack, 0.1), phantom.spectra(ENERGIES)
    maps = unmix_stack(data, spectra, energies_eV=ENERGIES, method="lcf", sigma=0.1)
    axis = (ENERGIES - ENERGIES.mean()) / 100
    # a free background is the difference of two non-negative ones
    free = np.stack([np.ones_like(axis), -np.ones_like(axis), axis, -axis], axis=1)
    design = np.hstack([spectra, free])
    for y, x in np.argwhere(maps.mask)[::400]:
        solution, _ = nnls(design, data[:, y, x].astype(np.float64))
        amounts = solution[: spectra.shape[1]]
        assert maps.scale[y, x] == pytest.approx(amounts.sum(), abs=1e-3)
        np.testing.assert_allclose(maps.abundances[:, y, x], amounts / amounts.sum(), atol=2e-3)


@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_one_pass_is_better_than_lcf_and_knows_its_error(sample, sigma):
    phantom, stack = sample
    data = noisy(stack, sigma)
    maps = {
        method: unmix_stack(data, phantom.spectra(ENERGIES), energies_eV=ENERGIES, method=method, sigma=sigma)
        for method in ("rum+", "lcf")
    }
    error = {method: abundance_rmse(m.abundances, phantom.abundances, phantom.inside) for method, m in maps.items()}
    assert error["rum+"] < 0.6 * error["lcf"]
    ratio = maps["rum+"].predicted_rmse / error["rum+"]
    assert 0.75 < ratio < 1.25, f"predicted {maps['rum+'].predicted_rmse:.4f}, true {error['rum+']:.4f}"


def test_noise_is_measured_where_it_is_not_given(sample):
    phantom, stack = sample
    given, measured = (
        unmix_stack(noisy(stack, 0.05), phantom.spectra(ENERGIES), energies_eV=ENERGIES, sigma=sigma)
        for sigma in (0.05, None)
    )
    assert measured.predicted_rmse == pytest.approx(given.predicted_rmse, rel=0.05)


def test_references_are_looked_up_and_uncovered_energies_left_out(sample):
    phantom, stack = sample
    n = len(phantom.names)
    short = References(phantom.names, GRID[GRID < 8400], phantom.spectra(GRID[GRID < 8400]))
    data = noisy(stack, 0.02)
    data[3] = np.nan  # a lost frame
    maps = unmix_stack(data, short, energies_eV=ENERGIES)
    assert maps.names == phantom.names
    assert maps.abundances.shape == (n, 96, 112)
    assert map_correlation(maps.abundances, phantom.abundances, phantom.inside) > 0.95


def test_order_and_repeats_of_energies_do_not_matter(sample):
    phantom, stack = sample
    order = np.random.default_rng(1).permutation(len(ENERGIES))
    data = noisy(stack, 0.05)
    one = unmix_stack(data, phantom.spectra(ENERGIES), energies_eV=ENERGIES, sigma=0.05)
    other = unmix_stack(data[order], phantom.spectra(ENERGIES[order]), energies_eV=ENERGIES[order], sigma=0.05)
    # the same solution in another basis of the channels: only the bootstrap draws differ
    np.testing.assert_allclose(other.abundances, one.abundances, atol=0.02)


def test_nan_pixels_and_masked_pixels_are_nan(sample):
    phantom, stack = sample
    data = noisy(stack, 0.02)
    y, x = np.argwhere(phantom.inside)[50]
    data[7, y, x] = np.nan
    mask = np.ones(stack.shape[1:], dtype=bool)
    mask[:10] = False
    maps = unmix_stack(data, phantom.spectra(ENERGIES), energies_eV=ENERGIES, mask=mask)
    assert np.isnan(maps.abundances[:, y, x]).all()
    assert np.isnan(maps.abundances[:, :10]).all()
    assert np.isnan(maps.scale[:10]).all()
    assert not maps.mask[:10].any()


BAD = {
    "same spectrum": (BadReferenceError, "cannot tell", {"references": np.ones((40, 2)) * np.arange(40)[:, None] ** 2}),
    "more states than energies": (
        BadReferenceError,
        "at least",
        {"references": np.random.default_rng(0).random((40, 41))},
    ),
    "seven states": (BadReferenceError, "up to 6", {"references": np.random.default_rng(0).random((40, 7))}),
    "length": (BadReferenceError, "expected", {"references": np.ones((39, 2))}),
    "all masked": (BadStackError, "no pixel", {"mask": np.zeros((48, 48), dtype=bool)}),
    "mask shape": (BadStackError, "mask of shape", {"mask": np.ones((47, 48), dtype=bool)}),
    "no energies": (BadStackError, "energies_eV is needed", {"energies_eV": None}),
    "energies": (BadStackError, "39 energies for 40", {"energies_eV": ENERGIES[:39]}),
    "method": (BadReferenceError, "there are: rum\\+, rum-tv", {"method": "magic"}),
    "background": (BadReferenceError, "there are: linear", {"background": "cubic"}),
    "sigma": (BadStackError, "positive", {"sigma": -1.0}),
    "device": (BadProfileError, "allowed are", {"device": "gpu"}),
    "flat stack": (BadStackError, "expected numbers", {"stack": np.zeros((48, 48))}),
    "constant": (BadStackError, "noise cannot be measured", {"stack": np.zeros((40, 48, 48))}),
    "all nan": (BadReferenceError, "0 visits", {"stack": np.full((40, 48, 48), np.nan)}),
    "outside": (BadReferenceError, "0 visits", {"energies_eV": ENERGIES + 5000, "references": states(2)}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    error, message, change = BAD[case]
    phantom = make_phantom((48, 48), seed=1)
    arguments = {"stack": phantom.stack(ENERGIES), "references": phantom.spectra(ENERGIES), "energies_eV": ENERGIES}
    arguments |= {"sigma": None} | change
    with pytest.raises(error, match=message):
        unmix_stack(arguments.pop("stack"), arguments.pop("references"), **arguments)


def library():
    """Five states, two near duplicates of one of them."""
    spectra = nickel_states(5)
    mu = spectra(GRID)
    twins = np.stack([0.99 * mu[:, 2] + 0.01 * mu[:, 1], np.interp(GRID, GRID + 0.05, mu[:, 2])], axis=1)
    return References((*spectra.names, "twin", "copy"), GRID, np.hstack([mu, twins]))


@pytest.mark.parametrize("shift_eV", [0.0, 0.4, -2.0])
def test_the_states_in_the_data_are_chosen_from_a_library(shift_eV):
    references = library()
    assert not can_be_told_apart(references, ENERGIES)
    rng = np.random.default_rng(0)
    truth = references.subset(["Ni2+", "Ni4+"]).at(ENERGIES, shift_eV=shift_eV)
    amounts = rng.dirichlet([1, 1], 200).T * rng.uniform(0.3, 1, 200)
    axis = (ENERGIES - ENERGIES.mean()) / 100
    spectra = truth @ amounts + 0.2 + 0.1 * axis[:, None] * rng.random(200) + rng.normal(0, 0.005, (len(ENERGIES), 200))
    choice = choose_references(references, ENERGIES, spectra)
    family = [{"Ni2+", "twin", "copy"}, {"Ni4+"}]
    assert len(choice.names) == 2
    assert all(set(choice.names) & members for members in family), choice
    assert choice.misfit[-1] < 0.01
    assert choice.shift_eV == pytest.approx(shift_eV, abs=0.25)
    assert can_be_told_apart(references.subset(choice.names), ENERGIES)


def test_a_library_of_another_edge_is_refused():
    with pytest.raises(BadReferenceError, match="cover 0 energies"):
        choose_references(library(), ENERGIES - 1000, np.ones((len(ENERGIES), 3)))


@pytest.mark.parametrize("n_states", [2, 3])
def test_refined_abundances_are_closer_to_the_truth(n_states):
    phantom = make_phantom((128, 128), n_states=n_states, seed=4)
    stack = phantom.stack(ENERGIES)
    stack += 0.15 * np.random.default_rng(4).standard_normal(stack.shape, dtype=np.float32)
    design = make_design(phantom.spectra(ENERGIES), ENERGIES, np.full(len(ENERGIES), 0.15))
    white = np.tensordot(design.channels.T / 0.15, stack, axes=1).astype(np.float32)
    ones, everywhere = np.ones(phantom.shape, dtype=np.float32), np.ones(phantom.shape, dtype=bool)
    found = {
        refine: unmix_channels(
            white, design.triangle, ones, everywhere, load_denoiser("unet"),
            draws=2, rng=np.random.default_rng(0), refine=refine,
        )
        for refine in (False, True)
    }  # fmt: skip
    errors = {key: abundance_rmse(maps.abundances, phantom.abundances, phantom.inside) for key, maps in found.items()}
    print(f"RMSE one pass {errors[False]:.4f}, refined {errors[True]:.4f}, predicted {found[True].predicted_rmse:.4f}")
    assert errors[True] < 0.95 * errors[False]
    assert found[True].predicted_rmse == pytest.approx(errors[True], rel=0.25)
    directions, curvature = simplex_directions(design.triangle)
    np.testing.assert_allclose(directions.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(
        directions.T @ design.information() @ directions, np.diag(curvature), atol=1e-6 * curvature[0]
    )


def test_errors_of_thin_pixels_do_not_reach_the_ones_inside():
    """A disc with a rim whose squared errors are a hundred times those inside, and nothing around it."""
    rng = np.random.default_rng(0)
    radius = np.hypot(*np.meshgrid(*2 * [np.arange(-40.0, 41.0)]))
    inside, thick = radius < 20, radius < 24
    level = np.where(inside, 1.0, 100.0) * thick
    smooth = smooth_errors((level * rng.chisquare(1, (2, *level.shape))).astype(np.float32), thick, inside, 2.0)
    assert abs(smooth[:, inside].mean() - 1) < 0.1
    assert smooth[:, inside].max() < 3
    assert smooth[:, thick & ~inside].mean() > 20
    assert not smooth[:, radius > 40].any()


def test_strong_noise_is_seen_from_two_sides():
    phantom, rng = make_phantom((96, 112), seed=4), np.random.default_rng(3)
    design = make_design(phantom.spectra(ENERGIES), ENERGIES, np.full(len(ENERGIES), 0.5), background="none")
    varied = np.broadcast_to(np.linspace(0.7, 1.3, 112, dtype=np.float32), phantom.shape)
    amounts = np.tensordot(design.triangle, phantom.edge_jump * phantom.abundances, axes=1)
    white = (amounts + varied * rng.standard_normal(amounts.shape)).astype(np.float32)

    def scale(noise, channels):
        assert is_hidden(typical_noise(design.triangle, phantom.edge_jump, noise, phantom.inside))
        return unmix_channels(
            channels, design.triangle, noise, np.ones(phantom.shape, dtype=bool), load_denoiser("unet"),
            draws=0, rng=rng,
        ).scale  # fmt: skip

    around = scale(varied[::-1, ::-1], white[:, ::-1, ::-1])[::-1, ::-1]
    np.testing.assert_allclose(around, scale(varied, white), atol=1e-3 * phantom.edge_jump.max())


@pytest.mark.parametrize("method", ["rum-tv", "rum-pnp"])
def test_the_published_iterations_come_with_a_predicted_error(method):
    phantom = make_phantom((96, 112), seed=4)
    stack = noisy(phantom.stack(ENERGIES), 0.15)
    spectra = phantom.spectra(ENERGIES)
    errors = {}
    for name in ("lcf", method):
        maps = unmix_stack(stack, spectra, energies_eV=ENERGIES, method=name, sigma=0.15)
        errors[name] = abundance_rmse(maps.abundances, phantom.abundances, phantom.inside)
    print(f"RMSE {errors}, predicted {maps.predicted_rmse:.3f}")
    assert maps.iterations == 100
    assert errors[method] < 0.8 * errors["lcf"]
    assert 0.4 < maps.predicted_rmse / errors[method] < 1.5
