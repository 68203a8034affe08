"""The final answer: everything rebuilt from the raw frames in visit order, with fixed seeds.

Nothing of what was shown live enters here, hence the same frames give the same answer live, replayed or from a file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from txm_stream.aligned_scan import AlignedScan
from txm_stream.arrays import Image, Stack, Vector
from txm_stream.chemistry import CleanScan, map_chemistry
from txm_stream.denoising import Denoiser, load_denoiser
from txm_stream.errors import MissingFramesError
from txm_stream.frame_store import FrameStore, release_heap, release_pages
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.results import K_MAX, Result, VisitMetrics
from txm_stream.scan_model import ScanModel, model_of_scan
from txm_stream.subspace.risk import component_risks, stack_risk
from txm_stream.unmixing.references import References

_RELEASED_EVERY = 16


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
    at_least = 2 if references is None else len(references.names) + 1  # and what does not change at the edge
    energies = np.array([v.energy_eV for v in visits])
    denoiser: Denoiser = load_denoiser("unet")
    model = model_of_scan(normaliser, denoiser, registration=registration, at_least=at_least, energies_eV=energies)
    release_heap()
    aligned, completed, level = model.aligned, model.completed, model.level
    keep, gram, rank = aligned.keep, aligned.gram, model.rank
    rng = np.random.default_rng(seed)
    quanta = normaliser.quanta()

    def read(visit: int) -> Image:
        return store.get("registered", visit) / np.float32(gram.sigma[visit])

    risk = _risk(model, rng)
    model = replace(model, noisy=model.noisy[:0].copy())  # large frames: memory
    noisy_stack, denoised = _stacks(store, model)
    sigma = np.where(keep > 0, gram.sigma * level, np.inf)
    warnings = list(aligned.warnings)
    scan = CleanScan(energies, sigma, read, model.basis, model.clean, denoised, aligned, completed, model.excess)
    chemistry = map_chemistry(scan, references, denoiser, rng)
    warnings += chemistry.warnings
    release_heap()
    padded = np.zeros((K_MAX, *normaliser.shape), dtype=np.float32)
    padded[:rank] = model.clean
    loadings = np.zeros((len(visits), K_MAX), dtype=np.float32)
    loadings[:, :rank] = model.loads
    rms = float(np.sqrt(np.mean(sigma[keep > 0] ** 2)))
    rows = tuple(_row(v, aligned, sigma, rank, risk, chemistry.predicted_rmse) for v in visits)
    maps = chemistry.maps
    return Result(
        energies_eV=energies,
        noisy=noisy_stack,
        denoised=denoised,
        mask=completed.mask,
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
            "energy_shift_sigma_eV": _or_none(chemistry.energy_shift_sigma_eV),
            "common_rmse": chemistry.common_rmse,
            "electrons_per_adu": normaliser.electrons_per_adu if normaliser.needs_flat else None,
            "flat_visits": normaliser.flat_visits,
            "noise_over_predicted": level,
            "coarse_noise_over_white": model.excess,
            "quanta_per_pixel_and_visit": _or_none(quanta),
            "flicker": [float(f) for f in aligned.flicker],
            "magnification": {
                "model": normaliser.profile.magnification,
                "growth": aligned.shifts.growth,
                "growth_sigma": aligned.shifts.growth_sigma,
            },
            "visits_used": int(keep.sum()),
            "visits_rejected": {str(v.index + 1): v.rejected for v in visits if v.rejected},
            "visits_in_fit": chemistry.n_used,
            "misfit_share": _or_none(chemistry.misfit_share),
            "flat_of_visit": [v.flat for v in visits],
            "signal": normaliser.profile.signal,
            "denoiser": "unet",
            "seed": seed,
        },
        warnings=tuple(warnings),
    )


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _risk(model: ScanModel, rng: np.random.Generator) -> float:
    """Return the predicted mean squared error of the denoised stack in OD²."""
    gram, keep, spectrum = model.aligned.gram, model.aligned.keep, model.spectrum
    factors = (model.basis**2).T @ gram.factor
    risks = component_risks(model.noisy, model.clean, model.pixel_noise, model.denoiser, rng=rng, factors=factors)
    white = model.level**2 * spectrum.gain * spectrum.n_samples
    rest = float(spectrum.values[model.rank :].sum()) - (keep.sum() - model.rank) * white
    beyond = max(rest, 0.0) / (spectrum.n_samples * keep.sum())
    beyond += model.freedom * model.level**2 / model.completed.field.sum()
    return stack_risk(risks, model.basis, gram.sigma, beyond)


def _stacks(store: FrameStore, model: ScanModel) -> tuple[Stack, Stack]:
    """Write the registered and the denoised stack (T, y, x); NaN where a visit saw nothing, and in rejected visits."""
    aligned, completed, clean, loads = model.aligned, model.completed, model.clean, model.loads
    shape = (len(aligned.keep), clean.shape[1], clean.shape[2])
    noisy, denoised = store.new_stack("noisy", shape), store.new_stack("denoised", shape)
    for t in range(len(noisy)):
        if aligned.keep[t] == 0:
            noisy[t] = denoised[t] = np.nan
            continue
        noisy[t] = store.get("registered", t)
        noisy[t][~aligned.seen(t)] = np.nan
        denoised[t] = np.tensordot(loads[t].astype(np.float32), clean, axes=1)
        denoised[t][~completed.field] = np.nan
        if t % _RELEASED_EVERY == 0:
            release_pages(noisy)
            release_pages(denoised)
    return noisy, denoised


def _row(
    visit: Visit, aligned: AlignedScan, sigma: Vector, rank: int, risk: float, predicted_rmse: float
) -> VisitMetrics:
    """Return the metrics row of a visit in the final result."""
    t = visit.index
    row = VisitMetrics(seq=t + 1, energy_eV=visit.energy_eV, time=visit.time)
    if aligned.keep[t] == 0:
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
