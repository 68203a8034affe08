"""The chemical map while the scan runs: abundances, their errors and goodness of fit; edge-50 without references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser
from txm_stream.energies.common_error import visit_error
from txm_stream.energies.map_error import Contents, contrast_information
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.frame_store import FrameStore
from txm_stream.live.forecast import FinalForecast, Measured, ReadTile, SeenTile
from txm_stream.live.spread import LiveMap, LiveSpread
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.edge50 import edge50_map
from txm_stream.unmixing.goodness import misfit
from txm_stream.unmixing.one_pass import Maps, finish_maps, invert
from txm_stream.unmixing.references import References

GATE_RMSE = 0.2
"""No map is shown while its predicted abundance error is above this: it would be a guess."""


@dataclass(frozen=True, eq=False)
class LiveScan:
    """The visits so far, as far as the map needs them.

    ``keep``, ``sigma``, ``factor`` (T,): weights, noise in OD, resampling's variance factor; ``basis`` (T, K) whitened,
    ``clean`` (K, y, x) denoised; ``projected`` (K', y, x) noisy, on the whole basis ``full_basis`` (T, K');
    ``squares`` (y, x): sum of squared whitened visits; ``pixel_noise`` (y, x) of a projected pixel, ``level`` its mean;
    ``noise_left`` (y, x): that of the final pass over it; ``read(t, tile)`` a whitened visit in a tile, ``seen``
    where it measured, ``seen_centred`` where it would have, were the mean shift 0; ``n_open`` pixels from which
    illumination was read.
    """

    energies_eV: Vector
    keep: Vector
    sigma: Vector
    factor: Vector
    basis: Matrix
    clean: Stack
    full_basis: Matrix
    projected: Stack
    squares: Image
    field: Mask
    pixel_noise: Image
    level: float
    noise_left: Image
    read: ReadTile
    seen: SeenTile
    seen_centred: SeenTile
    n_open: int = 0


@dataclass(frozen=True, eq=False)
class LiveMaps:
    """What visits say of the chemistry, ``None`` or NaN before they say something.

    ``maps``, ``fit`` (y, x), the share of the pixels inside that miss it, the rms error in edge jumps that all
    pixels of a visit share, and what differences between pixels tell of the energy shift, in 1/eV².
    """

    maps: Maps | None = None
    fit: Image | None = None
    misfit_share: float = float("nan")
    common_error: float = float("nan")
    shift_information: float = 0.0


class LiveChemistry:
    """Maps of the visits so far, from statistics that are there anyway.

    Parameters
    ----------
    references
        Reference spectra, or ``None``: no abundances.
    denoiser
        The fast one of the live view.
    rng
        Of the bootstrap.
    seed
        Of the forecast.
    """

    def __init__(self, references: References | None, denoiser: Denoiser, rng: np.random.Generator, seed: int) -> None:
        self.references = references
        self.version = 0
        self._spread = LiveSpread(denoiser, rng)
        self._forecast = FinalForecast(np.random.default_rng([seed, 1]))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states; empty without references."""
        return () if self.references is None else self.references.names

    @property
    def final_rmse(self) -> float:
        """Expected error of the final map as of the last :meth:`settle`; NaN while unknown."""
        return self._forecast.rmse

    def settle(self, *, forecast: bool = True) -> None:
        """Do what the last map put off: its bootstrap draw and, if wanted, the forecast of the final one."""
        self._spread.settle()
        if forecast:
            self._forecast.settle()

    def map(self, scan: LiveScan) -> LiveMaps:
        """Return the maps; none while the visits cannot tell the states apart, or the error is too large."""
        design = self._design(scan)
        if design is None:
            return LiveMaps()
        mixing = (design.channels.T @ scan.basis).astype(np.float32)
        white = np.tensordot(mixing, scan.clean, axes=1)
        abundances, scale = invert(white, design.triangle)
        shown = LiveMap(white, abundances, scale, design.triangle, scan.pixel_noise, scan.level, scan.field.copy())
        squares = self._spread.of(shown)
        maps = finish_maps(abundances, scale, squares[:-1], squares[-1], scan.field)
        if not maps.predicted_rmse <= GATE_RMSE or not maps.mask.any():
            return LiveMaps()
        basis = scan.full_basis[:, : max(scan.basis.shape[1], design.n_states + 1)]  # as the final pass
        self._forecast.of(
            Measured(shown, design, basis, scan.read, scan.seen, scan.seen_centred, squares[:-1], scan.noise_left)
        )
        self.version += 1
        fit, freedom = _goodness_of_fit(design, scan)
        share = float("nan")
        if fit is not None and maps.inside.any():
            share = float(misfit(fit, freedom)[maps.inside].mean())
        noise = float(np.sqrt(np.mean(scan.sigma[scan.keep > 0] ** 2)))
        inside = maps.inside
        jump = float(scale[inside].mean()) if inside.any() else 0.0
        common = visit_error(noise, n_open=scan.n_open, n_inside=float(inside.sum()), edge_jump=jump)
        return LiveMaps(maps, fit, share, common, self._shift_information(scan, maps))

    def _shift_information(self, scan: LiveScan, maps: Maps) -> float:
        contents = Contents.of(maps.abundances, maps.scale, maps.inside)
        if self.references is None or contents is None:
            return 0.0
        noise = np.where(scan.keep > 0, scan.sigma * scan.level, np.inf)
        return contrast_information(self.references, scan.energies_eV, noise, contents)

    def _design(self, scan: LiveScan) -> Design | None:
        """Return the design, or ``None`` while the visits cannot tell the states apart."""
        if self.references is None:
            return None
        noise = np.where(scan.keep > 0, scan.sigma, np.inf)
        used = scan.energies_eV[scan.keep > 0]
        edge = self.references.edge_eV
        if not ((used < edge).any() and (used > edge).any()):
            return None
        try:
            return make_design(self.references.at(scan.energies_eV), scan.energies_eV, noise)
        except BadReferenceError:
            return None


def _goodness_of_fit(design: Design, scan: LiveScan) -> tuple[Image | None, float]:
    """Return χ² per degree of freedom (y, x), and the degrees of freedom."""
    freedom = design.n_used - design.n_states - design.background.shape[1]
    if freedom < 1:
        return None, 0.0
    explained = np.zeros(scan.field.shape, dtype=np.float32)
    everything = np.concatenate([design.channels, design.background], axis=1)
    for row in (everything.T @ scan.full_basis).astype(np.float32):
        explained += np.tensordot(row, scan.projected, axes=1) ** 2
    factor = scan.factor[scan.keep > 0].mean()
    residual = np.maximum(scan.squares - explained, 0) / (np.float32(freedom * factor) * scan.pixel_noise**2)
    return np.where(scan.field, residual, np.float32(np.nan)).astype(np.float32), float(freedom)


def live_edge50(scan: LiveScan, loads: Matrix, store: FrameStore) -> Image | None:
    """Return the edge-50 map of the denoised stack, or ``None`` without an edge; large ones every fifth visit."""
    shape = scan.field.shape
    if len(loads) < 6 or (max(shape) > 512 and len(loads) % 5):
        return None
    chosen = np.flatnonzero(scan.keep)
    stack = store.new_stack("live_denoised", (len(chosen), *shape))
    for row, visit in enumerate(chosen):
        stack[row] = np.tensordot(loads[visit].astype(np.float32), scan.clean, axes=1)
    try:
        out = edge50_map(stack, scan.energies_eV[chosen], mask=scan.field)
    except BadStackError:
        return None
    return out if np.isfinite(out).any() else None
