"""Figures of merit of maps and shifts against a truth; definitions as in the documentation."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Mask


def map_correlation(estimate: AnyArray, truth: AnyArray, inside: Mask) -> float:
    """Return Pearson's correlation inside, mean over the states but the last; maps (L, y, x); NaN is left out."""
    where = inside & np.isfinite(estimate).all(axis=0)
    if where.sum() < 2:
        return float("nan")
    states = range(max(len(truth) - 1, 1))
    return float(np.mean([np.corrcoef(estimate[j][where], truth[j][where])[0, 1] for j in states]))


def abundance_rmse(estimate: AnyArray, truth: AnyArray, inside: Mask) -> float:
    """Return the rms error of all abundances inside; a pixel without an estimate counts as 1/L in each state."""
    filled = np.where(np.isfinite(estimate), estimate, 1.0 / len(truth))
    return float(np.sqrt(np.mean((filled[:, inside] - truth[:, inside]) ** 2)))


def shift_rmse_px(applied_px: AnyArray, motion_px: AnyArray) -> float:
    """Return the registration error in px, rms over visits and axes, common offset removed.

    ``applied_px`` (T, 2) are shifts applied to register, ``motion_px`` (T, 2) the true motion of the image.
    """
    error = np.asarray(applied_px) + np.asarray(motion_px)
    return float(np.sqrt(np.mean((error - error.mean(axis=0)) ** 2)))


def psnr(estimate: AnyArray, truth: AnyArray, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(peak**2 / np.mean((np.asarray(estimate) - truth) ** 2)))


def fpsnr(estimate: AnyArray, truth: AnyArray) -> float:
    """Return the mean over frames of the PSNR in dB; stacks (T, y, x), peak = range of the clean stack."""
    peak = float(np.ptp(truth))
    return float(np.mean([psnr(a, b, peak) for a, b in zip(estimate, truth, strict=True)]))


def spsnr(estimate: AnyArray, truth: AnyArray, inside: Mask) -> float:
    """Return the mean over inside pixels of the PSNR of their spectra in dB; stacks (T, y, x)."""
    peak = float(np.ptp(truth))
    error = np.mean((estimate[:, inside] - truth[:, inside]) ** 2, axis=0)
    return float(np.mean(10 * np.log10(peak**2 / np.maximum(error, 1e-30))))
