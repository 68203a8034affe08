"""How good the final map would be, were the scan to end now: a tile is unmixed as the final pass would.

The live map is made by a fast denoiser from denoised components; the final one is two to three times better, depending
on sample and noise. By how much is found by doing it: the white channels of a tile, summed from the registered visits,
are unmixed by the final pass's own methods, which predict their error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack
from txm_stream.denoising import Denoiser, load_denoiser
from txm_stream.energies.judged_error import DENOISED_POWER
from txm_stream.live.spread import LiveMap
from txm_stream.subspace.borders import borders_elsewhere
from txm_stream.subspace.projection import project
from txm_stream.unmixing.design import Design
from txm_stream.unmixing.noise_draws import SharedNoise
from txm_stream.unmixing.one_pass import inside_of, unmix_channels

TILE = 256
"""Size of a tile in px; smaller images are one tile."""
Tile = tuple[slice, slice]
ReadTile = Callable[[int, Tile], Image]
"""``read(t, tile)`` → whitened registered visit t in a tile (y, x)."""
SeenTile = Callable[[int, Tile], Mask]
"""``seen(t, tile)`` → where visit t measured in a tile (y, x)."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a forecast is made of.

    ``design`` that made ``shown``; ``basis`` (T, K) of the whitened visits; ``read`` and ``seen`` give the visits and
    where they measured, ``seen_centred`` where they would have, were the frame that of the final pass, which lies where
    the mean shift is 0 and not at the first visit; ``squares`` (L, y, x) are the squared errors of what was shown;
    ``noise_left`` (y, x), noise in the final pass over that of the live view.
    """

    shown: LiveMap
    design: Design
    basis: Matrix
    read: ReadTile
    seen: SeenTile
    seen_centred: SeenTile
    squares: Stack
    noise_left: Image


class FinalForecast:
    """Expected error of the final map, ``rmse``, as of the last :meth:`settle`; NaN until then.

    The error of the live map is known everywhere, by how much the final one is better in tiles: of images larger than
    a tile another one is taken every time, the fullest first, and what each said last counts. They differ by a factor
    of two and more: after one tile the forecast is rough, after the fullest six of fifteen it was 6 % off.

    Parameters
    ----------
    rng
        Source of the noise.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rmse = float("nan")
        self._pending: Measured | None = None
        self._denoiser: Denoiser | None = None
        self._told: dict[tuple[int, int], tuple[float, float]] = {}
        self._turn = 0

    def of(self, measured: Measured) -> None:
        """Take a map that was shown."""
        self._pending = measured

    def settle(self) -> None:
        """Find the error for the last map; up to a second."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        shown = pending.shown
        inside = inside_of(shown.scale, shown.field)
        tiles = [tile for tile in tiles_of(shown.scale.shape) if inside[tile].any()]
        if not tiles:
            return
        tiles.sort(key=lambda tile: -int(inside[tile].sum()))
        tile = tiles[self._turn % len(tiles)]
        self._turn += 1
        final = self._final_square(pending, tile)
        known = inside[tile]
        if not np.isfinite(final):
            return
        there = pending.squares[(slice(None), *tile)][:, known]
        self._told[tile[0].start, tile[1].start] = final * there.size, float(there.sum())
        better, shown_there = np.sum(list(self._told.values()), axis=0)
        if shown_there > 0:
            self.rmse = float(np.sqrt(pending.squares[:, inside].mean() * better / shown_there))

    def _final_square(self, measured: Measured, tile: Tile) -> float:
        """Return the mean squared error that the final map would have in a tile, borders and all; NaN without a map.

        The sample beyond the field common to all visits is taken to be that on the near side of its border, and the
        noise there to be what is left where visits will be missing in the frame of the final pass.
        """
        shown, design = measured.shown, measured.design
        if self._denoiser is None:
            self._denoiser = load_denoiser("unet")
        noise, shared = np.ascontiguousarray(shown.pixel_noise[tile]), None
        used = np.flatnonzero(np.abs(design.channels).max(axis=1) > 0)
        white = project(lambda visit: measured.read(visit, tile), design.channels, noise.shape)
        seen, centred = (
            np.stack([of(int(visit), tile) for visit in used]) for of in (measured.seen, measured.seen_centred)
        )
        field = np.asarray(seen.all(axis=0))
        if not field.any():
            return float("nan")
        if not (field.all() and centred.all()):
            white = white[:, *_mirrored(field)]
            borders = borders_elsewhere(
                lambda row: measured.read(int(used[row]), tile), measured.basis[used], field, centred
            )
            growth, common = borders.growth(design.abundance_weights()[used])
            shared = SharedNoise(noise * common, borders.noise.alike_px)
            noise, field = noise * growth, borders.field
        maps = unmix_channels(
            white, design.triangle, noise, field, self._denoiser, draws=1, rng=self.rng, shared_noise=shared
        )
        squares = (maps.sigma**2 * measured.noise_left[tile] ** (2 * DENOISED_POWER))[:, maps.inside]
        return float(np.nanmean(squares)) if np.isfinite(squares).any() else float("nan")


def _mirrored(field: Mask) -> tuple[AnyArray, AnyArray]:
    """Return rows and columns (y, x): of pixels of a field themselves, of others those as far on the near side."""
    nearest = ndimage.distance_transform_edt(~field, return_distances=False, return_indices=True)
    own = np.indices(field.shape)
    y, x = (np.clip(2 * to - at, 0, n - 1) for to, at, n in zip(nearest, own, field.shape, strict=True))
    return y, x


def tiles_of(shape: tuple[int, ...]) -> list[Tile]:
    """Return tiles of about 256 × 256 px that cover an image (y, x)."""
    cuts = [[length * k // n for k in range(n + 1)] for length in shape for n in [max(1, round(length / TILE))]]
    rows, columns = ([slice(a, b) for a, b in pairwise(cut)] for cut in cuts)
    return [(row, column) for row in rows for column in columns]
