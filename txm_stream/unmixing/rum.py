"""Robust unmixing as published: ADMM on abundances and scale with total variation or a plugged-in denoiser.

    min  ½‖b − R (s∘X)‖² + λ Σ_j TV(x_j)    over X on the simplex and s ≥ 0,

b the white channels of :mod:`.design`, so that the cost does not depend on the number of energies. Kept to compare with
and as an option: λ and ρ are to be tuned. The equations are those of the paper with its errata: no Σ_j in eqs. 12 and
19, the scale of eq. 13 per pixel, the denoiser of step 7 told √(λ/ρ), a projection onto the simplex instead of a
division (which is no prox) unless asked for.

References
----------
Wang, Wu, Li, Wang, Opt. Express 31, 42524 (2023), DOI 10.1364/OE.500539, arXiv:2308.04207.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from txm_stream.arrays import AnyArray, Image, Matrix, Stack
from txm_stream.denoising import Denoiser, denoise_images
from txm_stream.errors import BadReferenceError
from txm_stream.unmixing.least_squares import nonnegative, split_scale

if TYPE_CHECKING:
    import torch

ITERATIONS = 100
_CG_STEPS = 30
_CG_TOLERANCE = 1e-3
"""The linear system of X is solved to this share of its right-hand side's change: its start is the last solution."""


@dataclass(frozen=True, eq=False)
class Rum:
    """Abundances (L, y, x) on the simplex, scale (y, x) ≥ 0, and how the iterations converged.

    ``primal`` and ``dual`` (iterations,): rms of the constraints' violation, and of the stationarity of X and s (eqs.
    21 to 26 of the paper), both in units of the splitting variables.
    """

    abundances: Stack
    scale: Image
    iterations: int
    primal: AnyArray
    dual: AnyArray


class _Prior(Protocol):
    """A linear operator K and the prox of the prior at K x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor: ...
    def adjoint(self, u: torch.Tensor) -> torch.Tensor: ...
    def prox(self, v: torch.Tensor) -> torch.Tensor: ...


def rum_tv(
    white: Stack,
    triangle: Matrix,
    *,
    lam: float,
    rho: float,
    iterations: int = ITERATIONS,
    tolerance: float = 0.0,
    simplex: Literal["project", "divide"] = "project",
) -> Rum:
    """Unmix white channels by RUM with total variation (isotropic, per state).

    Parameters
    ----------
    white
        (L, y, x) white channels in units of their noise, float32 or float64: all is computed in their precision.
    triangle
        R (L, L) of the design.
    lam, rho
        λ and ρ in these units: the paper's over σ² for noise σ of the stack.
    iterations
        At most; fewer where primal and dual residuals fall below ``tolerance``.
    simplex
        ``"project"``, or ``"divide"`` as in the paper's step 4.

    Raises
    ------
    BadReferenceError
        λ or ρ is not positive.
    """
    return _admm(white, triangle, _Gradient(lam / rho if rho > 0 else 0.0), lam, rho, iterations, tolerance, simplex)


def rum_pnp(
    white: Stack,
    triangle: Matrix,
    denoiser: Denoiser,
    *,
    lam: float,
    rho: float,
    iterations: int = ITERATIONS,
    tolerance: float = 0.0,
    simplex: Literal["project", "divide"] = "project",
) -> Rum:
    """Unmix white channels by RUM with a denoiser plugged in, told √(λ/ρ); parameters as in :func:`rum_tv`."""
    prior = _PlugIn(denoiser, float(np.sqrt(lam / rho)) if rho > 0 and lam > 0 else 0.0)
    return _admm(white, triangle, prior, lam, rho, iterations, tolerance, simplex)


def gradient(x: torch.Tensor) -> torch.Tensor:
    """Return forward differences (2, …, y, x) along y and x; 0 beyond the border."""
    import torch

    out = torch.zeros((2, *x.shape), dtype=x.dtype, device=x.device)
    torch.sub(x[..., 1:, :], x[..., :-1, :], out=out[0, ..., :-1, :])
    torch.sub(x[..., 1:], x[..., :-1], out=out[1, ..., :-1])
    return out


def divergence(u: torch.Tensor) -> torch.Tensor:
    """Return ∇ᵀu (…, y, x), the adjoint of :func:`gradient` (minus the usual divergence)."""
    out = -(u[0] + u[1])
    out[..., -1, :] += u[0][..., -1, :]  # nothing was taken beyond the border
    out[..., -1] += u[1][..., -1]
    out[..., 1:, :] += u[0][..., :-1, :]
    out[..., 1:] += u[1][..., :-1]
    return out


def project_simplex(x: torch.Tensor) -> torch.Tensor:
    """Return the nearest point of the probability simplex along the first axis, for every pixel.

    References
    ----------
    Duchi et al., ICML 2008, DOI 10.1145/1390156.1390191, fig. 1.
    """
    import torch

    descending = torch.sort(x, dim=0, descending=True).values
    count = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
    excess = (descending.cumsum(dim=0) - 1) / count
    last = (descending > excess).sum(dim=0, keepdim=True) - 1
    return (x - excess.gather(0, last)).clamp_(min=0)


class _Gradient:
    """K = ∇, prox of ``strength`` times the isotropic total variation of each state."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gradient(x)

    def adjoint(self, u: torch.Tensor) -> torch.Tensor:
        return divergence(u)

    def prox(self, v: torch.Tensor) -> torch.Tensor:
        length = (v * v).sum(dim=0).sqrt_()
        return v * (1 - self.strength / length.clamp_(min=1e-30)).clamp_(min=0)


