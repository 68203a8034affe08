"""Non-local means (scikit-image)."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image


class NonLocalMeans:
    """Average of pixels with similar surroundings; about 1 s for 1024² on one core.

    Parameters
    ----------
    strength
        Filter width h in units of the noise.

    References
    ----------
    Buades, Coll and Morel, CVPR 2005, DOI 10.1109/CVPR.2005.38;
    Darbon et al., ISBI 2008, DOI 10.1109/ISBI.2008.4541250 (fast mode).
    """

    def __init__(self, strength: float = 0.7) -> None:
        self.strength = strength

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image (y, x) float32."""
        from skimage.restoration import denoise_nl_means

        if sigma <= 0:
            return np.array(image, dtype=np.float32)
        middle = float(image.mean())
        unit = (np.asarray(image, dtype=np.float64) - middle) / sigma
        clean = denoise_nl_means(unit, patch_size=5, patch_distance=6, h=self.strength, sigma=1.0, fast_mode=True)
        return np.asarray(clean * sigma + middle, dtype=np.float32)
