"""Total-variation denoising by accelerated projected gradients on the dual; the fast denoiser of live previews."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from txm_stream.arrays import Image, Stack

if TYPE_CHECKING:
    import torch

STRENGTH = 0.9
"""λ = STRENGTH·σ: near the best λ for eigenimages and phantoms over signal-to-noise ratios of 1 to 50."""

_TOGETHER_PIXELS = 128 * 1024
_CLEAR = 6.0


class TotalVariation:
    """Solve min ½‖x − y‖² + λ Σ|∇x| with λ = strength·σ.

    Parameters
    ----------
    iterations
        Fixed number of iterations, so that cost and answer are reproducible: 40 for final maps, 12 live.
    strength
        λ/σ.
    iterations_if_clear
        Iterations for an image whose standard deviation is above 6 σ: there half of them suffice (.2 dB).
    device
        "cpu" or "cuda".

    Notes
    -----
    10 ms per iteration and 1024² image on two cores. Flat regions and sharp edges come out well, texture is lost.

    References
    ----------
    Beck and Teboulle, IEEE Trans. Image Process. 18, 2419 (2009), DOI 10.1109/TIP.2009.2028250 (FGP);
    Chambolle, J. Math. Imaging Vis. 20, 89 (2004), DOI 10.1023/B:JMIV.0000011325.36760.1e.
    """

    takes_device = True

    def __init__(
        self,
        iterations: int = 40,
        strength: float = STRENGTH,
        *,
        iterations_if_clear: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.iterations = iterations
        self.strength = strength
        self.device = device
        self.iterations_if_clear = iterations if iterations_if_clear is None else iterations_if_clear

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image (y, x) float32."""
        return self.many(image, sigma)

    def many(self, images: Stack, sigma: float) -> Stack:
        """Return images (…, y, x) denoised, each by itself; large ones in turn, to stay in the processor's cache."""
        import torch

        if sigma <= 0:
            return np.array(images, dtype=np.float32)
        if images.ndim > 2 and images[0].size > _TOGETHER_PIXELS:
            return np.stack([self.many(image, sigma) for image in images])
        data = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(self.device).div(float(sigma))
        clear = self.iterations_if_clear < self.iterations and float(data.std()) > _CLEAR
        iterations = self.iterations_if_clear if clear else self.iterations
        return np.asarray(total_variation(data, self.strength, iterations)[0].mul_(float(sigma)).cpu().numpy())


Dual = tuple["torch.Tensor", "torch.Tensor"]
"""Dual solution along y and x, each of the image's shape."""


def total_variation(
    image: torch.Tensor, strength: float, iterations: int, *, dual: Dual | None = None
) -> tuple[torch.Tensor, Dual]:
    """Return the prox of ``strength``·TV at ``image`` (…, y, x) after a fixed number of FGP iterations, and its dual.

    ``dual``, of a similar image, is where it starts; it is used up.
    The dual lives on forward differences; its last row (y) and column (x) stay zero. In units of ``strength`` every
    step is an addition in place: memory traffic is all the cost.
    """
    import torch

    data = image / strength
    out, scratch = torch.empty_like(data), torch.empty_like(data)
    py, px = (torch.zeros_like(data), torch.zeros_like(data)) if dual is None else dual
    qy, qx = py.clone(), px.clone()
    momentum = 1.0
    for _ in range(iterations):
        _primal(data, qy, qx, out)
        torch.sub(out[..., 1:, :], out[..., :-1, :], out=scratch[..., :-1, :])
        qy[..., :-1, :].add_(scratch[..., :-1, :], alpha=1 / 8)
        torch.sub(out[..., 1:], out[..., :-1], out=scratch[..., :-1])
        qx[..., :-1].add_(scratch[..., :-1], alpha=1 / 8)
        torch.mul(qy, qy, out=scratch)
        scratch.addcmul_(qx, qx).clamp_(min=1.0).rsqrt_()
        qy.mul_(scratch)
        qx.mul_(scratch)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = 1 + (momentum - 1) / following
        momentum = following
        py, qy = qy, py.lerp_(qy, ahead)
        px, qx = qx, px.lerp_(qx, ahead)
    return _primal(data, py, px, out).mul_(strength), (py, px)


def _primal(data: torch.Tensor, dual_y: torch.Tensor, dual_x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write data − ∇ᵀ(dual) into ``out`` and return it."""
    import torch

    torch.add(data, dual_y, out=out).add_(dual_x)
    out[..., 1:, :].sub_(dual_y[..., :-1, :])
    out[..., 1:].sub_(dual_x[..., :-1])
    return out
