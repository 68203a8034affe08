"""The published unmixing and the convex problem of ours: operators, optimality, agreement with a generic solver."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from scipy import ndimage

from txm_stream.errors import BadReferenceError
from txm_stream.phantoms import make_phantom
from txm_stream.unmixing.design import make_design
from txm_stream.unmixing.least_squares import nonnegative, split_scale
from txm_stream.unmixing.rum import divergence, gradient, project_simplex, rum_pnp, rum_tv
from txm_stream.unmixing.vtv import curvature, strength, vtv

ENERGIES = np.linspace(8320.0, 8380.0, 60)


def channels(n_states, sigma, shape=(32, 36), seed=0):
    """Return truth (L, y, x), scale (y, x), white channels in float64 and their triangle."""
    phantom = make_phantom(shape, n_states=n_states, seed=seed)
    design = make_design(phantom.spectra(ENERGIES), ENERGIES, np.full(len(ENERGIES), sigma), background="none")
    amount = phantom.edge_jump.astype(np.float64)
    truth = phantom.abundances.astype(np.float64)
    noise = np.random.default_rng(seed).standard_normal(truth.shape)
    return truth, amount, np.tensordot(design.triangle, amount * truth, axes=1) + noise, design.triangle


def rmse(estimate, truth, amount):
    inside = amount > 0.25 * np.percentile(amount, 98)
    return float(np.sqrt(np.mean((estimate - truth)[:, inside] ** 2)))


def test_divergence_is_the_adjoint_of_the_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, 11, 7), dtype=torch.float64, generator=generator)
    u = torch.randn((2, 3, 11, 7), dtype=torch.float64, generator=generator)
    assert float((gradient(x) * u).sum()) == pytest.approx(float((x * divergence(u)).sum()), rel=1e-12)


@pytest.mark.parametrize("n_states", [2, 3, 5])
def test_projection_onto_the_simplex_is_the_nearest_point(n_states):
    points = torch.randn((n_states, 400), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    nearest = project_simplex(points).numpy()
    np.testing.assert_allclose(nearest.sum(axis=0), 1, atol=1e-12)
    assert nearest.min() >= 0
    # optimal: no corner of the simplex lies on the side of the point
    towards = points.numpy() - nearest
    for corner in np.eye(n_states):
        assert ((towards * (corner[:, None] - nearest)).sum(axis=0) < 1e-12).all()


@pytest.mark.parametrize("n_states", [2, 3])
def test_rum_tv_is_stationary(n_states):
    truth, amount, white, triangle = channels(n_states, 0.05, shape=(32, 32))
    found = rum_tv(white, triangle, lam=8.0, rho=500.0, iterations=3000, tolerance=5e-7)
    print(f"{found.iterations} iterations, residuals {found.primal[-1]:.1e}, {found.dual[-1]:.1e}")
    assert max(found.primal[-1], found.dual[-1]) < 1e-6
    plain = split_scale(nonnegative(white.reshape(n_states, -1), triangle))[0].reshape(white.shape)
    print(f"RMSE {rmse(found.abundances, truth, amount):.3f}, least squares {rmse(plain, truth, amount):.3f}")
    assert rmse(found.abundances, truth, amount) < 0.7 * rmse(plain, truth, amount)
    np.testing.assert_allclose(found.abundances.sum(axis=0), 1, atol=1e-9)
    assert found.abundances.min() >= 0
    assert found.scale.min() >= 0


def test_rum_with_a_denoiser_plugged_in():
    truth, amount, white, triangle = channels(2, 0.1, shape=(64, 64))
    told = []

    def smooth(image, sigma):
        told.append(sigma)
        return ndimage.gaussian_filter(image, 1.0)

    found = rum_pnp(white, triangle, smooth, lam=2.0, rho=50.0, iterations=40)
    assert told[0] == pytest.approx(0.2)  # √(λ/ρ)
    assert found.iterations == 40
    assert len(told) == 80
    plain = split_scale(nonnegative(white.reshape(2, -1), triangle))[0].reshape(white.shape)
    assert rmse(found.abundances, truth, amount) < 0.7 * rmse(plain, truth, amount)
    divided = rum_pnp(white, triangle, smooth, lam=2.0, rho=50.0, iterations=40, simplex="divide")
    assert np.abs(divided.abundances - found.abundances).max() > 1e-4


@pytest.mark.parametrize("values", [{"lam": 0.0, "rho": 1.0}, {"lam": 1.0, "rho": -1.0}])
def test_rum_needs_positive_parameters(values):
    _, _, white, triangle = channels(2, 0.1)
    with pytest.raises(BadReferenceError, match="both must be positive"):
        rum_tv(white, triangle, **values)


@pytest.mark.parametrize("n_states", [2, 3])
def test_vtv_agrees_with_a_generic_solver(n_states):
    _, amount, white, triangle = channels(n_states, 0.1, shape=(32, 32))
    part = (slice(10, 22), slice(8, 22))
    amount, white = amount[part], white[(slice(None), *part)]
    lam = strength(triangle, amount, amount > 0.1)
    start = np.full(white.shape, 1 / n_states)
    found = vtv(white, triangle, amount, start, lam=lam, iterations=400_000, tolerance=1e-11)

    rows, columns = amount.shape
    x = [cvxpy.Variable((rows, columns), nonneg=True) for _ in range(n_states)]
    shown = [cvxpy.multiply(amount, v) for v in x]
    residual = [b - sum(r * v for r, v in zip(row, shown, strict=True)) for b, row in zip(white, triangle, strict=True)]
    down = [cvxpy.vstack([v[1:] - v[:-1], np.zeros((1, columns))]) for v in x]
    right = [cvxpy.hstack([v[:, 1:] - v[:, :-1], np.zeros((rows, 1))]) for v in x]
    stacked = cvxpy.vstack([cvxpy.vec(g, order="C") for g in (*down, *right)])
    cost = 0.5 * sum(cvxpy.sum_squares(r) for r in residual) + lam * cvxpy.sum(cvxpy.norm(stacked, 2, axis=0))
    problem = cvxpy.Problem(cvxpy.Minimize(cost), [sum(x) == 1])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)

    def value(abundances):
        u = gradient(torch.from_numpy(abundances)).numpy()
        misfit = white - np.tensordot(triangle, amount * abundances, axes=1)
        return 0.5 * (misfit**2).sum() + lam * np.sqrt((u**2).sum(axis=(0, 1))).sum()

    theirs = np.stack([v.value for v in x])
    gap = value(found.abundances) / value(theirs) - 1
    away = np.abs(found.abundances - theirs).max()
    print(f"{found.iterations} iterations; cost over CVXPY's − 1: {gap:.1e}; abundances differ by {away:.1e}")
    assert abs(gap) < 1e-6
    assert away < 1e-4


def test_vtv_starts_warm():
    truth, amount, white, triangle = channels(2, 0.1, shape=(64, 64))
    lam = strength(triangle, amount, amount > 0.2)
    start = split_scale(nonnegative(white.reshape(2, -1), triangle))[0].reshape(white.shape)
    full = vtv(white, triangle, amount, start, lam=lam, iterations=400)
    again = vtv(white, triangle, amount, full.abundances, lam=lam, iterations=2, dual=full.dual)
    assert rmse(again.abundances, full.abundances, amount) < 5e-4
    assert rmse(full.abundances, truth, amount) < 0.5 * rmse(start, truth, amount)
    assert curvature(triangle) > 0
