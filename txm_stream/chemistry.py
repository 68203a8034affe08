"""From an aligned scan to the chemical map: energy calibration, unmixing in white channels, goodness of fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from txm_stream.aligned_scan import AlignedScan, Completed
from txm_stream.arrays import AnyArray, Image, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser
from txm_stream.energies.map_error import Contents, common_rmse
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.subspace.projection import project
from txm_stream.subspace.scatter import signal_scatter
from txm_stream.unmixing.design import Design, make_design
from txm_stream.unmixing.edge50 import edge50_map
from txm_stream.unmixing.energy_shift import fit_energy_shift
from txm_stream.unmixing.goodness import misfit
from txm_stream.unmixing.noise_draws import SharedNoise
from txm_stream.unmixing.one_pass import Maps, inside_of, invert, unmix_channels
from txm_stream.unmixing.references import References
from txm_stream.unmixing.vca import vca_references

DRAWS = 4
MISFIT_SHARE = 0.15
"""Share of pixels that miss the fit at a false-alarm rate of 5 % from which on a warning says so; usual: 7 to 10 %."""
_VAGUE = 0.1
"""A larger error that all abundances share is told."""


@dataclass(frozen=True, eq=False)
class CleanScan:
    """What the chemistry is read from.

    ``read(t)`` returns visit t whitened (y, x); ``sigma`` (T,) its noise, ``inf`` where rejected; ``basis`` (T, K) and
    ``clean`` (K, y, x) the subspace; ``denoised`` (T, y, x). ``coarse_excess``: noise at the scale of a few pixels over
    that of white noise.
    """

    energies_eV: Vector
    sigma: Vector
    read: Callable[[int], Image]
    basis: Matrix
    clean: Stack
    denoised: Stack
    aligned: AlignedScan
    completed: Completed
    coarse_excess: float = 1.0


@dataclass(frozen=True, eq=False)
class Chemistry:
    """The chemical map of a scan and how it was made.

    ``common_rmse``: error that all abundances share, part of the maps' errors. ``n_used`` visits are in the fit;
    ``misfit_share`` of the pixels inside the particles are fitted worse than noise does by chance in one of twenty.
    """

    method: str
    states: tuple[str, ...] = ()
    references: Matrix | None = None
    maps: Maps | None = None
    fit: Image | None = None
    edge50: Image | None = None
    energy_shift_eV: float = 0.0
    energy_shift_sigma_eV: float = float("nan")
    common_rmse: float = 0.0
    n_used: int = 0
    misfit_share: float = float("nan")
    warnings: tuple[str, ...] = ()

    @property
    def predicted_rmse(self) -> float:
        """Expected abundance RMSE inside the particles; NaN without a map."""
        return float("nan") if self.maps is None else self.maps.predicted_rmse


def map_chemistry(
    scan: CleanScan, references: References | None, denoiser: Denoiser, rng: np.random.Generator
) -> Chemistry:
    """Map the chemistry: with references by RUM+, without by edge-50 and RUM+ on VCA endmembers."""
    energies, sigma, mask = scan.energies_eV, scan.sigma, scan.completed.mask
    keep = np.isfinite(sigma)
    edge50, method, warnings = None, "rum+", []
    if references is None:
        method = "vca+rum+"
        try:
            denoised = scan.denoised if keep.all() else scan.denoised[keep]
            edge50 = edge50_map(denoised, energies[keep], mask=mask)
            references = vca_references(denoised, energies[keep], mask=mask, rng=rng)
        except (BadStackError, BadReferenceError) as error:
            return Chemistry("none", edge50=edge50, warnings=(f"no chemical map: {error}",))
    covered = np.isfinite(references.at(energies)).all(axis=1)
    if not covered.all():
        warnings.append(
            f"{int((~covered).sum())} of {len(energies)} visits lie outside the references "
            f"({references.range_eV[0]:.1f} to {references.range_eV[1]:.1f} eV) and are left out of the fit"
        )
    try:
        shift = _energy_shift(scan, references) if method == "rum+" else 0.0
        spectra = references.at(energies, shift_eV=shift)
        design = make_design(spectra, energies, sigma)
    except BadReferenceError as error:
        return Chemistry("none", edge50=edge50, warnings=(*warnings, f"no chemical map: {error}"))
    scale = np.where(keep, sigma / scan.aligned.gram.sigma, 1.0)
    everything = np.concatenate([design.channels, design.background], axis=1) / scale[:, None]
    images = project(scan.read, everything, mask.shape)
    growth, shared = scan.completed.borders.growth(design.abundance_weights() / scale[:, None])
    noise = scan.aligned.pixel_noise * np.float32(scan.coarse_excess)
    maps = unmix_channels(
        images[: design.n_states],
        design.triangle,
        noise * growth,
        mask,
        denoiser,
        draws=DRAWS,
        rng=rng,
        shared_noise=SharedNoise(noise * shared, scan.completed.borders.noise.alike_px),
    )
    common, shift_sigma = (0.0, float("nan")) if method != "rum+" else _common_error(scan, references, maps, shift)
    maps = maps.with_common_error(common)
    if common > _VAGUE:
        warnings.append(
            f"these energies hardly say how far the spectra are shifted ({shift:+.2f} eV found, "
            f"error {shift_sigma:.2f} eV): all abundances may be wrong together by {common:.2f}; "
            "measure energies on the rise of the edge"
        )
    fit, freedom = _goodness_of_fit(scan, design, images, scale)
    share = float("nan")
    if fit is not None and maps.inside.any():
        share = float(misfit(fit, freedom)[maps.inside].mean())
        if share > MISFIT_SHARE:
            warnings.append(
                f"in {share:.0%} of the pixels inside the particles the fit misses the data by more than noise does "
                f"(by chance in 5 %; median {np.median(fit[maps.inside]):.2g} times the noise variance): states are "
                "missing, the references differ from the sample, or frames are not registered; the predicted error "
                "covers noise, and what of this all pixels share"
            )
    return Chemistry(
        method,
        references.names,
        spectra,
        maps,
        fit,
        edge50,
        shift,
        shift_sigma,
        common,
        design.n_used,
        share,
        tuple(warnings),
    )


def _energy_shift(scan: CleanScan, references: References) -> float:
    """Fit one shift in eV to the spectra of the pixels inside the particles."""
    design = make_design(references.at(scan.energies_eV), scan.energies_eV, scan.sigma)
    mixing = (design.channels.T @ scan.basis).astype(np.float32)
    _, scale = invert(np.tensordot(mixing, scan.clean, axes=1), design.triangle)
    inside = inside_of(scale, scan.completed.mask)
    if not inside.any():
        return 0.0
    everywhere = inside & scan.aligned.field  # a completed visit has the noise of the others
    chosen = everywhere if everywhere.any() else inside
    own = np.where(np.isfinite(scan.sigma), scan.sigma / scan.aligned.gram.sigma, 1.0)

    def scatter(directions: Matrix) -> Matrix:
        return signal_scatter(project(scan.read, directions / own[:, None], chosen.shape), chosen)

    return fit_energy_shift(references, scan.energies_eV, scan.sigma, scatter)


def _common_error(scan: CleanScan, references: References, maps: Maps, shift_eV: float) -> tuple[float, float]:
    """Return the rms error that all abundances share, 0 where unknown, and that of the energy shift in eV."""
    inside = maps.inside & scan.aligned.field
    contents = Contents.of(maps.abundances, maps.scale, inside)
    if contents is None:
        return 0.0, float("nan")
    used = np.flatnonzero(np.isfinite(scan.sigma))
    gram, pixel = scan.aligned.gram, scan.aligned.pixel_noise[inside].astype(np.float64)
    mean = np.array([scan.read(int(t))[inside].mean(dtype=np.float64) * gram.sigma[t] for t in used])
    noise = scan.sigma[used] * np.sqrt(np.mean(pixel**2))
    error, shift_sigma = common_rmse(references, scan.energies_eV[used], noise, mean, contents, shift_eV=shift_eV)
    return (error if np.isfinite(error) else 0.0), shift_sigma


def _goodness_of_fit(scan: CleanScan, design: Design, images: Stack, scale: Vector) -> tuple[Image | None, AnyArray]:
    """Return χ² per degree of freedom of the least-squares fit in every pixel (y, x), and the degrees of freedom."""
    rows = np.abs(np.concatenate([design.channels, design.background], axis=1)).max(axis=1) > 0
    unknowns = design.n_states + design.background.shape[1]
    if design.n_used <= unknowns:
        return None, np.zeros(0)
    total = np.zeros(images.shape[1:], dtype=np.float32)
    used = np.flatnonzero(rows & np.isfinite(scan.sigma))
    for t in used:
        total += (scan.read(int(t)) / np.float32(scale[t])) ** 2
    # a completed visit adds nothing to the residual
    share = scan.completed.visits / np.float32(max(scan.aligned.keep.sum(), 1))
    freedom = np.maximum(design.n_used * share - unknowns, 1)
    per_pixel = np.float32(scan.aligned.gram.factor[used].mean()) * scan.aligned.pixel_noise**2
    residual = np.maximum(total - (images**2).sum(axis=0), 0) / (freedom * per_pixel)
    return np.where(scan.completed.field, residual, np.float32(np.nan)).astype(np.float32), freedom
