"""Wavelet shrinkage (scikit-image), averaged over cyclic shifts."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image


class Wavelet:
    """BayesShrink on Daubechies-2 wavelets, averaged over ``shifts``² cyclic shifts.

    References
    ----------
    Chang, Yu and Vetterli, IEEE Trans. Image Process. 9, 1532 (2000), DOI 10.1109/83.862633;
    Coifman and Donoho, Lecture Notes in Statistics 103, 125 (1995), DOI 10.1007/978-1-4612-2544-7_9.
    """

    def __init__(self, shifts: int = 3) -> None:
        self.shifts = shifts

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image (y, x) float32."""
        from skimage.restoration import denoise_wavelet

        if sigma <= 0:
            return np.array(image, dtype=np.float32)
        scaled = np.asarray(image, dtype=np.float64) / sigma
        total = np.zeros_like(scaled)
        for dy in range(self.shifts):
            for dx in range(self.shifts):
                moved = np.roll(scaled, (dy, dx), axis=(0, 1))
                clean = denoise_wavelet(moved, sigma=1.0, wavelet="db2", mode="soft", rescale_sigma=False)
                total += np.roll(clean, (-dy, -dx), axis=(0, 1))
        return np.asarray(total * (sigma / self.shifts**2), dtype=np.float32)
