"""Truncated SVD of a growing stack in bounded memory: blocks of frames, rank r, and a bound on what was dropped.

For scans whose frames cannot be kept. Where they can, :class:`.gram.SmoothedGram` gives the better subspace: the SVD
of raw frames follows the noise (its second component is off by 17° at a noise of 50/255, the smoothed one by 8°).
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image, Stack, Vector
from txm_stream.errors import BadStackError

_SMALLEST = 3e-6
"""Singular values below this share of the largest are rounding errors of float32."""
_REFRESH_EVERY = 16
"""Blocks after which the components are made orthonormal again, against rounding in float32."""


class IncrementalSVD:
    """Sequential Karhunen–Loève update: after every block the best rank-r approximation of what is left of the stack.

    Memory: ``rank`` + 2·``block`` images, whatever the number of frames.

    Parameters
    ----------
    shape
        Image size (y, x).
    rank
        Components kept.
    block
        Frames taken in at once.

    Raises
    ------
    BadStackError
        A frame of another shape, or one that is not finite everywhere.

    References
    ----------
    Levy and Lindenbaum, IEEE Trans. Image Process. 9, 1371 (2000), DOI 10.1109/83.855432;
    Brand, Linear Algebra Appl. 415, 20 (2006), DOI 10.1016/j.laa.2005.07.021.
    """

    def __init__(self, shape: tuple[int, int], *, rank: int = 16, block: int = 8) -> None:
        self.shape = shape
        self.rank = rank
        self.block = block
        self._left = np.zeros((0, shape[0] * shape[1]), dtype=np.float32)
        self._values = np.zeros(0)
        self._right = np.zeros((0, 0))
        self._waiting: list[Image] = []
        self._energy = self._dropped = 0.0
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._right) + len(self._waiting)

    def partial_fit(self, frame: Image) -> None:
        """Add a frame (y, x), finite everywhere: whitened, and 0 in pixels that are not to count."""
        frame = np.asarray(frame, dtype=np.float32)
        if frame.shape != self.shape or not np.isfinite(frame).all():
            raise BadStackError(f"frame of shape {frame.shape}; expected finite numbers of shape {self.shape}")
        self._waiting.append(frame.ravel().copy())
        if len(self._waiting) == self.block:
            self._take_in()

    @property
    def singular_values(self) -> Vector:
        """Singular values, descending, at most ``rank``."""
        self._take_in()
        return self._values.copy()

    @property
    def components(self) -> Stack:
        """Orthonormal images (r, y, x)."""
        self._take_in()
        return self._left.reshape(-1, *self.shape).copy()

    @property
    def loadings(self) -> Vector:
        """Orthonormal temporal vectors (T, r): frame t is Σ_j loadings[t, j] · singular_values[j] · components[j]."""
        self._take_in()
        return self._right.copy()

    @property
    def relative_error(self) -> float:
        """‖Y − Ŷ‖_F / ‖Y‖_F of the approximation: √(Σ dropped s²), for what is dropped at one step is orthogonal to
        what is dropped at another."""
        self._take_in()
        return float(np.sqrt(self._dropped / self._energy)) if self._energy > 0 else 0.0

    def _take_in(self) -> None:
        if not self._waiting:
            return
        rows = np.stack(self._waiting)
        self._waiting = []
        self._energy += float((rows.astype(np.float64) ** 2).sum())
        inside = (rows @ self._left.T).astype(np.float64)
        rest = rows - inside.astype(np.float32) @ self._left
        again = (rest @ self._left.T).astype(np.float64)  # once more: float32 loses orthogonality in one go
        rest -= again.astype(np.float32) @ self._left
        inside += again
        fresh, mixing = _orthonormal_rows(rest)
        known, count = len(self._values), len(rows)
        core = np.zeros((known + count, known + len(fresh)))
        core[:known, :known] = np.diag(self._values)
        core[known:, :known] = inside
        core[known:, known:] = mixing
        right, values, left = np.linalg.svd(core, full_matrices=False)
        kept = min(self.rank, int(np.sum(values > _SMALLEST * max(values[0], 1e-300)))) if len(values) else 0
        self._dropped += float((values[kept:] ** 2).sum())
        turn = left[:kept].astype(np.float32)
        self._left = turn[:, :known] @ self._left + turn[:, known:] @ fresh
        self._right = np.concatenate([self._right @ right[:known, :kept], right[known:, :kept]])
        self._values = values[:kept]
        self._blocks += 1
        if self._blocks % _REFRESH_EVERY == 0:
            self._refresh()

    def _refresh(self) -> None:
        orthonormal, mixing = _orthonormal_rows(self._left)
        right, self._values, left = np.linalg.svd(np.diag(self._values) @ mixing, full_matrices=False)
        self._left = left.astype(np.float32) @ orthonormal
        self._right = self._right @ right


def _orthonormal_rows(rows: Stack) -> tuple[Stack, Vector]:
    """Return orthonormal rows Q (n, P) and M (n, n) with ``rows`` (n, P) = M Q."""
    import torch

    q, r = torch.linalg.qr(torch.from_numpy(rows).T)
    return np.ascontiguousarray(q.T.numpy()), r.T.numpy().astype(np.float64)
