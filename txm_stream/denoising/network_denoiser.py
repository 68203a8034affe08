"""Denoising by a trained network whose weights come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from txm_stream.arrays import AnyArray, Image, Stack
from txm_stream.denoising.networks import make_network
from txm_stream.errors import BadProfileError

_AROUND_PX = 17
_LUCK = 1.35
"""The variance of unit noise around a pixel is below this by four standard deviations."""
_TOGETHER_PIXELS = 256 * 256
"""Images below this size go through the network together on the CPU; larger ones in turn, to stay in its cache."""
_AT_ONCE_PIXELS, _SEEN_PX = 1536 * 1536, 96
"""Larger images go through in strips, with as many rows around each as the network sees: 300 bytes per pixel."""


class NetworkDenoiser:
    """A trained network as a denoiser of images; noise may differ from pixel to pixel.

    Parameters
    ----------
    name
        "unet" or "dncnn".
    weights
        File of :mod:`txm_stream.denoising.train`; default: the one that comes with the package.
    device
        Where the network runs: "cpu" or "cuda".

    Raises
    ------
    BadProfileError
        There is no such file, or its weights do not fit the network.
    """

    takes_sigma_map = takes_device = True

    def __init__(self, name: str, *, weights: Path | None = None, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = make_network(name, device)
        try:
            if weights is None:
                with as_file(files("txm_stream") / "weights" / f"{name}.npz") as path:
                    state = _read(path)
            else:
                state = _read(weights)
            self.network.load_state_dict(state)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            where = "that come with the package" if weights is None else f"in {weights}"
            raise BadProfileError(
                f"the weights {where} are not those of {name!r}; train them again: {error}"
            ) from error
        self.network.eval().requires_grad_(False)

    def __call__(self, image: Image, sigma: float | Image) -> Image:
        """Return the denoised image (y, x) float32."""
        return np.asarray(self.many(image[None], sigma)[0])

    def many(self, images: Stack, sigma: float | Image) -> Stack:
        """Return images (n, y, x) denoised, each by itself; ``sigma`` > 0 is one number or (y, x)."""
        return self._denoised(images, sigma, None)

    def _denoised(self, images: Stack, sigma: float | Image, guide: Image | None) -> Stack:
        level = float(np.sqrt(np.mean(np.square(sigma, dtype=np.float64))))
        if level <= 0:
            return np.array(images, dtype=np.float32)
        relative = torch.as_tensor(np.asarray(sigma, dtype=np.float32) / np.float32(level), device=self.device)
        together = len(images) if images[0].size <= _TOGETHER_PIXELS else 1
        parts = [
            self._noise_free(images[start : start + together], relative, level, guide)
            for start in range(0, len(images), together)
        ]
        return np.concatenate(parts) if parts else np.array(images, dtype=np.float32)

    def _noise_free(self, images: AnyArray, relative: torch.Tensor, level: float, guide: Image | None) -> Stack:
        data = torch.as_tensor(np.ascontiguousarray(images, dtype=np.float32), device=self.device)[:, None]
        mean = data.mean(dim=(2, 3), keepdim=True)
        unit = (data - mean) / level
        sigma = relative.expand(unit.shape) if relative.ndim == 2 else relative * torch.ones_like(unit)
        rows, columns = unit.shape[-2:]
        border = [(-n) % self.network.multiple for n in (columns, rows)]
        pad = (border[0] // 2, border[0] - border[0] // 2, border[1] // 2, border[1] - border[1] // 2)
        inputs = [unit, sigma] if guide is None else [unit, sigma, _standard(guide, self.device).expand(unit.shape)]
        whole = [functional.pad(x, pad, mode="reflect") if any(pad) else x for x in inputs]
        noise = self._noise(*whole)[..., pad[2] : pad[2] + rows, pad[0] : pad[0] + columns]
        noise = noise / _excess(noise / relative)
        return np.asarray(((unit - noise) * level + mean)[:, 0].cpu().numpy(), dtype=np.float32)

    def _noise(self, *whole: torch.Tensor) -> torch.Tensor:
        """Return what the network takes for noise in images (n, 1, y, x) in units of it, given σ, perhaps a guide."""
        rows, columns = whole[0].shape[-2:]
        height = rows
        if rows * columns > _AT_ONCE_PIXELS:
            height = max(_AT_ONCE_PIXELS // columns - 2 * _SEEN_PX, _SEEN_PX) // _SEEN_PX * _SEEN_PX
        strips = []
        for start in range(0, rows, height):
            first, last = max(start - _SEEN_PX, 0), min(start + height + _SEEN_PX, rows)
            inputs = (x[..., first:last, :].contiguous(memory_format=torch.channels_last) for x in whole)
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                strip = self.network(*inputs)
            strips.append(strip[..., start - first : start - first + height, :])
        return torch.cat(strips, dim=2)


def _standard(guide: Image, device: torch.device) -> torch.Tensor:
    """Return a guide (y, x) with mean 0 and variance 1."""
    image = torch.as_tensor(np.ascontiguousarray(guide, dtype=np.float32), device=device)
    return (image - image.mean()) / image.std().clamp_(min=1e-12)


def _excess(noise: torch.Tensor) -> torch.Tensor:
    """Return by how much the variance of supposed unit noise (n, 1, y, x) exceeds 1 around each pixel; at least 1.

    What is taken for noise can vary less than the noise, not more; where it does, the network has taken away content
    (at contrasts of a thousand times the noise, beyond its training). Shrunk by that factor it is the best estimate of
    the noise again, if what was taken away too much is independent of it.
    """
    border = _AROUND_PX // 2
    power = functional.avg_pool2d(noise**2, (_AROUND_PX, 1), 1, (border, 0), count_include_pad=False)
    around = functional.avg_pool2d(power, (1, _AROUND_PX), 1, (0, border), count_include_pad=False)
    return (around / _LUCK).clamp_(min=1.0)


def _read(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}


class UNet(NetworkDenoiser):
    """The small UNet of :class:`.networks.SmallUNet` with the weights of the package: the best denoiser for final maps.

    About 0.5 s for 1024² on two cores.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("unet", device=device)

    def components(self, images: Stack, sigma: float | Image) -> Stack:
        """Return the components (K, y, x) of one stack denoised; the strongest, once denoised, guides the others."""
        first = int(np.argmax(images.var(axis=(1, 2))))
        clean = np.empty(images.shape, dtype=np.float32)
        clean[first] = self(images[first], sigma)
        others = [k for k in range(len(images)) if k != first]
        together = max(len(others), 1) if images[0].size <= _TOGETHER_PIXELS else 1
        for start in range(0, len(others), together):
            chosen = others[start : start + together]
            clean[chosen] = self._denoised(images[chosen], sigma, clean[first])
        return clean


class DnCNNDenoiser(NetworkDenoiser):
    """DnCNN of :class:`.networks.DnCNN` with the weights of the package; slower than the UNet, kept for comparison."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__("dncnn", device=device)
