"""A better temporal subspace from the denoised images: regressed on them, and smooth in energy where noise hides it.

The temporal vectors of the smoothed Gram matrix have the noise of any unknown vectors: K(1 − K/T)σ²/N of mean squared
error in a stack of N pixels, whatever is done to the images. In small or noisy stacks that is more than what a good
denoiser leaves. Spectra are smooth functions of energy; how smooth, the data say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.optimize import isotonic_regression

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack, Vector

LEAST_VISITS = 12
"""With fewer visits there is nothing to learn a spectrum of the spectra from."""
_INDEPENDENT = 1e-6


@dataclass(frozen=True, eq=False)
class Refined:
    """Orthonormal ``basis`` (T, K), zero in visits not used; ``freedom``: unknowns per visit that were fitted, ≤ K."""

    basis: Matrix
    freedom: float


def refine_basis(
    read: Callable[[int], Image],
    basis: Matrix,
    clean: Stack,
    field: Mask,
    *,
    energies_eV: Vector | None,
    noise: float,
) -> Refined:
    """Return the temporal basis that fits whitened visits by the denoised images, smoothed along energy.

    Parameters
    ----------
    read
        Returns the whitened visit t (y, x).
    basis
        (T, K) orthonormal, the one that ``clean`` was made with; rows of visits not used are 0.
    clean
        Denoised components (K, y, x).
    field
        (y, x), pixels that count.
    energies_eV
        (T,), any order; ``None``: the visits are in order.
    noise
        Standard deviation of the noise of a whitened pixel.

    Notes
    -----
    Loads A = Y Q on the orthonormalised images have white noise. Turned to their principal axes, each is filtered in
    the cosine transform over visits sorted by energy by 1 − 1/p, with p its power over noise, taken to fall with
    frequency (isotonic regression): loads that are not smooth in energy stay as they are. The expected squared error of
    such a filter is its trace, hence ``freedom``: the share of the mean squared error of the stack is freedom·σ²/N.
    """
    used = np.flatnonzero(np.abs(basis).max(axis=1) > 0)
    rank = basis.shape[1]
    unchanged = Refined(basis, rank * (1 - rank / max(len(used), 1)))
    images = clean[:, field].astype(np.float64)
    values, turn = np.linalg.eigh(images @ images.T)
    if len(used) < max(LEAST_VISITS, 2 * rank) or values[0] <= _INDEPENDENT * values[-1]:
        return unchanged
    mixing = turn / np.sqrt(values)
    loads = np.zeros((len(used), rank))
    flat = images.T.astype(np.float32)
    for row, visit in enumerate(used):
        loads[row] = read(int(visit))[field] @ flat
    order = np.arange(len(used)) if energies_eV is None else np.argsort(np.asarray(energies_eV)[used], kind="stable")
    smooth, freedom = smooth_loads(loads[order] @ mixing / noise)
    found = np.linalg.svd(smooth, full_matrices=False)
    if found[1][-1] <= 0:
        return unchanged
    out = np.zeros_like(basis)
    out[used[order]] = found[0]
    return Refined(out, freedom)


def smooth_loads(loads: Matrix) -> tuple[Matrix, float]:
    """Filter loads (T, K) with unit white noise along T; return them in their principal axes, and the freedom left."""
    left, values, _ = np.linalg.svd(loads, full_matrices=False)
    spectra = scipy.fft.dct(left * values, axis=0, norm="ortho")
    freedom = 0.0
    for spectrum in spectra.T:
        power: AnyArray = isotonic_regression(spectrum**2, increasing=False).x
        gain = np.maximum(1 - 1 / np.maximum(power, 1e-12), 0)
        spectrum *= gain
        freedom += float(gain.mean())
    return np.asarray(scipy.fft.idct(spectra, axis=0, norm="ortho")), freedom
