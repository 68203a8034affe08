"""The final answer: everything rebuilt from the raw frames in visit order, with fixed seeds.

Nothing of what was shown live enters here, hence the same frames give the same answer live, replayed or from a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from txm_stream.alignment.batch import BatchShifts, register_batch
from txm_stream.arrays import Image, Mask, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser
from txm_stream.denoising.tv import TotalVariation
from txm_stream.errors import BadReferenceError, BadStackError, MissingFramesError
from txm_stream.frame_store import FrameStore
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.open_beam import flicker, open_pixels
from txm_stream.registered import registered_frame, work_binning, work_image
from txm_stream.results import K_MAX, Result, VisitMetrics
from txm_stream.subspace.gram import SmoothedGram
from txm_stream.subspace.noise import noise_of_samples
from txm_stream.subspace.projection import project
from txm_stream.subspace.rank import parallel_analysis
from txm_stream.subspace.risk import component_risk, stack_risk
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.edge50 import edge50_map
from txm_stream.unmixing.energy_shift import fit_energy_shift
from txm_stream.unmixing.one_pass import Maps, inside_of, invert, unmix_channels
from txm_stream.unmixing.references import References
from txm_stream.unmixing.vca import vca_references

logger = logging.getLogger("txm_stream")

DRAWS = 4
FILLED_AT_MOST = 0.2
"""A pixel bridged from its neighbours in more visits than this share says nothing."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """The registered scan: ``gram`` of all visits, ``keep`` (T,) weights, ``field`` and ``mask`` (y, x).

    ``pixel_noise`` (y, x): noise of a whitened pixel relative to the mean, rms 1 over the field.
    """

    gram: SmoothedGram
    shifts: BatchShifts
    field: Mask
    mask: Mask
    pixel_noise: Image
    flicker: Vector
    warnings: tuple[str, ...]


def final_pass(normaliser: Normaliser, references: References | None, *, registration: bool, seed: int = 0) -> Result:
    """Return the :class:`Result` of all visits in ``normaliser``.

    Raises
    ------
    MissingFramesError
        No visit can be used.
    """
    visits = normaliser.visits
    if not visits or normaliser.shape is None:
        raise MissingFramesError("the run has no sample frame; nothing to process")
    store = normaliser.store
    states = 2 if references is None else len(references.names)
    aligned = _align(normaliser, store, registration=registration, rank=states + 1)
    keep = aligned.shifts.keep
    if not keep.any():
        raise MissingFramesError("no frame of the run can be used: " + "; ".join(aligned.warnings[:3]))
    denoiser: Denoiser = TotalVariation(60)
    gram = aligned.gram
    rng = np.random.default_rng(seed)

    spectrum = gram.spectrum(keep)
    level = noise_of_samples(gram.noise_samples(keep)) if keep.sum() >= 8 else 1.0
    rank = min(parallel_analysis(spectrum, level, at_least=max(2, states)), int(keep.sum()))
    basis = spectrum.vectors[:, :rank] * (keep > 0)[:, None]

    def read(visit: int) -> Image:
        return store.get("registered", visit) / np.float32(gram.sigma[visit])

    noisy = project(read, basis, normaliser.shape)
    pixel_noise = np.float32(level) * aligned.pixel_noise
    typical = float(np.sqrt(np.mean(pixel_noise[aligned.field] ** 2)))
    clean = np.stack([denoiser(image, typical) for image in noisy])
    factors = (basis**2).T @ gram.factor
    risks = np.array(
        [
            component_risk(n, c, typical, denoiser, rng=rng, factor=float(f))
            for n, c, f in zip(noisy, clean, factors, strict=True)
        ]
    )
    rest = spectrum.values[rank:].sum() - (keep.sum() - rank) * level**2 * spectrum.gain * spectrum.n_samples
    risk = stack_risk(risks, basis, gram.sigma, max(float(rest), 0.0) / (spectrum.n_samples * keep.sum()))
    loads = basis * gram.sigma[:, None]
    noisy_stack, denoised = _stacks(store, aligned, loads, clean, len(visits))

    energies = np.array([v.energy_eV for v in visits])
    sigma = np.where(keep > 0, gram.sigma * level, np.inf)
    warnings = list(aligned.warnings)
    chemistry = _chemistry(
        references,
        energies,
        sigma,
        read,
        clean,
        basis,
        denoised,
        aligned,
        pixel_noise / np.float32(level),
        denoiser,
        rng,
    )
    warnings += chemistry.warnings
    padded = np.zeros((K_MAX, *normaliser.shape), dtype=np.float32)
    padded[:rank] = clean
    loadings = np.zeros((len(visits), K_MAX), dtype=np.float32)
    loadings[:, :rank] = loads
    rms = float(np.sqrt(np.mean(sigma[keep > 0] ** 2)))
    rows = tuple(_row(v, aligned, sigma, rank, risk, chemistry.predicted_rmse) for v in visits)
    maps = chemistry.maps
    return Result(
        energies_eV=energies,
        noisy=noisy_stack,
        denoised=denoised,
        mask=aligned.mask,
        shifts_px=aligned.shifts.shifts_px,
        shift_sigma_px=aligned.shifts.sigma_px,
        loadings=loadings,
        components=padded,
        sigma=rms,
        rank=rank,
        risk=risk,
        metrics=rows,
        states=chemistry.states,
        references=chemistry.references,
        phase_map=None if maps is None else maps.abundances,
        phase_sigma=None if maps is None else maps.sigma,
        fit=chemistry.fit,
        scale=None if maps is None else maps.scale,
        edge50=chemistry.edge50,
        predicted_rmse=chemistry.predicted_rmse,
        map_method=chemistry.method,
        provenance={
            "energy_shift_eV": chemistry.energy_shift_eV,
            "electrons_per_adu": normaliser.electrons_per_adu if normaliser.needs_flat else None,
            "flat_visits": normaliser.flat_visits,
            "noise_over_predicted": level,
            "flicker": [float(f) for f in aligned.flicker],
            "visits_used": int(keep.sum()),
            "visits_rejected": {str(v.index + 1): v.rejected for v in visits if v.rejected},
            "visits_in_fit": chemistry.n_used,
            "flat_of_visit": [v.flat for v in visits],
            "denoiser": "tv",
            "seed": seed,
        },
        warnings=tuple(warnings),
    )


def _align(normaliser: Normaliser, store: FrameStore, *, registration: bool, rank: int) -> Aligned:
    """Register all visits, move each once from raw, correct flicker, and build the Gram matrix."""
    visits, shape = normaliser.visits, normaliser.shape or (0, 0)
    warnings: list[str] = []
    work, noise = [], []
    small = (shape[0] // work_binning(shape), shape[1] // work_binning(shape))
    if normaliser.needs_flat:
        normaliser.pool_flats()
    for visit in visits:
        density = normaliser.density(visit)
        if visit.rejected:
            warnings.append(f"visit {visit.index + 1} at {visit.energy_eV:.2f} eV rejected: {visit.rejected}")
            work.append(np.zeros(small, dtype=np.float32))
            noise.append(np.inf)
        elif registration:
            image, sigma = work_image(density)
            work.append(image)
            noise.append(sigma)
        else:
            noise.append(1.0)
    if registration:
        found = register_batch(np.stack(work), np.asarray(noise), rank=rank)
        scale = work_binning(shape)
        shifts = BatchShifts(found.shifts_px * scale, found.sigma_px * scale, found.keep)
    else:
        keep = np.isfinite(noise).astype(np.float64)
        shifts = BatchShifts(np.zeros((len(visits), 2)), np.zeros(len(visits)), keep)
    for visit in visits:
        if shifts.keep[visit.index] == 0 and not visit.rejected:
            visit.rejected = "it could not be registered"
            warnings.append(f"visit {visit.index + 1} at {visit.energy_eV:.2f} eV rejected: {visit.rejected}")
    if normaliser.needs_flat and normaliser.n_flats == 0:
        warnings.append("the run has no flat field: the open beam was taken from each frame, its pattern is background")

    field = np.ones(shape, dtype=bool)
    total, relative = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    filled = np.zeros(shape, dtype=np.float32)
    frames = []
    for visit in visits:
        if shifts.keep[visit.index] == 0:
            store.put("registered", visit.index, np.zeros(shape, dtype=np.float32))
            frames.append((np.ones(shape, dtype=bool), 1.0, 1.0))
            continue
        frame = registered_frame(normaliser.density(visit), shifts.shifts_px[visit.index])
        store.put("registered", visit.index, frame.image)
        frames.append((frame.field, frame.sigma, frame.factor))
        field &= frame.field
        total += frame.image
        relative += frame.relative_variance
        filled += frame.field & ~frame.known
    used = max(float(shifts.keep.sum()), 1.0)
    pixels = open_pixels(total / np.float32(used), field) if normaliser.profile.signal != "fluorescence" else None
    if pixels is None and normaliser.needs_flat:
        warnings.append("no open-beam pixels in the field: illumination flicker is not corrected")
    gram = SmoothedGram(shape)
    gains = np.zeros(len(visits))
    for visit, (measured, sigma, factor) in zip(visits, frames, strict=True):
        image = store.get("registered", visit.index)
        if pixels is not None and shifts.keep[visit.index] > 0:
            gains[visit.index] = flicker(image, pixels)
            image -= np.float32(gains[visit.index])
            store.put("registered", visit.index, image)
        gram.partial_fit(visit.index, image, measured, sigma, factor)
    mask = field & (filled <= FILLED_AT_MOST * used)
    return Aligned(gram, shifts, field, mask, np.sqrt(relative / np.float32(used)), gains, tuple(warnings))


def _stacks(store: FrameStore, aligned: Aligned, loads: Matrix, clean: Stack, visits: int) -> tuple[Stack, Stack]:
    """Write the registered and the denoised stack (T, y, x); NaN outside the field and in rejected visits."""
    shape = (visits, clean.shape[1], clean.shape[2])
    noisy, denoised = store.new_stack("noisy", shape), store.new_stack("denoised", shape)
    outside = ~aligned.field
    for t in range(visits):
        if aligned.shifts.keep[t] == 0:
            noisy[t] = denoised[t] = np.nan
            continue
        noisy[t] = store.get("registered", t)
        denoised[t] = np.tensordot(loads[t].astype(np.float32), clean, axes=1)
        noisy[t][outside] = np.nan
        denoised[t][outside] = np.nan
    return noisy, denoised


@dataclass(frozen=True, eq=False)
class _Chemistry:
    method: str
    states: tuple[str, ...] = ()
    references: Matrix | None = None
    maps: Maps | None = None
    fit: Image | None = None
    edge50: Image | None = None
    energy_shift_eV: float = 0.0
    n_used: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def predicted_rmse(self) -> float:
        return float("nan") if self.maps is None else self.maps.predicted_rmse


def _chemistry(
    references: References | None,
    energies: Vector,
    sigma: Vector,
    read: Callable[[int], Image],
    clean: Stack,
    basis: Matrix,
    denoised: Stack,
    aligned: Aligned,
    pixel_noise: Image,
    denoiser: Denoiser,
    rng: np.random.Generator,
) -> _Chemistry:
    """Map the chemistry: with references by RUM+, without by edge-50 and RUM+ on VCA endmembers."""
    keep = np.isfinite(sigma)
    edge50, method, warnings = None, "rum+", []
    if references is None:
        method = "vca+rum+"
        try:
            edge50 = edge50_map(denoised[keep], energies[keep], mask=aligned.mask)
            references = vca_references(denoised[keep], energies[keep], mask=aligned.mask, rng=rng)
        except (BadStackError, BadReferenceError) as error:
            return _Chemistry("none", edge50=edge50, warnings=(f"no chemical map: {error}",))
    covered = np.isfinite(references.at(energies)).all(axis=1)
    if not covered.all():
        warnings.append(
            f"{int((~covered).sum())} of {len(energies)} visits lie outside the references "
            f"({references.range_eV[0]:.1f} to {references.range_eV[1]:.1f} eV) and are left out of the fit"
        )
    try:
        shift = 0.0
        if method == "rum+":
            shift = _energy_shift(references, energies, sigma, clean, basis, aligned.field)
        spectra = references.at(energies, shift_eV=shift)
        design = make_design(spectra, energies, sigma)
    except BadReferenceError as error:
        return _Chemistry("none", edge50=edge50, warnings=(*warnings, f"no chemical map: {error}"))
    scale = np.where(keep, sigma / aligned.gram.sigma, 1.0)
    everything = np.concatenate([design.channels, design.background], axis=1) / scale[:, None]
    images = project(read, everything, clean.shape[1:])
    white = images[: design.n_states]
    maps = unmix_channels(white, design.triangle, pixel_noise, aligned.mask, denoiser, draws=DRAWS, rng=rng)
    fit = _goodness_of_fit(design, images, read, scale, aligned, pixel_noise)
    return _Chemistry(method, references.names, spectra, maps, fit, edge50, shift, design.n_used, tuple(warnings))


def _energy_shift(
    references: References, energies: Vector, sigma: Vector, clean: Stack, basis: Matrix, field: Mask
) -> float:
    """Fit one shift in eV to the denoised spectra of the pixels inside the particles."""
    design = make_design(references.at(energies), energies, sigma)
    mixing = (design.channels.T @ basis).astype(np.float32)
    _, scale = invert(np.tensordot(mixing, clean, axes=1), design.triangle)
    inside = clean[:, inside_of(scale, field)].astype(np.float64)
    return fit_energy_shift(references, energies, sigma, basis @ (inside @ inside.T) @ basis.T)


def _goodness_of_fit(
    design: Design,
    images: Stack,
    read: Callable[[int], Image],
    scale: Vector,
    aligned: Aligned,
    pixel_noise: Image,
) -> Image | None:
    """Return χ² per degree of freedom of the least-squares fit in every pixel (y, x)."""
    rows = np.abs(np.concatenate([design.channels, design.background], axis=1)).max(axis=1) > 0
    freedom = design.n_used - design.n_states - design.background.shape[1]
    if freedom < 1:
        return None
    total = np.zeros(images.shape[1:], dtype=np.float32)
    used = np.flatnonzero(rows & (aligned.shifts.keep > 0))
    for t in used:
        total += (read(int(t)) / np.float32(scale[t])) ** 2
    expected = np.float32(freedom * aligned.gram.factor[used].mean()) * pixel_noise**2
    residual = np.maximum(total - (images**2).sum(axis=0), 0) / expected
    return np.where(aligned.field, residual, np.float32(np.nan)).astype(np.float32)


def _row(visit: Visit, aligned: Aligned, sigma: Vector, rank: int, risk: float, predicted_rmse: float) -> VisitMetrics:
    """Return the metrics row of a visit in the final result."""
    t = visit.index
    row = VisitMetrics(seq=t + 1, energy_eV=visit.energy_eV, time=visit.time)
    if aligned.shifts.keep[t] == 0:
        return row
    shift = aligned.shifts.shifts_px[t]
    figures: dict[str, Any] = {"rank": rank, "risk": risk, "map_rmse": predicted_rmse}
    return replace(
        row,
        shift_y_px=float(shift[0]),
        shift_x_px=float(shift[1]),
        shift_sigma_px=float(aligned.shifts.sigma_px[t]),
        sigma=float(sigma[t]),
        basis_version=1,
        map_version=0 if not np.isfinite(predicted_rmse) else 1,
        **figures,
    )
