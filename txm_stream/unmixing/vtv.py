"""Abundances by vectorial total variation, the scale known: the convex problem of RUM+ for flat regions.

    min  ½ Σ_n ‖b_n − s_n R x_n‖² + Σ_n λ_n ‖(∇X)_n‖_F    over X on the simplex,

all states and both directions under one root, so that edges fall in the same place in all maps.

References
----------
Condat, J. Optim. Theory Appl. 158, 460 (2013), DOI 10.1007/s10957-012-0245-9, algorithm 3.1 (primal–dual splitting),
here with steps that differ from pixel to pixel; Bresson and Chan, Inverse Probl. Imaging 2, 455 (2008),
DOI 10.3934/ipi.2008.2.455 (vectorial total variation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import AnyArray, Image, Matrix, Stack
from txm_stream.unmixing.rum import divergence, gradient, project_simplex

KAPPA = 1.05
"""λ over noise · median scale · √λmax(P G P): within .2 dB of the best λ on phantoms of two kinds."""
_DUAL_STEP = 2.0
_CHECK_EVERY = 10


@dataclass(frozen=True, eq=False)
class Vtv:
    """Abundances (L, y, x), the dual image (2, L, y, x) for a warm start, and the iterations taken."""

    abundances: Stack
    dual: AnyArray
    iterations: int


def strength(triangle: Matrix, scale: Image, inside: AnyArray, *, kappa: float = KAPPA) -> float:
    """Return λ for white channels of unit noise, from the scale (y, x) of the pixels ``inside``."""
    typical = float(np.median(scale[inside])) if np.any(inside) else 1.0
    return kappa * typical * float(np.sqrt(curvature(triangle)))


def curvature(triangle: Matrix) -> float:
    """Return the largest eigenvalue of P RᵀR P, P = I − 11ᵀ/L: how strongly the data bind x along the simplex."""
    n_states = len(triangle)
    centre = np.eye(n_states) - 1 / n_states
    return float(np.linalg.eigvalsh(centre @ triangle.T @ triangle @ centre)[-1])


def vtv(
    white: Stack,
    triangle: Matrix,
    scale: Image,
    start: Stack,
    *,
    lam: float | Image,
    iterations: int = 40,
    tolerance: float = 0.0,
    dual: AnyArray | None = None,
) -> Vtv:
    """Minimise the problem above.

    Parameters
    ----------
    white
        b (L, y, x) in units of the noise, float32 or float64: all is computed in their precision.
    triangle
        R (L, L) of the design.
    scale
        s (y, x) ≥ 0; 0 leaves a pixel to its neighbours.
    start
        Abundances (L, y, x) to start from.
    lam
        λ > 0, one number or (y, x).
    iterations
        At most: 30 to 50 from a good start, 1 to 3 where a visit was added to a solution.
    tolerance
        Stop when no abundance changes by more between two iterations.
    dual
        Dual image of an earlier solution.
    """
    import torch

    kind = torch.float64 if white.dtype == np.float64 else torch.float32
    x = torch.tensor(start, dtype=kind)
    amount = torch.tensor(scale, dtype=kind)
    bound = torch.as_tensor(np.asarray(lam), dtype=kind).expand(amount.shape)
    pull = amount * torch.tensor(np.tensordot(triangle.T, white, axes=1), dtype=kind)
    information = torch.tensor(triangle.T @ triangle, dtype=kind)
    pull = pull - pull.mean(dim=0)
    centred = information - information.mean(dim=0)
    square = amount * amount
    rise = _DUAL_STEP * bound.clamp(min=1e-12).max()
    step = 1 / (0.5 * curvature(triangle) * square + 8 * rise)
    p = torch.zeros((2, *x.shape), dtype=kind) if dual is None else torch.tensor(dual, dtype=kind)
    done = 0
    for done in range(1, iterations + 1):
        slope = square * torch.tensordot(centred, x, dims=1) - pull + divergence(p)
        following = project_simplex(x - step * slope)
        p.add_(gradient(2 * following - x), alpha=float(rise))
        length = p.square().sum(dim=(0, 1)).sqrt_()
        p.mul_((bound / length.clamp_(min=1e-30)).clamp_(max=1))
        change = float((following - x).abs().max()) if tolerance > 0 and done % _CHECK_EVERY == 0 else np.inf
        x = following
        if change < tolerance:
            break
    return Vtv(x.numpy(), p.numpy(), done)
