"""Registration of a whole scan: causal start, then Newton steps on all shifts together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.joint import joint_step, smoothed, temporal_basis
from txm_stream.alignment.matching import taper
from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Stack, Vector
from txm_stream.profile import Magnification
from txm_stream.resampling import field_after_shift, shift_image

STEPS = 3
STEPS_IF_FITTED = 10
RANK = 6
"""Components of the model; any number from that of the states and the background on gives the same shifts."""
_LARGEST_STEP_PX = 1.5
_CONVERGED_PX = 0.002
_SPREAD_PX, _OUTLIER, _SURE_PX = 0.5, 6.0, 0.1
"""A first estimate further from the median than 6 robust standard deviations (plus 3 px) is taken for a false peak,
unless its standard error is below .1 px (noise does not match that well) and the stack agrees: chemistry does match
that well where another particle looks alike."""


@dataclass(frozen=True, eq=False)
class BatchShifts:
    """How every frame is moved to register it.

    ``shifts_px`` (T, 2), their standard errors ``sigma_px`` (T,), the weight ``keep`` (T,): 0 = rejected.
    ``magnification`` (T,): each frame is first magnified by it about its centre. It is 1 + ``growth`` · (E/Ē − 1).
    """

    shifts_px: Vector
    sigma_px: Vector
    keep: Vector
    magnification: Vector
    growth: float = 0.0
    growth_sigma: float = 0.0

    def enlarged(self, factor: int, shape: tuple[int, int]) -> BatchShifts:
        """Return the same for frames of ``shape`` (y, x) of which binned ones were registered."""
        if factor == 1:
            return self
        # blocks that did not fit were dropped at the far borders: the binned centre is not the centre
        centre = np.array([-(n % factor) / 2 for n in shape])
        shifts = self.shifts_px * factor + (1 - self.magnification[:, None]) * centre
        return replace(self, shifts_px=shifts, sigma_px=self.sigma_px * factor)


def register_batch(
    frames: Stack,
    sigma: Vector,
    *,
    energies_eV: Vector | None = None,
    magnification: Magnification = "constant",
) -> BatchShifts:
    """Register a stack of changing contrast.

    Parameters
    ----------
    frames
        Optical density (T, y, x), finite everywhere, not registered.
    sigma
        Noise of each frame, shape (T,); ``inf`` rejects a frame.
    energies_eV
        (T,); needed where the magnification is not constant.
    magnification
        ``"proportional"``: a pixel on the sample grows as the energy (a zone plate moved along the beam), so that
        frames are magnified by E/Ē; ``"fitted"``: by 1 + growth · (E/Ē − 1), with one growth from the data.

    Notes
    -----
    The common offset is free: shifts are returned with weighted mean zero. See :mod:`.joint` for the model. Shifts that
    leave more energy beyond its rank than no shifts at all are dropped: the stack was registered, or its contrast
    cannot be. Cost: about 8 resamplings per frame.
    """
    usable = np.isfinite(sigma)
    relative = np.zeros(len(frames))
    if magnification != "constant" and energies_eV is not None:
        relative = np.asarray(energies_eV, dtype=np.float64) / float(np.mean(energies_eV)) - 1
    growth, growth_sigma = (1.0 if magnification == "proportional" else 0.0), 0.0
    shifts, errors = np.zeros((len(frames), 2)), np.full(len(frames), np.nan)
    if usable.sum() < 2:
        return BatchShifts(shifts, errors, usable.astype(np.float64), 1 + growth * relative, growth)
    chosen = np.flatnonzero(usable)
    stack = frames if usable.all() else frames[chosen]
    noise, relative_used = np.asarray(sigma, dtype=np.float64)[chosen], relative[chosen]
    start = _causal_start(stack, noise, 1 + growth * relative_used)
    error = start.sigma_px
    failed = ~np.isfinite(error)
    rank = min(RANK, max(1, int((~failed).sum()) // 3))
    current = _without_outliers(stack, noise, start, rank)
    spread = float(np.sqrt(np.mean((relative_used - relative_used.mean()) ** 2)))
    fitted = magnification == "fitted" and spread > 0
    reach_px = max(frames.shape[1:]) / 2
    for _ in range(STEPS_IF_FITTED if fitted else STEPS):
        placed = Placement(current, 1 + growth * relative_used)
        window = common_window((stack.shape[1], stack.shape[2]), placed, ~failed)
        pattern = (relative_used - relative_used.mean()) / spread if fitted else None
        step = joint_step(_registered(stack, *placed), noise, window, ~failed, rank, pattern=pattern)
        current, error = current + np.clip(step.moves, -_LARGEST_STEP_PX, _LARGEST_STEP_PX), step.sigma_px
        if fitted:
            growth, growth_sigma = growth + step.growth / spread, step.growth_sigma / spread
        if max(float(np.abs(step.moves).max()), abs(step.growth) * reach_px) < _CONVERGED_PX:
            break
    placed = Placement(current, 1 + growth * relative_used)
    still = Placement(np.zeros_like(current), np.ones(len(current)))
    if magnification != "proportional" and _energy_beyond(stack, noise, still, placed, rank, ~failed) <= _energy_beyond(
        stack, noise, placed, placed, rank, ~failed
    ):
        current, growth = np.zeros_like(current), 0.0
    weight = np.where(failed, 0.0, 1 / np.maximum(error, 1e-3) ** 2)
    current = current - (weight[:, None] * current).sum(axis=0) / weight.sum()
    keep = np.zeros(len(frames))
    shifts[chosen], errors[chosen], keep[chosen] = current, error, (~failed).astype(np.float64)
    return BatchShifts(shifts, errors, keep, 1 + growth * relative, growth, growth_sigma)


class Placement(NamedTuple):
    """How frames are moved: shifts (T, 2) in px and magnification (T,)."""

    shifts_px: Vector
    magnification: Vector


def _causal_start(stack: Stack, noise: Vector, magnification: Vector) -> BatchShifts:
    """Register every frame causally, the clearest first."""
    contrast = np.array([ndimage.gaussian_filter(f, 1.5).std() / s for f, s in zip(stack, noise, strict=True)])
    order = np.argsort(-contrast, kind="stable")
    causal = CausalRegistration((stack.shape[1], stack.shape[2]))
    shifts, errors = np.zeros((len(stack), 2)), np.full(len(stack), np.nan)
    for t in order:
        zoom = float(magnification[t])
        frame = stack[t] if zoom == 1.0 else shift_image(stack[t], (0.0, 0.0), zoom)
        found = causal.partial_fit(frame, float(noise[t]))
        shifts[t] = found.shift_px
        errors[t] = found.sigma_px if found.accepted else np.nan
    return BatchShifts(shifts, errors, np.isfinite(errors).astype(np.float64), magnification)


def _without_outliers(stack: Stack, noise: Vector, start: BatchShifts, rank: int) -> Vector:
    """Put frames that lie far outside all others to where their neighbours are: they found a false peak.

    A sure one stays if the others explain it better where it was found.
    """
    shifts, kept = start.shifts_px, np.isfinite(start.sigma_px)
    away = np.abs(shifts - np.median(shifts[kept], axis=0))
    spread = 1.4826 * np.median(away[kept], axis=0) + _SPREAD_PX
    outside = (away > _OUTLIER * spread).any(axis=1)
    out, fit = shifts.copy(), np.flatnonzero(kept & ~outside)
    for axis in (0, 1):
        out[outside, axis] = np.interp(np.flatnonzero(outside), fit, shifts[fit, axis])
    sure = np.flatnonzero(outside & (start.sigma_px < _SURE_PX))
    if sure.size:
        found, moved = (Placement(places, start.magnification) for places in (shifts, out))
        left = _left_by_others(stack, noise, (found, moved), fit, sure, rank)
        stays = sure[left[0] <= left[1]]
        out[stays] = shifts[stays]
    return out


def _left_by_others(
    stack: Stack, noise: Vector, placements: tuple[Placement, ...], others: AnyArray, chosen: AnyArray, rank: int
) -> list[Vector]:
    """Return the energy of frames ``chosen`` beyond ``rank`` components of the ``others``, for several placements."""
    known = placements[0]
    window = common_window((stack.shape[1], stack.shape[2]), known, np.isin(np.arange(len(stack)), [*others, *chosen]))

    def rows(frames: AnyArray, placed: Placement) -> Matrix:
        moved = _registered(stack[frames], placed.shifts_px[frames], placed.magnification[frames])
        return smoothed(moved, 1 / noise[frames], window)

    span = rows(others, known)
    strongest = np.linalg.eigh((span @ span.T).astype(np.float64))[1][:, -rank:]
    basis = np.linalg.qr(span.T @ strongest.astype(np.float32))[0]
    seen = [rows(chosen, placed) for placed in placements]
    return [(y**2).sum(axis=1) - ((y @ basis) ** 2).sum(axis=1) for y in seen]


def _registered(stack: Stack, shifts: Vector, magnification: Vector) -> Stack:
    return np.stack([shift_image(f, s, m) for f, s, m in zip(stack, shifts, magnification.tolist(), strict=True)])


def common_window(shape: tuple[int, int], placed: Placement, keep: Mask) -> Image:
    """Return a tapered window over the field that all kept frames share."""
    field = np.ones(shape, dtype=bool)
    for shift, magnification in zip(placed.shifts_px[keep], placed.magnification[keep].tolist(), strict=True):
        field &= field_after_shift(shape, shift, magnification)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    window = np.zeros(shape, dtype=np.float32)
    if rows.size < 8 or columns.size < 8:
        return taper(shape)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    window[box] = taper((rows.size, columns.size))
    return window


def _energy_beyond(stack: Stack, noise: Vector, placed: Placement, seen: Placement, rank: int, keep: Mask) -> float:
    """Return the energy beyond ``rank`` of the stack as ``placed``, in the common field of the placement ``seen``."""
    window = common_window((stack.shape[1], stack.shape[2]), seen, keep)
    return float(temporal_basis(_registered(stack, *placed), noise, window, keep)[0][rank:].sum())
