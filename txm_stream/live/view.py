"""What is shown while the scan runs: causal registration, streaming subspace, preview, map; a cache, not the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components
from txm_stream.denoising.tv import TotalVariation
from txm_stream.frame_store import FrameStore
from txm_stream.live.chemistry import LiveChemistry, LiveMaps, LiveScan, live_edge50
from txm_stream.live.forecast import Tile
from txm_stream.live.placing import LivePlacing, Place
from txm_stream.normaliser import Visit
from txm_stream.open_beam import flicker, open_pixels
from txm_stream.optical_density import OpticalDensity
from txm_stream.registered import as_published, registered_frame
from txm_stream.resampling import measured_after_shift
from txm_stream.results import K_MAX, Snapshot, VisitMetrics
from txm_stream.subspace.gram import SmoothedGram, Spectrum
from txm_stream.subspace.projection import Projection
from txm_stream.subspace.rank import components_above_noise, parallel_analysis
from txm_stream.subspace.risk import busiest_tile, component_risks, stack_risk
from txm_stream.unmixing.references import References

logger = logging.getLogger("txm_stream")

_TILE = 192
_CLEAR = 2.0
"""Components this far above the noise edge must survive rotations; weaker ones still turn with every visit."""
_FIRST_FRAME = np.zeros(2)
_NO_ENERGY = 1e-12


class LiveView:
    """Statistics and previews of the visits so far.

    Memory: about 30 images (y, x) float32, plus 1/16 image per visit.

    Parameters
    ----------
    shape
        Image size (y, x).
    references
        Reference spectra, or ``None``: edge-50 instead of abundances.
    store
        Keeps registered visits under the kind "registered".
    registration, proportional
        As in :class:`.LivePlacing`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        references: References | None,
        store: FrameStore,
        *,
        registration: bool,
        seed: int,
        proportional: bool = False,
    ) -> None:
        self.shape = shape
        self.references = references
        self.store = store
        self.placing = LivePlacing(shape, registration=registration, proportional=proportional)
        self.rng = np.random.default_rng(seed)
        large = max(shape) > 512
        self.denoiser: Denoiser = TotalVariation(8 if large else 15, iterations_if_clear=4 if large else 8)
        self.gram = SmoothedGram(shape)
        self.projection = Projection(shape, self._whitened)
        self.rows: list[VisitMetrics] = []
        self.keep: list[float] = []
        self.energies_eV: list[float] = []
        self.field = np.ones(shape, dtype=bool)
        self.basis_version = 0
        self.warnings: list[str] = []
        self._sum = np.zeros(shape, dtype=np.float32)
        self._squares = np.zeros(shape, dtype=np.float32)
        self._relative = np.zeros(shape, dtype=np.float32)
        self._open: Mask | None = None
        self.chemistry = LiveChemistry(references, self.denoiser, self.rng, seed)
        self.flat_share = 1.0
        """Variance of a flat in the final pass over that of a single flat."""

    def include(self, visit: Visit, density: OpticalDensity, *, anew: bool = False) -> Image:
        """Register a visit (new, or normalised again) and add it to the statistics; return it as published.

        A known visit keeps its shift, unless it is to be found ``anew``.
        """
        index = visit.index
        known_before = index < len(self.rows)
        if visit.rejected:
            return self._reject(visit, known_before)
        place = self.placing.place(index, visit.energy_eV, density, anew=anew)
        frame = registered_frame(density, place.shift_px, place.magnification)
        self.field &= frame.field
        mean = (self._sum + frame.image) / (sum(self.keep) + 1)
        if self._open is None or len(self.rows) in (2, 4, 8, 16, 32, 64):
            self._open = open_pixels(mean, self.field)
        offset = flicker(frame.image, self._open) if self._open is not None else 0.0
        image = frame.image - np.float32(offset)
        if known_before:
            self._forget(index)
        self.store.put("registered", index, image)
        self.gram.partial_fit(index, image, frame.field, frame.sigma, frame.factor)
        white = image / np.float32(frame.sigma)
        if known_before:
            self.projection.replace(index, white)
        self._sum += frame.image
        self._squares += white**2
        self._relative += frame.relative_variance
        row = VisitMetrics(
            seq=index + 1,
            energy_eV=visit.energy_eV,
            shift_y_px=float(place.shift_px[0]),
            shift_x_px=float(place.shift_px[1]),
            shift_sigma_px=place.sigma_px,
            sigma=frame.sigma,
            time=visit.time or time.time(),
        )
        self._set(index, row, 1.0)
        return as_published(frame, offset)

    def noise_of(self, index: int) -> float:
        """Return the noise of a visit in OD, ``inf`` where it has no weight."""
        return float(self.gram.sigma[index]) if self.keep[index] > 0 else float("inf")

    def weakest(self) -> int | None:
        """Return a visit that was placed by too little, see :meth:`.LivePlacing.weakest`."""
        return self.placing.weakest(np.flatnonzero(self.keep).tolist())

    def _forget(self, index: int) -> None:
        """Take the old version of a visit out of the running sums."""
        if self.keep[index] == 0:
            return
        old = self.store.get("registered", index)
        white = old / np.float32(self.gram.sigma[index])
        self.projection.replace(index, -white)
        self._squares -= white**2
        self._sum -= old
        self._relative *= np.float32((sum(self.keep) - 1) / sum(self.keep))

    def _reject(self, visit: Visit, known_before: bool) -> Image:
        logger.warning("visit %d at %.2f eV has no weight: %s", visit.index + 1, visit.energy_eV, visit.rejected)
        self.warnings.append(f"visit {visit.index + 1} at {visit.energy_eV:.2f} eV rejected: {visit.rejected}")
        if known_before:
            self._forget(visit.index)
        nothing = np.zeros(self.shape, dtype=np.float32)
        self.store.put("registered", visit.index, nothing)
        self.gram.partial_fit(visit.index, nothing, np.ones(self.shape, dtype=bool), 1.0)
        self.placing.forget(visit.index)
        self._set(visit.index, VisitMetrics(visit.index + 1, visit.energy_eV, time=visit.time or time.time()), 0.0)
        return np.full(self.shape, np.nan, dtype=np.float32)

    def _set(self, index: int, row: VisitMetrics, keep: float) -> None:
        if index == len(self.rows):
            self.rows.append(row)
            self.keep.append(keep)
            self.energies_eV.append(row.energy_eV)
        else:
            before = self.rows[index]  # what its preview said stays: that preview was shown
            self.rows[index] = replace(
                row,
                rank=before.rank,
                risk=before.risk,
                map_rmse=before.map_rmse,
                basis_version=before.basis_version,
                map_version=before.map_version,
            )
            self.keep[index] = keep

    def _whitened(self, index: int) -> Image:
        return self.store.get("registered", index) / np.float32(self.gram.sigma[index])

    def _whitened_tile(self, index: int, tile: tuple[slice, slice]) -> Image:
        rows, columns = tile
        part = self.store.get("registered", index, rows=(rows.start, rows.stop))[:, columns]
        return part / np.float32(self.gram.sigma[index])

    def settle(self, *, forecast: bool = True) -> None:
        """Do what the last snapshot put off: its bootstrap draw, an exact projection, the forecast of the final map."""
        self.chemistry.settle(forecast=forecast)
        self.projection.settle()
        self.placing.settle()

    def snapshot(self) -> Snapshot:
        """Compute the previews of what is there now; the σ map is that of the draws up to the snapshot before."""
        self.chemistry.settle(forecast=False)
        keep = np.asarray(self.keep)
        if keep.sum() < 1:
            return Snapshot(tuple(self.rows), warnings=tuple(self.warnings))
        spectrum = self.gram.spectrum(keep)
        sigma = self.gram.noise_level(keep)
        states = 0 if self.references is None else len(self.references.names)
        rank = min(parallel_analysis(spectrum, sigma, at_least=max(2, states)), int(keep.sum()))
        self.projection.turn(spectrum.vectors, components_above_noise(spectrum, sigma, margin=_CLEAR))
        basis = self.projection.basis[:, :rank]
        noisy = self.projection.images[:rank]
        pixel_noise = np.float32(sigma) * np.sqrt(self._relative / np.float32(keep.sum()))
        level = float(pixel_noise[self.field].mean()) if self.field.any() else sigma
        clean = denoise_components(noisy, level, self.denoiser)
        self.basis_version += 1
        loads = np.where(keep[:, None] > 0, basis * self.gram.sigma[:, None], 0.0)
        loadings = np.zeros((len(keep), K_MAX), dtype=np.float32)
        loadings[:, :rank] = loads
        components = np.zeros((K_MAX, *self.shape), dtype=np.float32)
        components[:rank] = clean
        newest = int(np.flatnonzero(keep)[-1])
        preview = np.tensordot(loadings[newest, :rank], clean, axes=1)
        risk = self._risk(spectrum, basis, noisy, clean, level, sigma, rank)
        places = {int(visit): self.placing.known(int(visit)) for visit in np.flatnonzero(keep)}
        scan = LiveScan(
            energies_eV=np.asarray(self.energies_eV),
            keep=keep,
            sigma=self.gram.sigma,
            factor=self.gram.factor,
            basis=basis,
            clean=clean,
            full_basis=self.projection.basis,
            projected=self.projection.images,
            squares=self._squares,
            field=self.field,
            pixel_noise=pixel_noise,
            level=level,
            noise_left=self._noise_left(),
            read=self._whitened_tile,
            seen=partial(_seen, self.shape, places),
            seen_centred=partial(_seen, self.shape, places, about=_middle(places, spectrum)),
            n_open=0 if self._open is None else int(self._open.sum()),
        )
        chemistry: LiveMaps = self.chemistry.map(scan)
        maps = chemistry.maps
        edge50 = live_edge50(scan, loads, self.store) if self.references is None else None
        last = replace(
            self.rows[-1],
            sigma=sigma * float(np.sqrt(np.mean(self.gram.sigma[keep > 0] ** 2))),
            rank=rank,
            risk=risk,
            map_rmse=float("nan") if maps is None else maps.predicted_rmse,
            basis_version=self.basis_version,
            map_version=self.chemistry.version,
        )
        self.rows[-1] = last
        outside = ~self.field
        preview[outside] = np.nan
        return Snapshot(
            rows=tuple(self.rows),
            noisy=np.where(self.field, self.store.get("registered", newest), np.float32(np.nan)),
            loadings=loadings,
            components=components,
            preview=preview.astype(np.float32),
            phase_map=None if maps is None else maps.abundances,
            phase_sigma=None if maps is None else maps.sigma,
            scale=None if maps is None else maps.scale,
            fit=chemistry.fit,
            edge50=edge50,
            states=self.chemistry.states,
            misfit_share=chemistry.misfit_share,
            common_error=chemistry.common_error,
            shift_information=chemistry.shift_information,
            warnings=tuple(self.warnings),
        )

    def _risk(
        self, spectrum: Spectrum, basis: Matrix, noisy: Stack, clean: Stack, level: float, sigma: float, rank: int
    ) -> float:
        tile = busiest_tile(clean, _TILE)
        parts = np.ascontiguousarray(noisy[(slice(None), *tile)])
        again = denoise_components(parts, level, self.denoiser)
        factors = (basis**2).T @ self.gram.factor
        risks = component_risks(parts, again, level, self.denoiser, rng=self.rng, factors=factors)
        rest = spectrum.values[rank:].sum() - max(len(spectrum.values) - rank, 0) * (
            sigma**2 * spectrum.gain * spectrum.n_samples
        )
        discarded = max(float(rest), 0.0) / (spectrum.n_samples * max(len(spectrum.values), 1))
        return stack_risk(risks, basis, self.gram.sigma, discarded)

    def _noise_left(self) -> Image:
        """Return the noise of a pixel (y, x) with the flats of the final pass, which are pooled, over that of now."""
        absorbed = np.exp(np.clip(self._sum / np.float32(max(sum(self.keep), 1)), 0, 6))
        return np.asarray(np.sqrt((absorbed + np.float32(self.flat_share)) / (absorbed + 1)))


def _seen(
    shape: tuple[int, int], places: Mapping[int, Place], visit: int, tile: Tile, *, about: Vector = _FIRST_FRAME
) -> Mask:
    """Return where a visit measured in a tile of a frame that lies ``about`` (2,) px from the first one."""
    place = places[visit]
    rows, columns = measured_after_shift(shape, place.shift_px - about, place.magnification)
    return np.logical_and.outer(rows[tile[0]], columns[tile[1]])


def _middle(places: Mapping[int, Place], spectrum: Spectrum) -> Vector:
    """Return the shift (2,) in px about which the final pass lays its frame: visits count as they can be placed."""
    energy = spectrum.vectors**2 @ np.maximum(spectrum.values, _NO_ENERGY)
    return np.average([place.shift_px for place in places.values()], axis=0, weights=energy[list(places)])
