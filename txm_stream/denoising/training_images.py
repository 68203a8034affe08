"""Images for training and judging denoisers: photographs, phantoms, and mixtures of their maps like eigenimages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream.arrays import Image
from txm_stream.phantoms import make_phantom

PHOTOS = (
    "astronaut",
    "brick",
    "cell",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
"""Photographs of scikit-image that are in its wheel, for training."""
HELD_OUT_PHOTOS = ("camera", "chelsea", "coins", "moon")
"""The same, for judging."""
_FIRST_HELD_OUT_SEED = 1000
_KINDS = {"photo": 0.4, "phantom": 0.32, "eigenimage": 0.28}


@dataclass(frozen=True, eq=False)
class Images:
    """Images (y, x) float32 of range 1 by kind: "photo", "phantom", "eigenimage"."""

    photo: tuple[Image, ...]
    phantom: tuple[Image, ...]
    eigenimage: tuple[Image, ...]

    def patches(self, count: int, size: int, rng: np.random.Generator) -> Image:
        """Return random patches (count, size, size), turned, mirrored, inverted; their image's mean is 0."""
        kinds = rng.choice(len(_KINDS), size=count, p=list(_KINDS.values()))
        out = np.empty((count, size, size), dtype=np.float32)
        for row, kind in enumerate(kinds):
            images: tuple[Image, ...] = getattr(self, list(_KINDS)[kind])
            image = images[rng.integers(len(images))]
            y, x = (int(rng.integers(n - size + 1)) for n in image.shape)
            patch = image[y : y + size, x : x + size]
            patch = np.rot90(patch, int(rng.integers(4)))
            patch = patch[:, ::-1] if rng.integers(2) else patch
            out[row] = patch * (1 if rng.integers(2) else -1) * rng.uniform(0.5, 1.5)
        return out


def training_images(*, seed: int = 0, phantoms: int = 24) -> Images:
    """Return the images for training; ``seed`` draws the phantoms."""
    photos = []
    for name in PHOTOS:
        image = photograph(name)
        for zoom in (1.0, 0.7, 0.5, 0.35):
            if min(image.shape) * zoom >= 96:
                photos.append(_unit(_zoomed(image, zoom)))
    rng = np.random.default_rng(seed)
    seeds = [seed * phantoms + number for number in range(phantoms)]
    return Images(tuple(photos), *_simulated(seeds, rng))


def held_out_images(size: int = 256) -> dict[str, Image]:
    """Return ten images (size, size) that no network was trained on, by name: photographs, phantoms, eigenimages."""
    out: dict[str, Image] = {}
    for name in HELD_OUT_PHOTOS:
        image = _zoomed(photograph(name), 0.6)
        y, x = ((n - size) // 2 if n > size else 0 for n in image.shape)
        out[name] = image[y : y + size, x : x + size]
    rng = np.random.default_rng(_FIRST_HELD_OUT_SEED)
    maps, mixtures = _simulated([_FIRST_HELD_OUT_SEED + n for n in range(3)], rng, size=size, each=1)
    out |= {f"phantom {n + 1}": image for n, image in enumerate(maps[:3])}
    out |= {f"eigenimage {n + 1}": image for n, image in enumerate(mixtures[:3])}
    return {name: _unit(image, centred=False) for name, image in out.items()}


def photograph(name: str) -> Image:
    """Return a photograph of scikit-image's wheel as grey levels (y, x) from 0 to 1."""
    from skimage import color, data

    image = np.asarray(getattr(data, name)())
    if image.ndim == 3:
        image = color.rgb2gray(image[..., :3])
    image = image.astype(np.float32)
    return np.asarray(image / image.max(), dtype=np.float32)


def _zoomed(image: Image, zoom: float) -> Image:
    if zoom == 1.0:
        return image
    smooth = ndimage.gaussian_filter(image, 0.4 / zoom)
    return np.asarray(ndimage.zoom(smooth, zoom, order=1), dtype=np.float32)


def _simulated(
    seeds: list[int], rng: np.random.Generator, *, size: int | None = None, each: int = 6
) -> tuple[tuple[Image, ...], tuple[Image, ...]]:
    """Return maps of phantoms, and random mixtures of the maps of one phantom, as the components of a stack are."""
    maps, mixtures = [], []
    for number, seed in enumerate(seeds):
        side = size or (128, 192, 256, 384)[number % 4]
        phantom = make_phantom(
            (side, side),
            n_states=2 + number % 3,
            chemistry="core-shell" if number % 2 else "region",
            seed=seed,
        )
        parts = [*(phantom.edge_jump * phantom.abundances), phantom.background[0]]
        chosen = [phantom.edge_jump, *parts] if each > 1 else [parts[number % len(parts)]]
        maps += [_unit(image) for image in chosen]
        for _ in range(each):
            weights = rng.standard_normal(len(parts))
            mixtures.append(_unit(sum(w * p for w, p in zip(weights, parts, strict=True))))
    return tuple(maps), tuple(mixtures)


def _unit(image: Image, *, centred: bool = True) -> Image:
    """Return an image of range 1, with mean 0 or minimum 0."""
    low, high = float(image.min()), float(image.max())
    out = (image - (image.mean() if centred else low)) / max(high - low, 1e-9)
    return np.asarray(out, dtype=np.float32)
