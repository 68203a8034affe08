"""A result as ImageJ hyperstacks: the denoised stack with its energies, the maps with the names of the states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.io.named_images import map_images, other_images, sigma_images
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result

_CLASSIC_BYTES = 2**32 - 2**25


def tiff_paths(path: Path) -> tuple[Path, Path]:
    """Return the files of an export: the stack, and the maps beside it (``<stem>_maps.tif``)."""
    return path, path.with_name(f"{path.stem}_maps{path.suffix}")


def write_tiff(path: Path | str, result: Result, *, pixel_nm: float | None = None) -> tuple[Path, ...]:
    """Write ImageJ hyperstacks (float32, slices); return their paths.

    The first holds the denoised stack (T, y, x), each slice labelled with its energy ("8345.00 eV"). The second holds
    one slice per state, labelled with its name, then "sigma <name>", "edge jump (OD)" and "reduced chi-square", or
    "edge-50 (eV)" where there were no references; without any map it is not written. Pixels that say nothing are NaN.

    Parameters
    ----------
    pixel_nm
        Pixel size in nm; ``None``: the images have no scale.
    """
    stack_path, map_path = tiff_paths(Path(path))
    labels = [f"{energy:.2f} eV" for energy in result.energies_eV]
    _write(stack_path, result.denoised, result.denoised.shape, labels, pixel_nm)
    images = (*map_images(result), *sigma_images(result), *other_images(result))
    if not images:
        return (stack_path,)
    labels = [f"{named.name} ({named.unit})" if named.unit not in ("", "abundance") else named.name for named in images]
    shape = (len(images), *images[0].image.shape)
    _write(map_path, [named.image for named in images], shape, labels, pixel_nm)
    return stack_path, map_path


def _write(
    path: Path, frames: Iterable[AnyArray], shape: tuple[int, ...], labels: Sequence[str], pixel_nm: float | None
) -> None:
    import tifffile

    options: dict[str, Any] = {"axes": "ZYX", "Labels": list(labels), "hyperstack": True, "mode": "grayscale"}
    if pixel_nm:
        options["unit"] = "nm"
    with whole_file(path) as partial:
        tifffile.imwrite(
            partial,
            (np.asarray(frame, dtype=np.float32) for frame in frames),
            shape=shape,
            dtype=np.float32,
            imagej=True,
            truncate=4 * math.prod(shape) > _CLASSIC_BYTES,  # then one page for all slices, as ImageJ does it itself
            resolution=(1 / pixel_nm, 1 / pixel_nm) if pixel_nm else None,
            metadata=options,
        )
