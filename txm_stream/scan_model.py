"""The subspace model of an aligned scan: rank, temporal vectors, denoised components, and what it expects to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.aligned_scan import AlignedScan, Completed, align_scan, complete_borders, place_scan
from txm_stream.arrays import Image, Matrix, Stack, Vector
from txm_stream.denoising import Denoiser, denoise_components
from txm_stream.errors import MissingFramesError
from txm_stream.frame_store import FrameStore
from txm_stream.normaliser import Normaliser, Visit
from txm_stream.resampling import shift_image, shift_mask
from txm_stream.subspace.gram import Spectrum
from txm_stream.subspace.noise import coarse_excess, noise_beyond
from txm_stream.subspace.projection import project
from txm_stream.subspace.rank import leading_basis
from txm_stream.subspace.refine import refine_basis
from txm_stream.subspace.turn import turned_denoiser

FEW_QUANTA = 150.0
"""Below so many quanta per pixel and visit it pays to linearise (OD error −3 % at 100, −19 % at 30, −.5 % at 250)."""


@dataclass(frozen=True, eq=False)
class ScanModel:
    """Registered whitened visits ≈ basis (T, K) · components (K, y, x) + noise.

    ``noisy`` are the components as projected, ``clean`` denoised, ``pixel_noise`` (y, x) their noise as told to the
    denoiser; ``level``: noise over the predicted one; ``excess``: noise at the scale of a few pixels over that of white
    noise; ``freedom``: see :class:`.refine.Refined`; ``denoiser``: what made ``clean`` of ``noisy``.
    """

    aligned: AlignedScan
    completed: Completed
    spectrum: Spectrum
    level: float
    excess: float
    basis: Matrix
    freedom: float
    noisy: Stack
    clean: Stack
    pixel_noise: Image
    denoiser: Denoiser

    @property
    def rank(self) -> int:
        """Components K."""
        return int(self.basis.shape[1])

    @property
    def loads(self) -> Matrix:
        """What the components contribute to each visit (T, K), in OD."""
        return self.basis * self.aligned.gram.sigma[:, None]

    def expected(self, visit: Visit) -> Image:
        """Return the optical density that a visit should have shown where it was measured, NaN where unknown."""
        t, completed = visit.index, self.completed
        registered = np.tensordot(self.loads[t].astype(np.float32), self.clean, axes=1)
        registered += np.float32(self.aligned.flicker[t])
        growth = float(self.aligned.shifts.magnification[t])
        back = -self.aligned.shifts.shifts_px[t] / growth
        out = shift_image(registered, back, 1 / growth)
        out[~shift_mask(completed.field, back, 1 / growth)] = np.nan
        return out


def model_of_scan(
    normaliser: Normaliser, denoiser: Denoiser, *, registration: bool, at_least: int, energies_eV: Vector
) -> ScanModel:
    """Align a scan and model it; where quanta are few, linearise its counts about that model and do it once more.

    Raises
    ------
    MissingFramesError
        No visit can be used.
    """
    aligned = align_scan(normaliser, registration=registration)
    if not aligned.keep.any():
        raise MissingFramesError("no frame of the run can be used: " + "; ".join(aligned.warnings[:3]))
    model = _model(aligned, normaliser.store, denoiser, at_least=at_least, energies_eV=energies_eV)
    if normaliser.quanta() >= FEW_QUANTA:
        return model
    again = place_scan(normaliser, aligned.shifts, aligned.warnings, model.expected)
    return _model(again, normaliser.store, denoiser, at_least=at_least, energies_eV=energies_eV)


def _model(
    aligned: AlignedScan, store: FrameStore, denoiser: Denoiser, *, at_least: int, energies_eV: Vector
) -> ScanModel:
    keep, gram = aligned.keep, aligned.gram
    spectrum, level = gram.spectrum(keep), gram.noise_level(keep)
    basis = leading_basis(spectrum, level, keep > 0, energies_eV=energies_eV, at_least=at_least)
    rank, shape = basis.shape[1], (aligned.field.shape[0], aligned.field.shape[1])

    def read(visit: int) -> Image:
        return store.get("registered", visit) / np.float32(gram.sigma[visit])

    completed = complete_borders(aligned, store, basis)
    white = level**2 * spectrum.gain * spectrum.n_samples
    excess = coarse_excess(spectrum.values[rank : int(keep.sum())], spectrum.n_effective, white)
    pixel_noise = np.float32(level * excess) * aligned.pixel_noise * completed.borders.growth(basis)[0]
    clean = denoise_components(project(read, basis, shape), pixel_noise, denoiser)
    refined = refine_basis(read, basis, clean, completed.field, energies_eV=energies_eV, noise=level * excess)
    del clean  # large frames: two sets of components at a time
    noisy = project(read, refined.basis, shape)
    exact = noise_beyond(level, read, refined.basis, noisy, aligned.field, gram.factor)
    pixel_noise *= np.float32(exact / level)
    denoiser = turned_denoiser(noisy, pixel_noise, denoiser)
    clean = denoise_components(noisy, pixel_noise, denoiser)
    return ScanModel(
        aligned, completed, spectrum, exact, excess, refined.basis, refined.freedom, noisy, clean, pixel_noise, denoiser
    )
