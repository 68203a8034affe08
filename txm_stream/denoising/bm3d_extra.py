"""BM3D by its authors' package: an extra, free for non-commercial use only (``pip install txm-stream[bm3d]``)."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image


class BM3D:
    """Block matching and 3-D filtering; about 5 s per 256² image, on one core: with more its answers differ.

    Raises ImportError when the package ``bm3d`` is not installed.

    References
    ----------
    Mäkinen, Azzari and Foi, IEEE Trans. Image Process. 29, 8339 (2020), DOI 10.1109/TIP.2020.3014721.
    """

    def __init__(self) -> None:
        import bm3d

        self._bm3d = bm3d.bm3d
        self._profile = bm3d.BM3DProfile()
        self._profile.num_threads = 1  # with more, two answers for one input

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image (y, x) float32."""
        if sigma <= 0:
            return np.array(image, dtype=np.float32)
        # unit noise: the package's thresholds assume values of order one
        scaled = np.asarray(image, dtype=np.float64) / sigma
        return np.asarray(self._bm3d(scaled, 1.0, self._profile) * sigma, dtype=np.float32)
