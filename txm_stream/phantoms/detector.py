"""The camera: beam profile, fixed pattern, dead and hot pixels, shot noise and read noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from txm_stream.arrays import Image, Mask
from txm_stream.errors import BadFrameError

SATURATION_ADU = 65535
_NORMAL_ABOVE = 30.0  # rates above are drawn as a rounded normal with the skewness of Poisson counts


@dataclass(frozen=True, eq=False)
class Detector:
    """A camera in its beam. All patterns are fixed in detector coordinates.

    Attributes
    ----------
    beam
        Open-beam intensity (y, x), mean 1: smooth profile (about +-40 %) times optics and scintillator pattern.
    dead, hot
        Pixels (y, x) that see nothing, and pixels with a large dark current.
    hot_adu
        Dark signal (y, x) of one frame in ADU; zero but for hot pixels.
    electrons_per_adu, offset_adu, read_noise_adu
        Detected quanta per ADU, dark level and rms read noise of one frame in ADU.
    """

    beam: Image
    dead: Mask
    hot: Mask
    hot_adu: Image
    electrons_per_adu: float = 0.4
    offset_adu: float = 100.0
    read_noise_adu: float = 2.5

    @property
    def shape(self) -> tuple[int, int]:
        """Size (y, x) in px."""
        return self.beam.shape[0], self.beam.shape[1]

    def expected_adu(self, transmission: Image | None, *, photons: float) -> Image:
        """Return the mean signal (y, x) in ADU of one frame with ``photons`` quanta per open-beam pixel."""
        signal = np.multiply(self.beam, np.float32(photons / self.electrons_per_adu))
        if transmission is not None:
            signal *= transmission
        signal[self.dead] = 0
        signal += self.hot_adu
        signal += np.float32(self.offset_adu)
        return np.minimum(signal, SATURATION_ADU)

    def expose(
        self,
        transmission: Image | None,
        *,
        photons: float,
        rng: np.random.Generator,
        repeats: int = 1,
        intensity: NDArray[np.float64] | None = None,
    ) -> NDArray[np.uint16]:
        """Take ``repeats`` frames; return counts in ADU, uint16 (repeats, y, x).

        Parameters
        ----------
        transmission
            Transmission of the sample (y, x); ``None`` is the open beam (a flat).
        photons
            Quanta per pixel in the open beam, mean over the image, all repeats together; 0 is a dark.
        rng
            Source of all noise.
        repeats
            Number of frames.
        intensity
            Relative beam intensity of each frame (repeats,), see :func:`draw_flicker`; default 1.
        """
        if transmission is not None and transmission.shape != self.shape:
            raise BadFrameError(f"transmission has shape {transmission.shape}, expected {self.shape} as the detector")
        rate = self.beam * np.float32(photons / repeats)
        if transmission is not None:
            rate *= transmission
        rate[self.dead] = 0
        np.maximum(rate, 0, out=rate)
        rate_hot = self.hot_adu[self.hot] * np.float32(self.electrons_per_adu)
        frames = np.empty((repeats, *self.shape), dtype=np.uint16)
        for index in range(repeats):
            quanta = rate * np.float32(1.0 if intensity is None else intensity[index])
            quanta[self.hot] += rate_hot
            adu = _counts(quanta, rng) if photons > 0 else _hot_only(quanta, self.hot, rng)
            adu /= np.float32(self.electrons_per_adu)
            noise = rng.standard_normal(self.shape, dtype=np.float32)
            noise *= np.float32(self.read_noise_adu)
            adu += noise
            adu += np.float32(self.offset_adu + 0.5)  # half for rounding by truncation
            frames[index] = np.clip(adu, 0, SATURATION_ADU, out=adu)
        return frames


def _counts(rate: Image, rng: np.random.Generator) -> Image:
    """Draw Poisson counts (y, x) float32; large rates as in :func:`_large`."""
    if float(rate.min()) > _NORMAL_ABOVE:
        return _large(rate, rng)
    many = rate > _NORMAL_ABOVE
    if not many.any():
        return rng.poisson(rate).astype(np.float32)
    counts = np.empty_like(rate)
    counts[~many] = rng.poisson(rate[~many])
    counts[many] = _large(rate[many], rng)
    return counts


def _large(rate: Image, rng: np.random.Generator) -> Image:
    """Draw counts by the Cornish–Fisher expansion λ + √λ z + (z² − 1)/6: three moments are those of Poisson counts.

    References
    ----------
    Cornish and Fisher, Rev. Inst. Int. Stat. 5, 307 (1938), DOI 10.2307/1400905.
    """
    noise = rng.standard_normal(rate.shape, dtype=np.float32)
    skew = noise * noise
    skew -= 1
    skew /= 6
    noise *= np.sqrt(rate)
    noise += rate
    noise += skew
    return np.asarray(np.maximum(np.rint(noise, out=noise), 0, out=noise))


def _hot_only(rate: Image, hot: Mask, rng: np.random.Generator) -> Image:
    counts = np.zeros_like(rate)
    counts[hot] = rng.poisson(rate[hot])
    return counts


def draw_flicker(flicker: float, *, rng: np.random.Generator, repeats: int) -> NDArray[np.float64]:
    """Draw the relative beam intensity of each frame (repeats,): lognormal, rms ``flicker``.

    The beam is slow against a frame: one factor is common to the repeats of a visit, a further quarter of
    ``flicker`` differs from frame to frame.
    """
    common = np.exp(flicker * rng.standard_normal())
    return np.asarray(common * np.exp(0.25 * flicker * rng.standard_normal(repeats)))


def suitable_gain(photons_per_frame: float) -> float:
    """Return the quanta per ADU with which a frame of so many quanta per pixel does not saturate; 0.4 or more."""
    return max(0.4, 2.5 * photons_per_frame / SATURATION_ADU)


def make_detector(
    shape: tuple[int, int],
    *,
    seed: int = 0,
    electrons_per_adu: float = 0.4,
    offset_adu: float = 100.0,
    read_noise_adu: float = 2.5,
    bad_fraction: float = 2e-4,
) -> Detector:
    """Make a camera of ``shape`` (y, x) in a non-uniform beam.

    ``bad_fraction`` of the pixels are dead and as many are hot (at least one each unless it is 0).
    """
    rng = np.random.default_rng([seed, 21])
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    oy, ox = rng.uniform(-0.3, 0.3, 2)
    profile = 0.6 + 0.8 * np.exp(-0.9 * ((y - oy) ** 2 + (x - ox) ** 2)) + 0.08 * rng.uniform(-1, 1) * x
    fine = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.5, mode="wrap")
    grain = rng.standard_normal(shape, dtype=np.float32)
    tiles = 0.01 * np.sin(40 * y + 3 * x)
    beam = profile * (1 + 0.025 * fine / fine.std() + 0.01 * grain + tiles)
    beam = np.asarray(beam / beam.mean(), dtype=np.float32)

    n_bad = max(1, round(bad_fraction * beam.size)) if bad_fraction > 0 else 0
    chosen = rng.choice(beam.size, size=2 * n_bad, replace=False)
    dead, hot = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    dead.flat[chosen[:n_bad]] = True
    hot.flat[chosen[n_bad:]] = True
    hot_adu = np.where(hot, rng.uniform(2000, 30000, shape), 0).astype(np.float32)
    return Detector(beam, dead, hot, hot_adu, electrons_per_adu, offset_adu, read_noise_adu)
