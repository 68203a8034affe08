"""Images for training and judging denoisers: photographs, phantoms, and mixtures of their maps like eigenimages.

Components of one stack are mixtures of the same maps: they come in pairs, one that is to be denoised and its guide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from txm_stream.arrays import AnyArray, Image, Stack, Vector
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
_FIRST_SEED, _FIRST_HELD_OUT_SEED = 10_000, 1000
"""Of phantoms; tests and benchmarks take seeds below 1000."""
_SAMPLES, _ORTHOGONAL = 0.75, 0.7
"""Shares of pairs from phantoms (the others: colours of photographs), and of those that are orthogonal."""
_WIDTH, _GUIDE_NOISE = 0.2, 0.06
"""Standard deviation of a component of range 1; largest noise of its guide, over that."""
_KINDS = {"photo": 0.4, "phantom": 0.32, "eigenimage": 0.28}


class Family:
    """Images of one sample (n, y, x): maps of a phantom, colours of a photograph; drawn from are their mixtures."""

    def __init__(self, images: Stack) -> None:
        flat = images.reshape(len(images), -1).astype(np.float64)
        self.images = images.astype(np.float32)
        self._gram = flat @ flat.T / flat.shape[1]
        self._mean = flat.mean(axis=1)

    def pair(self, size: int, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return a patch (size, size) of a mixture, as wide as others, and of its guide, with mean 0 and variance 1.

        The guide is a sum of all images, as the strongest component is; the other often orthogonal to it.
        """
        guide = rng.uniform(0.3, 1.0, size=len(self.images))
        other = rng.standard_normal(len(self.images))
        if rng.random() < _ORTHOGONAL:
            other -= guide * (other @ self._gram @ guide) / (guide @ self._gram @ guide)
        y, x = (int(rng.integers(n - size + 1)) for n in self.images.shape[1:])
        parts = self.images[:, y : y + size, x : x + size]
        return _WIDTH * self._mixed(other, parts), self._mixed(guide, parts)

    def _mixed(self, weights: Vector, parts: Stack) -> Image:
        mean = weights @ self._mean
        width = np.sqrt(max(weights @ self._gram @ weights - mean**2, 1e-12))
        return np.asarray((np.tensordot(weights, parts, axes=1) - mean) / width, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Images:
    """Images (y, x) float32 of range 1 by kind: "photo", "phantom", "eigenimage"; families of phantoms and photos."""

    photo: tuple[Image, ...]
    phantom: tuple[Image, ...]
    eigenimage: tuple[Image, ...]
    samples: tuple[Family, ...]
    colours: tuple[Family, ...]

    def patches(self, count: int, size: int, rng: np.random.Generator) -> Image:
        """Return random patches (count, size, size), turned, mirrored, inverted; their image's mean is 0."""
        kinds = rng.choice(len(_KINDS), size=count, p=list(_KINDS.values()))
        out = np.empty((count, size, size), dtype=np.float32)
        for row, kind in enumerate(kinds):
            images: tuple[Image, ...] = getattr(self, list(_KINDS)[kind])
            image = images[rng.integers(len(images))]
            y, x = (int(rng.integers(n - size + 1)) for n in image.shape)
            patch = image[y : y + size, x : x + size]
            out[row] = _turned(patch[None], rng)[0] * _contrast(rng)
        return out

    def pairs(self, count: int, size: int, rng: np.random.Generator) -> tuple[Image, Image]:
        """Return random patches (count, size, size) as :meth:`patches` does, and guides with little noise."""
        patches, guides = np.empty((2, count, size, size), dtype=np.float32)
        for row in range(count):
            families = self.samples if rng.random() < _SAMPLES else self.colours
            pair = np.stack(families[rng.integers(len(families))].pair(size, rng))
            patch, guide = _turned(pair, rng)
            patches[row] = patch * _contrast(rng)
            noise = rng.uniform(0, _GUIDE_NOISE) * rng.standard_normal(guide.shape, dtype=np.float32)
            guides[row] = guide * (1 if rng.integers(2) else -1) + noise
        return patches, guides


def training_images(*, seed: int = 0, phantoms: int = 24) -> Images:
    """Return the images for training; ``seed`` draws the phantoms."""
    photos = []
    for name in PHOTOS:
        image = photograph(name)
        for zoom in (1.0, 0.7, 0.5, 0.35):
            if min(image.shape) * zoom >= 96:
                photos.append(_unit(_zoomed(image, zoom)))
    rng = np.random.default_rng(seed)
    seeds = [_FIRST_SEED + seed * phantoms + number for number in range(phantoms)]
    maps, mixtures, samples = _simulated(seeds, rng)
    coloured = [np.asarray(picture) for picture in map(_picture, PHOTOS)]
    colours = [Family(picture[..., :3].transpose(2, 0, 1)) for picture in coloured if picture.ndim == 3]
    return Images(tuple(photos), maps, mixtures, samples, tuple(colours))


def held_out_images(size: int = 256) -> dict[str, Image]:
    """Return ten images (size, size) that no network was trained on, by name: photographs, phantoms, eigenimages."""
    out: dict[str, Image] = {}
    for name in HELD_OUT_PHOTOS:
        image = _zoomed(photograph(name), 0.6)
        y, x = ((n - size) // 2 if n > size else 0 for n in image.shape)
        out[name] = image[y : y + size, x : x + size]
    rng = np.random.default_rng(_FIRST_HELD_OUT_SEED)
    maps, mixtures, _ = _simulated([_FIRST_HELD_OUT_SEED + n for n in range(3)], rng, size=size, each=1)
    out |= {f"phantom {n + 1}": image for n, image in enumerate(maps[:3])}
    out |= {f"eigenimage {n + 1}": image for n, image in enumerate(mixtures[:3])}
    return {name: _unit(image, centred=False) for name, image in out.items()}


def photograph(name: str) -> Image:
    """Return a photograph of scikit-image's wheel as grey levels (y, x) from 0 to 1."""
    from skimage import color

    image = _picture(name)
    if image.ndim == 3:
        image = color.rgb2gray(image[..., :3])
    image = image.astype(np.float32)
    return np.asarray(image / image.max(), dtype=np.float32)


def _picture(name: str) -> AnyArray:
    from skimage import data

    return np.asarray(getattr(data, name)())


def _turned(images: Stack, rng: np.random.Generator) -> Stack:
    """Return images (n, y, x) turned and mirrored together."""
    turned = np.rot90(images, int(rng.integers(4)), axes=(1, 2))
    return turned[..., ::-1] if rng.integers(2) else turned


def _contrast(rng: np.random.Generator) -> float:
    return (1 if rng.integers(2) else -1) * float(rng.uniform(0.5, 1.5))


def _zoomed(image: Image, zoom: float) -> Image:
    if zoom == 1.0:
        return image
    smooth = ndimage.gaussian_filter(image, 0.4 / zoom)
    return np.asarray(ndimage.zoom(smooth, zoom, order=1), dtype=np.float32)


def _simulated(
    seeds: list[int], rng: np.random.Generator, *, size: int | None = None, each: int = 6
) -> tuple[tuple[Image, ...], tuple[Image, ...], tuple[Family, ...]]:
    """Return maps of phantoms, random mixtures of the maps of one phantom, as components of a stack are, and both."""
    maps, mixtures, samples = [], [], []
    for number, seed in enumerate(seeds):
        side = size or (128, 192, 256, 384)[number % 4]
        phantom = make_phantom(
            (side, side),
            n_states=2 + number % 3,
            chemistry="core-shell" if number % 2 else "region",
            seed=seed,
        )
        parts = [*(phantom.edge_jump * phantom.abundances), phantom.background[0]]
        samples.append(Family(np.stack(parts)))
        chosen = [phantom.edge_jump, *parts] if each > 1 else [parts[number % len(parts)]]
        maps += [_unit(image) for image in chosen]
        for _ in range(each):
            weights = rng.standard_normal(len(parts))
            mixtures.append(_unit(sum(w * p for w, p in zip(weights, parts, strict=True))))
    return tuple(maps), tuple(mixtures), tuple(samples)


def _unit(image: Image, *, centred: bool = True) -> Image:
    """Return an image of range 1, with mean 0 or minimum 0."""
    low, high = float(image.min()), float(image.max())
    out = (image - (image.mean() if centred else low)) / max(high - low, 1e-9)
    return np.asarray(out, dtype=np.float32)