class _PlugIn:
    """K = 1, the denoiser as prox."""

    def __init__(self, denoiser: Denoiser, sigma: float) -> None:
        self.denoiser = denoiser
        self.sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    def adjoint(self, u: torch.Tensor) -> torch.Tensor:
        return u

    def prox(self, v: torch.Tensor) -> torch.Tensor:
        import torch

        clean = denoise_images(v.numpy().astype(np.float32), self.sigma, self.denoiser)
        return torch.from_numpy(clean).to(v.dtype)


def _admm(
    white: Stack,
    triangle: Matrix,
    prior: _Prior,
    lam: float,
    rho: float,
    iterations: int,
    tolerance: float,
    simplex: str,
) -> Rum:
    """Alternate the paper's steps; names as in its eqs. 8 to 26 (multipliers c, d, e, g scaled by 1/ρ)."""
    import torch

    if not lam > 0 or not rho > 0:
        raise BadReferenceError(f"lam is {lam}, rho is {rho}; both must be positive")
    flat = white.reshape(len(white), -1)
    abundances, amount = split_scale(nonnegative(flat, triangle))
    x = torch.from_numpy(np.ascontiguousarray(abundances.reshape(white.shape)))
    s = torch.from_numpy(np.ascontiguousarray(amount.reshape(white.shape[1:])))
    information = triangle.T @ triangle
    pull = torch.from_numpy((triangle.T @ flat).astype(white.dtype).reshape(white.shape))  # B
    inverse = torch.from_numpy(np.linalg.inv(information + rho * np.eye(len(white))).astype(white.dtype))
    c, e, g = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(s)
    kx = prior.forward(x)
    d = torch.zeros_like(kx)
    history: list[tuple[float, float]] = []
    for _ in range(iterations):
        m = torch.tensordot(inverse, pull + rho * (s * x + c), dims=1)
        u = prior.prox(kx + d)
        w = project_simplex(x + e) if simplex == "project" else _divide(x + e)
        t = (s + g).clamp_(min=0)
        x = _solve(s, s * (m - c) + prior.adjoint(u - d) + w - e, x, prior)
        s = ((x * (m - c)).sum(dim=0) + t - g) / ((x * x).sum(dim=0) + 1)
        kx = prior.forward(x)
        gaps = (s * x - m, kx - u, x - w, s - t)
        for multiplier, gap in zip((c, d, e, g), gaps, strict=True):
            multiplier += gap
        primal = max(_rms(gap) for gap in gaps)
        dual = max(_rms(c * s + prior.adjoint(d) + e), _rms((x * c).sum(dim=0) + g))
        history.append((primal, dual))
        if max(primal, dual) < tolerance:
            break
    primal_history, dual_history = np.array(history).T
    final = project_simplex(x).numpy()
    return Rum(final, s.clamp_(min=0).numpy(), len(history), primal_history, dual_history)


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def _divide(x: torch.Tensor) -> torch.Tensor:
    """Return what the paper's step 4 does: negative ones to zero, then divide by the sum."""
    positive = x.clamp(min=0)
    return positive / positive.sum(dim=0, keepdim=True).clamp_(min=1e-6)


def _solve(s: torch.Tensor, right: torch.Tensor, start: torch.Tensor, prior: _Prior) -> torch.Tensor:
    """Solve (s² + 1 + KᵀK) x = right (eq. 12 or 19) by conjugate gradients from ``start``; diagonal for K = 1."""
    if isinstance(prior, _PlugIn):
        return right / (s * s + 2)
    weight = s * s + 1

    def operator(v: torch.Tensor) -> torch.Tensor:
        return weight * v + prior.adjoint(prior.forward(v))

    scale = 1 / (weight + 4)  # 4: the diagonal of ∇ᵀ∇ inside
    x = start.clone()
    residual = right - operator(x)
    enough = _CG_TOLERANCE**2 * float(residual.square().sum())
    preconditioned = scale * residual
    direction = preconditioned.clone()
    power = float((residual * preconditioned).sum())
    for _ in range(_CG_STEPS):
        if power <= 0 or float(residual.square().sum()) <= enough:
            break
        image = operator(direction)
        step = power / float((direction * image).sum())
        x.add_(direction, alpha=step)
        residual.sub_(image, alpha=step)
        preconditioned = scale * residual
        following = float((residual * preconditioned).sum())
        direction.mul_(following / power).add_(preconditioned)
        power = following
    return x
