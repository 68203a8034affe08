"""The two networks: a small bias-free UNet and DnCNN; both take unit noise, and a map of where it is stronger."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class _Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return an array of the same shape."""
        out: Tensor = self.second(functional.relu_(self.first(x)))
        out += x
        return out


class SmallUNet(nn.Module):
    """Bias-free UNet on pixel-unshuffled images: four levels, one residual block each, additive skips, noise as output.

    Without biases D(a·y, a·σ) = a·D(y, σ) for a > 0: one training serves every contrast. A guide, where there is one,
    is an image of the same sample with little noise and variance 1: it shows where edges may be.

    ``channels`` per level. Sides of the images must be multiples of :attr:`multiple`.

    References
    ----------
    Zhang, Li, Zuo, Zhang, Van Gool and Timofte, IEEE Trans. Pattern Anal. Mach. Intell. 44, 6360 (2022),
    DOI 10.1109/TPAMI.2021.3088914 (DRUNet); Mohan, Kadkhodaie, Simoncelli and Fernandez-Granda, ICLR 2020 (no biases).
    """

    multiple = 16

    def __init__(self, channels: tuple[int, ...] = (32, 48, 64, 96)) -> None:
        super().__init__()
        self.enter = nn.Conv2d(12, channels[0], 3, padding=1, bias=False)
        self.leave = nn.Conv2d(channels[0], 4, 3, padding=1, bias=False)
        self.down = nn.ModuleList(_Residual(n) for n in channels[:-1])
        self.up = nn.ModuleList(_Residual(n) for n in channels[:-1])
        self.bottom = _Residual(channels[-1])
        pairs = list(pairwise(channels))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in pairs)

    def forward(self, image: Tensor, sigma: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the noise in ``image`` (n, 1, y, x), whose standard deviation is ``sigma``, by a ``guide``."""
        shown = torch.zeros_like(image) if guide is None else guide
        x = self.enter(functional.pixel_unshuffle(torch.cat([image, sigma, shown], dim=1), 2))
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.bottom(x)
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = grow(x)
            x += skips.pop()  # in place: large images take as much memory as these
            x = block(x)
        return functional.pixel_shuffle(self.leave(x), 2)


class DnCNN(nn.Module):
    """Plain convolutions at full size, noise as output; bias-free, with the noise map as a second input.

    References
    ----------
    Zhang, Zuo, Chen, Meng and Zhang, IEEE Trans. Image Process. 26, 3142 (2017), DOI 10.1109/TIP.2017.2662206.
    Without batch normalisation and biases here, as in the bias-free variant of Mohan et al., ICLR 2020.
    """

    multiple = 1

    def __init__(self, depth: int = 10, channels: int = 48) -> None:
        super().__init__()
        sizes = [2, *[channels] * (depth - 1), 1]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(sizes))

    def forward(self, image: Tensor, sigma: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the noise in ``image`` (n, 1, y, x), whose standard deviation is ``sigma``; looks at no ``guide``."""
        x = torch.cat([image, sigma], dim=1)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


NETWORKS: dict[str, type[SmallUNet] | type[DnCNN]] = {"unet": SmallUNet, "dncnn": DnCNN}


def make_network(name: str, device: str) -> SmallUNet | DnCNN:
    """Return an untrained network on a device, its weights in the layout that is fastest there."""
    network = NETWORKS[name]().to(device)
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
