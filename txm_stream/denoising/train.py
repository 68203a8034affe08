"""Train the networks that come with the package.

    python -m txm_stream.denoising.train unet --output weights/unet.npz

Seed and number of iterations are fixed; the images are those of :mod:`.training_images`. Products are in
bfloat16, which costs no quality, and half the time where the CPU knows it. The UNet takes 15 minutes of CPU time.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from txm_stream.arrays import Image
from txm_stream.denoising.networks import NETWORKS, make_network
from txm_stream.denoising.training_images import Images, training_images

SIGMA_RANGE = (2 / 255, 160 / 255)
"""Noise of the training images, whose range is about 1."""
_LOSS_POWER = 1.2
_GUIDED_RANGE = (3 / 255, 400 / 255)
"""The same for patches with a guide: the weaker components of a stack."""
_MAPS, _GUIDED = 0.3, 0.35
"""Shares of patches whose noise differs from place to place, and that have a guide."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: iterations, patches (count and side in px), largest learning rate, guides or none."""

    iterations: int
    patches: int = 16
    side: int = 64
    rate: float = 2e-3
    guided: bool = False


RECIPES = {"unet": Recipe(14000, guided=True), "dncnn": Recipe(3500, side=40, rate=1e-3)}


def train(name: str, *, recipe: Recipe | None = None, seed: int = 0, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return the weights of a trained network, float32, an exponential mean over the last iterations.

    Loss: mean squared error over σ^1.2, so that neither the faint nor the strong noise rules.
    """
    recipe = recipe or RECIPES[name]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = training_images(seed=seed)
    network = make_network(name, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.iterations, pct_start=0.05, div_factor=10, final_div_factor=1e3
    )
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)  # type: ignore[no-untyped-call]
    mean = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=average, use_buffers=False)
    began, running = time.monotonic(), 0.0
    for step in range(1, recipe.iterations + 1):
        clean, noise, sigma, guide, level = _batch(images, recipe, rng)
        tensors = [
            torch.from_numpy(x[:, None]).to(device, memory_format=torch.channels_last)
            for x in (clean + noise, sigma, guide, noise)
        ]
        with torch.autocast(device, torch.bfloat16):
            found = network(*tensors[:3])
        weight = torch.from_numpy(level ** (2 - _LOSS_POWER)).to(device)
        loss = (functional.mse_loss(found.float(), tensors[3], reduction="none").mean(dim=(1, 2, 3)) * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(network)
        running += (loss.item() - running) / min(step, 500)
        if step % 500 == 0:
            print(
                f"{name} {step}/{recipe.iterations}  loss {running:.5f}  {time.monotonic() - began:.0f} s", flush=True
            )
    return {key: value.detach().cpu() for key, value in mean.module.state_dict().items()}


def _batch(images: Images, recipe: Recipe, rng: np.random.Generator) -> tuple[Image, Image, Image, Image, Image]:
    """Return patches and noise in units of it (n, y, x), its relative map, guides (0: none), and its level (n,)."""
    guided = rng.random(recipe.patches) < (_GUIDED if recipe.guided else 0)
    clean = images.patches(recipe.patches, recipe.side, rng)
    guide = np.zeros_like(clean)
    clean[guided], guide[guided] = images.pairs(int(guided.sum()), recipe.side, rng)
    low, high = np.log(np.where(guided[:, None], _GUIDED_RANGE, SIGMA_RANGE)).T
    level = np.exp(rng.uniform(low, high)).astype(np.float32)
    sigma = np.ones_like(clean)
    for row in np.flatnonzero(rng.random(recipe.patches) < _MAPS):
        coarse = torch.from_numpy(rng.standard_normal((1, 1, 5, 5)).astype(np.float32))
        field = functional.interpolate(coarse, size=clean.shape[1:], mode="bicubic", align_corners=True)[0, 0].numpy()
        relief = np.exp(rng.uniform(0, 0.6) * field)
        sigma[row] = relief / np.sqrt(np.mean(relief**2))
    noise = sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return clean / level[:, None, None], noise, sigma, guide, level


def save(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights as half-precision arrays to an ``.npz`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half: dict[str, Any] = {name: value.numpy().astype(np.float16) for name, value in weights.items()}
    np.savez_compressed(path, **half)


def main() -> None:
    """Train a network from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--output", type=Path, required=True, help="file (.npz) for the weights")
    parser.add_argument("--iterations", type=int, default=None, help="default: those of the weights in the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.network]
    if arguments.iterations:
        recipe = Recipe(arguments.iterations, recipe.patches, recipe.side, recipe.rate)
    save(train(arguments.network, recipe=recipe, seed=arguments.seed, device=arguments.device), arguments.output)


if __name__ == "__main__":
    main()
