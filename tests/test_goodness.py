"""A state that is missing from the references is noticed as often as the non-centrality of its residual says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from txm_stream import unmix_stack
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing.goodness import (
    detection_power,
    misfit,
    misfit_regions,
    noncentrality,
    reduced_limit,
)

ENERGIES = nickel_energies(60)


def fitted(sigma, states, chemistry="region", seed=2):
    """Fit a phantom of three states by some of them; return it and its maps."""
    phantom = make_phantom((150, 200), n_states=3, chemistry=chemistry, seed=seed)
    stack = phantom.stack(ENERGIES)
    stack += np.float32(sigma) * np.random.default_rng(seed).standard_normal(stack.shape, dtype=np.float32)
    spectra = phantom.spectra(ENERGIES)
    return phantom, unmix_stack(stack, spectra[:, states], energies_eV=ENERGIES, sigma=sigma, method="lcf")


def test_with_all_states_few_pixels_are_called_misfits():
    phantom, maps = fitted(0.05, [0, 1, 2])
    share = misfit(maps.fit, maps.freedom)[phantom.inside].mean()
    print(f"false alarms {share:.3f}, mean reduced chi² {np.mean(maps.fit[phantom.inside]):.4f}")
    assert 0.035 < share < 0.06
    assert maps.freedom == 60 - 5


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_a_missing_state_is_noticed_as_often_as_predicted(sigma):
    phantom, maps = fitted(sigma, [0, 2])
    spectra = phantom.spectra(ENERGIES)
    unit = noncentrality(spectra[:, 1], spectra[:, [0, 2]], ENERGIES, np.full(len(ENERGIES), sigma))
    amount = (phantom.edge_jump * phantom.abundances[1])[phantom.inside]
    predicted = detection_power(unit * amount**2, maps.freedom).mean()
    seen = misfit(maps.fit, maps.freedom)[phantom.inside].mean()
    print(f"σ {sigma}: noticed in {seen:.3f} of the pixels inside, predicted {predicted:.3f}")
    assert seen == pytest.approx(predicted, abs=0.03)


def test_a_particle_with_much_of_a_missing_state_is_always_flagged():
    phantom, maps = fitted(0.1, [0, 2])
    labels, count = ndimage.label(phantom.inside)
    regions = misfit_regions(maps.fit, labels, maps.freedom)
    share = ndimage.mean(phantom.abundances[1], labels, np.arange(1, count + 1))
    large = np.bincount(labels.ravel())[1:] > 50
    much = {label + 1 for label in np.flatnonzero((share > 0.3) & large)}
    flagged = {label for label, (_, worse) in regions.items() if worse}
    print(f"{len(much)} particles with more than 30 % of it, flagged {len(much & flagged)} of them")
    assert much
    assert much <= flagged
    false = []
    for seed in (2, 3, 4, 5):
        phantom, maps = fitted(0.1, [0, 1, 2], seed=seed)
        labels = ndimage.label(phantom.inside)[0]
        false += [worse for _, worse in misfit_regions(maps.fit, labels, maps.freedom).values()]
    print(f"{sum(false)} of {len(false)} particles flagged with all references")
    assert sum(false) <= 2
    allowed = misfit_regions(maps.fit, labels, maps.freedom, model_error=0.1)
    assert not any(worse for _, worse in allowed.values())


def test_limits():
    assert reduced_limit(1e6) == pytest.approx(1 + 1.645 * np.sqrt(2e-6), rel=1e-4)
    assert detection_power(0.0, 50) == pytest.approx(0.05)
    assert detection_power(200.0, 50) > 0.999
    assert not misfit(np.full((2, 2), np.nan), 10).any()
