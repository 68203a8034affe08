"""How good the final map would be, were the scan to end now: a tile is unmixed as the final pass would.

The live map is made by a fast denoiser from single flats; the final one is two to three times better, depending on
sample and noise. By how much is found by simulation: the live map of a tile, plus the noise that the final pass will
have, is unmixed by the final pass's own methods, which predict their error.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image, Stack
from txm_stream.denoising import Denoiser, load_denoiser
from txm_stream.live.spread import LiveMap
from txm_stream.subspace.risk import busiest_tile
from txm_stream.unmixing.one_pass import inside_of, unmix_channels

_TILE = 192
_SMOOTHER = 1.03
"""The live map is smoother than the sample, its tile easier to denoise: without this factor forecasts are .97 ± .04 of
what the final pass predicts of the same visits (56 pairs of 14 steered scans, two and three states)."""


class FinalForecast:
    """Expected error of the final map, ``rmse``, as of the last :meth:`settle`; NaN until then.

    Parameters
    ----------
    rng
        Source of the noise.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rmse = float("nan")
        self._pending: tuple[LiveMap, float, Image] | None = None
        self._denoiser: Denoiser | None = None

    def of(self, shown: LiveMap, squares: Stack, final_noise: Image) -> None:
        """Take a map that was shown, its squared errors (L, y, x) and the noise (y, x) its channels would end with."""
        tile = busiest_tile(shown.scale[None], _TILE)
        every = (slice(None), *tile)
        part = LiveMap(
            shown.white[every],
            shown.abundances[every],
            shown.scale[tile],
            shown.triangle,
            shown.pixel_noise[tile],
            shown.level,
            shown.field[tile],
        )
        everywhere, here = inside_of(shown.scale, shown.field), inside_of(part.scale, part.field)
        if here.any():
            elsewhere = float(squares[:, everywhere].mean() / max(squares[every][:, here].mean(), 1e-30))
            self._pending = part, float(np.sqrt(elsewhere)), final_noise[tile]

    def settle(self) -> None:
        """Find the error for the last map; some tenths of a second."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        shown, elsewhere, noise = pending
        if self._denoiser is None:
            self._denoiser = load_denoiser("unet")
        white = shown.white + self.rng.standard_normal(shown.white.shape, dtype=np.float32) * noise
        final = unmix_channels(white, shown.triangle, noise, shown.field, self._denoiser, draws=1, rng=self.rng)
        self.rmse = _SMOOTHER * final.predicted_rmse * elsewhere
