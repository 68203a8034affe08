"""Vertex component analysis: reference spectra out of the stack itself, where none are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from txm_stream.arrays import AnyArray, Mask, Matrix, Vector
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.unmixing.edge_step import find_edge_eV, normalise, sort_and_average
from txm_stream.unmixing.references import References
from txm_stream.unmixing.simplex import (
    enlarge_simplex,
    extreme_points,
    local_means,
    nearest_points,
    points_on_plane,
)

MAX_STATES = 4
NEAREST = 0.005
"""Fraction of the pixels inside the particles whose spectra are averaged at a vertex."""
_INSIDE = 0.25
"""Pixels with less signal than this fraction of its 98th percentile do not vote."""
_CHEMISTRY = 0.025
"""A further state must move the spectra by this much of the mean spectrum (rms over pixels)."""
_RUNS = 20
_CHUNK = 1 << 16


def vca(
    loadings: AnyArray,
    components: AnyArray,
    n_states: int,
    *,
    rng: np.random.Generator,
    mask: Mask | None = None,
    nearest: float = 0.0,
) -> tuple[Matrix, list[NDArray[np.intp]]]:
    """Find the purest pixels of a low-rank stack and return their spectra.

    Parameters
    ----------
    loadings
        (T, K) temporal vectors.
    components
        (K, N) or (K, y, x); the stack is ``loadings @ components``.
    n_states
        L, 2 ≤ L ≤ K.
    mask
        (N,) or (y, x): pixels that may be vertices.
    nearest
        0: the classical algorithm, one pixel per vertex, one run. Otherwise every vertex is a mean over this fraction
        of the allowed pixels, which lie together; of 20 random runs, each refined until no other such mean makes its
        simplex larger, the one whose simplex is the largest.

    Returns
    -------
    tuple
        Endmember spectra (T, L) in units of the stack, and per state the flat indices of the pixels they are
        the mean of.

    Raises
    ------
    BadReferenceError
        More states than components, or fewer pixels than needed.

    Notes
    -----
    Projective projection: every pixel is divided by its own strength along the mean spectrum, so thickness does
    not matter and vertices are pure *compositions*. It fails where no pixel is pure, and on raw noise. Means are what
    is compared, not pixels: the largest simplex of single pixels has its vertices at those that noise has thrown out.

    References
    ----------
    Nascimento & Bioucas-Dias, IEEE TGRS 43 (2005) 898, DOI 10.1109/TGRS.2005.844293, algorithm 1 (line 2 onwards,
    projective branch); Winter, Proc. SPIE 3753 (1999) 266, DOI 10.1117/12.366289 (growing the simplex).
    """
    q, r = np.linalg.qr(np.asarray(loadings, dtype=np.float64))
    flat = r @ np.asarray(components, dtype=np.float64).reshape(len(r), -1)
    allowed = np.isfinite(flat).all(axis=0)
    if mask is not None:
        allowed &= np.asarray(mask, dtype=bool).ravel()
    pixels = np.flatnonzero(allowed)
    if not 2 <= n_states <= len(flat):
        raise BadReferenceError(f"{n_states} states from {len(flat)} components; allowed: 2 to {len(flat)}")
    points, pixels = points_on_plane(flat[:, pixels], n_states, pixels)
    count = max(1, round(nearest * len(pixels)))
    if len(pixels) < max(n_states, 2 * count):
        raise BadReferenceError(f"{len(pixels)} pixels with enough signal, too few for {n_states} states")
    candidates = local_means(points, nearest, rng) if nearest else points
    corners, largest = candidates[:, :n_states], -1.0
    for _ in range(_RUNS if nearest else 1):
        vertices = extreme_points(candidates, n_states, rng)
        if nearest:
            vertices = enlarge_simplex(candidates, vertices)
        volume = abs(float(np.linalg.det(candidates[:, vertices])))
        if volume > largest:
            corners, largest = candidates[:, vertices], volume
    members = [pixels[nearest_points(points, corner, count)] for corner in corners.T]
    spectra = np.stack([q @ flat[:, m].mean(axis=1) for m in members], axis=1)
    return spectra, members


def vca_references(
    denoised_stack: AnyArray,
    energies_eV: AnyArray,
    *,
    n_states: int | None = None,
    mask: Mask | None = None,
    rng: np.random.Generator,
) -> References:
    """Extract reference spectra from a denoised stack.

    Parameters
    ----------
    denoised_stack
        (T, y, x) optical density or fluorescence; may be memory-mapped. Denoise it first.
    energies_eV
        (T,) in eV, in any order, with repeats.
    n_states
        Number of states; ``None``: as many as the data support, 2 to 4 (see :func:`count_states`).
    mask
        (y, x), True where pixels are valid.

    Returns
    -------
    References
        "state 1", "state 2", … in the order of their edge energies. Unit edge jump (post- minus pre-edge level);
        where the spectra have no clear step (L edges), unit maximum above the line from the first to the last
        energies, for all states alike – the scale of the map then is a peak height, not an edge jump.

    Raises
    ------
    BadStackError
        Shapes do not fit or there are fewer than 6 energies.
    BadReferenceError
        Nothing but background in the stack.

    Notes
    -----
    The background [1, E] is projected out before vertices are looked for, pixels with less than a quarter of the
    signal do not vote, single pixels are out-voted by a 3×3 median of the component images, and each endmember is
    the median of the strength-normalised spectra of the 0.5 % pixels nearest to its vertex. One pass over the
    stack for the T×T Gram matrix and one for the components.
    """
    stack = np.asanyarray(denoised_stack)
    energies = np.asarray(energies_eV, dtype=np.float64)
    if stack.ndim != 3 or len(stack) != len(energies):
        raise BadStackError(f"stack of shape {stack.shape} with {len(energies)} energies; expected (energies, y, x)")
    if len(np.unique(energies)) < 6:
        raise BadStackError(f"{len(np.unique(energies))} distinct energies, references need at least 6")
    loadings, components = _signal_subspace(stack.reshape(len(stack), -1), energies)
    components = _without_specks(components, stack.shape[1:])
    strength = components[0]
    allowed = np.isfinite(strength) & (strength > _INSIDE * np.nanpercentile(strength, 98.0))
    if mask is not None:
        allowed &= np.asarray(mask, dtype=bool).ravel()
    if allowed.sum() < 50:
        raise BadReferenceError(f"{allowed.sum()} pixels show an edge, at least 50 are needed; measure across the edge")
    if n_states is None:
        n_states = count_states(components, allowed.reshape(stack.shape[1:]))
    _, members = vca(loadings, components, n_states, rng=rng, mask=allowed, nearest=NEAREST)
    flat = stack.reshape(len(stack), -1)
    spectra = np.stack([np.median(flat[:, m].astype(np.float64) / strength[m], axis=1) for m in members], axis=1)
    unique, spectra = sort_and_average(energies, spectra)
    spectra = _normalised(unique, spectra)
    first_half = [float(unique[int(np.argmax(spectrum >= 0.5 * spectrum.max()))]) for spectrum in spectra.T]
    spectra = spectra[:, np.argsort(first_half, kind="stable")]
    return References(tuple(f"state {j + 1}" for j in range(n_states)), unique, spectra)


def count_states(components: Matrix, inside: Mask) -> int:
    """Count the states that the data support, between 2 and 4.

    Parameters
    ----------
    components
        (K, N) of an orthonormal, background-free subspace; the first is the strength of the signal.
    inside
        (y, x), pixels with enough signal.

    Notes
    -----
    One state plus one per direction in which the strength-normalised spectra vary by more than 2.5 % of the mean
    spectrum and whose image is not white noise (correlation of neighbouring pixels above 0.5).
    """
    ratios = components[1:, inside.ravel()] / components[0, inside.ravel()]
    ratios -= np.median(ratios, axis=1, keepdims=True)
    limit = np.percentile(np.abs(ratios), 99.5, axis=1, keepdims=True)
    ratios = np.clip(ratios, -limit, limit)
    directions, spread, _ = np.linalg.svd(ratios @ ratios.T / ratios.shape[1])
    count = 1
    for direction, variance in zip(directions.T, spread, strict=True):
        image = np.full(inside.shape, np.nan)
        image[inside] = direction @ ratios
        if np.sqrt(variance) > _CHEMISTRY and _neighbour_correlation(image) > 0.5:
            count += 1
    return min(max(count, 2), MAX_STATES)


def _without_specks(components: Matrix, shape: tuple[int, ...]) -> Matrix:
    """Median-filter component images (K, N) 3×3 so that a single bad pixel is no vertex; invalid ones stay NaN."""
    from scipy.ndimage import median_filter

    valid = np.isfinite(components)
    images = np.where(valid, components, 0.0).reshape(-1, *shape)
    smooth = np.stack([median_filter(image, size=3, mode="nearest") for image in images]).reshape(components.shape)
    return np.where(valid, smooth, np.nan)


def _neighbour_correlation(image: Matrix) -> float:
    left, right = image[:, :-1].ravel(), image[:, 1:].ravel()
    both = np.isfinite(left) & np.isfinite(right)
    if both.sum() < 20:
        return 0.0
    return float(np.corrcoef(left[both], right[both])[0, 1])


def _signal_subspace(flat: AnyArray, energies_eV: Vector) -> tuple[Matrix, Matrix]:
    """Return orthonormal loadings (T, K) and components (K, N), K ≤ 8, of the stack less its [1, E] background."""
    axis = energies_eV - energies_eV.mean()
    nuisance = np.linalg.qr(np.stack([np.ones_like(axis), axis], axis=1))[0]
    gram = np.zeros((len(axis), len(axis)))
    parts = [slice(start, start + _CHUNK) for start in range(0, flat.shape[1], _CHUNK)]
    for part in parts:
        block = np.asarray(flat[:, part], dtype=np.float64)
        block = block[:, np.isfinite(block).all(axis=0)]
        block = block - nuisance @ (nuisance.T @ block)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    if not values[-1] > 0:
        raise BadReferenceError("the stack holds nothing but background; measure across the edge")
    keep = [k for k in range(len(axis) - 1, max(len(axis) - 9, 0), -1) if values[k] > 1e-9 * values[-1]]
    keep += [] if len(keep) > 1 else [len(axis) - 2]
    loadings = vectors[:, keep]
    components = np.concatenate([loadings.T @ np.asarray(flat[:, part], dtype=np.float64) for part in parts], axis=1)
    low, high = np.nanpercentile(components[0], [2.0, 98.0])
    if -low > high:
        loadings[:, 0] *= -1
        components[0] *= -1
    return loadings, components


def _normalised(energies_eV: Vector, spectra: Matrix) -> Matrix:
    """Normalise endmembers (E, L) alike: unit edge jump, else unit maximum above the line between the ends."""
    edge = find_edge_eV(energies_eV, spectra.mean(axis=1))
    try:
        steps = [normalise(energies_eV, s, raw=True, e0_eV=edge) for s in spectra.T]
        if all(step.mu.max() < 3.0 for step in steps):
            return np.stack([step.mu for step in steps], axis=1)
    except BadReferenceError:
        pass  # no clear step: the documented alternative follows
    below = energies_eV <= energies_eV[0] + 0.5 * max(edge - energies_eV[0], 0.0)
    above = np.arange(len(energies_eV)) >= 0.95 * len(energies_eV) - 1
    before, after = spectra[below].mean(axis=0), spectra[above].mean(axis=0)
    start, stop = energies_eV[below].mean(), energies_eV[above].mean()
    net = spectra - before - np.outer((energies_eV - start) / (stop - start), after - before)
    peak = net.max(axis=0)
    if (peak <= 0).any():
        raise BadReferenceError("an endmember has no absorption above its background; measure across the edge")
    return np.asarray(net / peak, dtype=np.float64)
