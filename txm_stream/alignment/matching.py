"""Match one frame to a template: windows, Wiener filter, coarse correlation, slopes. Pure functions.

Shift convention everywhere: the shift (y, x) *applied to the data* to register it, in px.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft

from txm_stream.arrays import AnyArray, Image, Vector

WORKERS = 2
RINGS = 96


def taper(shape: tuple[int, int], fraction: float = 0.08) -> Image:
    """Return a window (y, x) that is 1 inside and falls to 0 at the borders over ``fraction`` of each side."""

    def profile(n: int) -> AnyArray:
        width = max(2, round(fraction * n))
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(width) + 0.5) / width)
        line = np.ones(n)
        line[:width] = ramp
        line[-width:] = ramp[::-1]
        return line

    return np.asarray(np.outer(profile(shape[0]), profile(shape[1])), dtype=np.float32)


def wiener_filter(image: Image, noise_variance: float, window: Image) -> Image:
    """Return the transfer function (rfft2 layout) that is best for recovering ``image`` from its white noise.

    The radial mean of the windowed power spectrum minus the noise gives the signal power.
    """
    rows, columns = image.shape
    mean = float((image * window).sum() / window.sum())
    power = np.abs(scipy.fft.rfft2((image - mean) * window, workers=WORKERS)) ** 2
    noise = noise_variance * float((window.astype(np.float64) ** 2).sum())
    ring, count = rings_of(rows, columns)
    level = np.bincount(ring.ravel(), weights=power.ravel(), minlength=RINGS) / np.maximum(count, 1)
    # noise in the ring mean falls with the number of samples in it: below that margin there is no signal
    margin = noise * (1 + 3 / np.sqrt(np.maximum(count, 1)))
    signal = np.where(level > margin, level - noise, 0.0)
    gain = signal / np.maximum(signal + noise, 1e-30)
    return np.asarray(gain[ring], dtype=np.float32)


@lru_cache(maxsize=4)
def rings_of(rows: int, columns: int) -> tuple[AnyArray, AnyArray]:
    """Return the ring of spatial frequency of every coefficient of rfft2, and the number of coefficients per ring."""
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    ring = np.minimum((np.sqrt(fy**2 + fx**2) * 2 * 64).astype(int), RINGS - 1)
    return ring, np.bincount(ring.ravel(), minlength=RINGS)


def radial_level(power: AnyArray, shape: tuple[int, int]) -> AnyArray:
    """Return the mean over rings of equal spatial frequency of a power spectrum (rfft2 layout of ``shape``)."""
    ring, count = rings_of(*shape)
    level = np.bincount(ring.ravel(), weights=power.ravel(), minlength=RINGS) / np.maximum(count, 1)
    return np.asarray(level[ring])


def apply_filter(image: Image, transfer: Image) -> Image:
    """Filter an image (y, x) with a transfer function in rfft2 layout."""
    spectrum = scipy.fft.rfft2(image, workers=WORKERS)
    spectrum *= transfer
    return np.asarray(scipy.fft.irfft2(spectrum, s=image.shape, workers=WORKERS), dtype=np.float32)


def coarse_shift(frame: Image, template: Image, window: Image, *, around: Vector | None, reach_px: float) -> Vector:
    """Return the whole-pixel shift (y, x) that registers ``frame`` to a filtered ``template``.

    Normalised only by the overlap's apodisation; the peak is sought within ``reach_px`` of ``around``.
    """
    a = window * (frame - float((frame * window).sum() / window.sum()))
    b = window * (template - float((template * window).sum() / window.sum()))
    rows, columns = frame.shape
    padded = (scipy.fft.next_fast_len(rows + rows // 2, True), scipy.fft.next_fast_len(columns + columns // 2, True))
    product = scipy.fft.rfft2(b, s=padded, workers=WORKERS) * np.conj(scipy.fft.rfft2(a, s=padded, workers=WORKERS))
    correlation = scipy.fft.irfft2(product, s=padded, workers=WORKERS)
    lags = []
    for n, centre in zip(padded, np.zeros(2) if around is None else around, strict=True):
        lag = np.arange(-(n // 2), n - n // 2)
        lags.append(lag[np.abs(lag - centre) <= reach_px])
    near = correlation[np.ix_(*lags)]  # negative lags lie at the end
    y, x = np.unravel_index(int(np.argmax(near)), near.shape)
    return np.array([float(lags[0][y]), float(lags[1][x])])


def gradient(image: Image) -> tuple[Image, Image]:
    """Return the derivative along y and x by the five-point central difference."""
    out = []
    for axis in (0, 1):
        padded = np.pad(image, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        n = image.shape[axis]

        def part(k: int, padded: AnyArray = padded, axis: int = axis, n: int = n) -> AnyArray:
            return padded[k : k + n] if axis == 0 else padded[:, k : k + n]

        out.append(np.asarray((8 * (part(3) - part(1)) - (part(4) - part(0))) / 12, dtype=np.float32))
    return out[0], out[1]
