"""Total-variation denoising by accelerated projected gradients on the dual; the fast denoiser of live previews."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from txm_stream.arrays import Image

if TYPE_CHECKING:
    import torch

STRENGTH = 0.9
"""λ = STRENGTH·σ: near the best λ for eigenimages and phantoms over signal-to-noise ratios of 1 to 50."""


class TotalVariation:
    """Solve min ½‖x − y‖² + λ Σ|∇x| with λ = strength·σ.

    Parameters
    ----------
    iterations
        Fixed number of iterations, so that cost and answer are reproducible: 40 for final maps, 12 live.
    strength
        λ/σ.

    Notes
    -----
    10 ms per iteration and 1024² image on two cores. Flat regions and sharp edges come out well, texture is lost.

    References
    ----------
    Beck and Teboulle, IEEE Trans. Image Process. 18, 2419 (2009), DOI 10.1109/TIP.2009.2028250 (FGP);
    Chambolle, J. Math. Imaging Vis. 20, 89 (2004), DOI 10.1023/B:JMIV.0000011325.36760.1e.
    """

    def __init__(self, iterations: int = 40, strength: float = STRENGTH) -> None:
        self.iterations = iterations
        self.strength = strength

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image (y, x) float32."""
        import torch

        if sigma <= 0:
            return np.array(image, dtype=np.float32)
        data = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).div(float(sigma))
        return np.asarray(total_variation(data, self.strength, self.iterations).mul_(float(sigma)).numpy())


def total_variation(image: torch.Tensor, strength: float, iterations: int) -> torch.Tensor:
    """Return the prox of ``strength``·TV at ``image`` (y, x) after a fixed number of FGP iterations."""
    import torch

    py, px = torch.zeros_like(image), torch.zeros_like(image)
    qy, qx = torch.zeros_like(image), torch.zeros_like(image)
    scratch = torch.empty_like(image)
    out = torch.empty_like(image)
    momentum = 1.0
    for _ in range(iterations):
        _primal(image, qy, qx, strength, out)
        torch.sub(out[1:], out[:-1], out=scratch[:-1])
        qy[:-1].add_(scratch[:-1], alpha=1 / (8 * strength))
        torch.sub(out[:, 1:], out[:, :-1], out=scratch[:, :-1])
        qx[:, :-1].add_(scratch[:, :-1], alpha=1 / (8 * strength))
        torch.mul(qy, qy, out=scratch)
        scratch.addcmul_(qx, qx).sqrt_().clamp_(min=1.0).reciprocal_()
        qy.mul_(scratch)
        qx.mul_(scratch)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = 1 + (momentum - 1) / following
        momentum = following
        py, qy = qy, torch.lerp(py, qy, ahead)
        px, qx = qx, torch.lerp(px, qx, ahead)
    return _primal(image, py, px, strength, out)


def _primal(
    image: torch.Tensor, dual_y: torch.Tensor, dual_x: torch.Tensor, strength: float, out: torch.Tensor
) -> torch.Tensor:
    """Write image − strength·∇ᵀ(dual) into ``out`` and return it."""
    out.copy_(image)
    out[:-1].add_(dual_y[:-1], alpha=strength)
    out[1:].sub_(dual_y[:-1], alpha=strength)
    out[:, :-1].add_(dual_x[:, :-1], alpha=strength)
    out[:, 1:].sub_(dual_x[:, :-1], alpha=strength)
    return out
