"""Weighted sums of frames, compiled: every frame is read once, a stretch of pixels at a time, for all sums.

Four sums take eight frames in one pass, so that the memory, which limits it, is never waited for between them.
"""

from __future__ import annotations

from typing import TypeAlias

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled, inlined

_STRETCH = 8192  # pixels; with ten sums 320 kB, which stay in a core's cache
_Eight: TypeAlias = tuple[float, float, float, float, float, float, float, float]


@inlined
def _eight(weights: AnyArray, k: int, t: int) -> _Eight:
    """Return the weights in sum k of the eight frames from t on."""
    w = weights[k]
    return w[t], w[t + 1], w[t + 2], w[t + 3], w[t + 4], w[t + 5], w[t + 6], w[t + 7]


@inlined
def _weighted(w: _Eight, f: _Eight) -> float:
    """Return Σ w·f."""
    return (w[0] * f[0] + w[1] * f[1] + w[2] * f[2] + w[3] * f[3]) + (
        w[4] * f[4] + w[5] * f[5] + w[6] * f[6] + w[7] * f[7]
    )


@compiled("void(f4[:,::1],f4[:,::1],f4[:,::1],i8,i8)")
def add(weights: AnyArray, frames: AnyArray, sums: AnyArray, first: int, last: int) -> None:
    """Add Σ_t weights[k, t]·frames[t] to sums[k] for pixels ``first`` to ``last``; all are (·, pixels)."""
    n_sums, n_frames = weights.shape
    eights, fours, twos = n_frames // 8 * 8, n_sums // 4 * 4, n_sums // 2 * 2
    for start in range(first, last, _STRETCH):
        stop = min(start + _STRETCH, last)
        for t in range(0, eights, 8):
            f0, f1 = frames[t, start:stop], frames[t + 1, start:stop]
            f2, f3 = frames[t + 2, start:stop], frames[t + 3, start:stop]
            f4, f5 = frames[t + 4, start:stop], frames[t + 5, start:stop]
            f6, f7 = frames[t + 6, start:stop], frames[t + 7, start:stop]
            for k in range(0, fours, 4):
                w0, w1 = _eight(weights, k, t), _eight(weights, k + 1, t)
                w2, w3 = _eight(weights, k + 2, t), _eight(weights, k + 3, t)
                s0, s1 = sums[k, start:stop], sums[k + 1, start:stop]
                s2, s3 = sums[k + 2, start:stop], sums[k + 3, start:stop]
                for x in range(stop - start):
                    f = f0[x], f1[x], f2[x], f3[x], f4[x], f5[x], f6[x], f7[x]
                    s0[x] += _weighted(w0, f)
                    s1[x] += _weighted(w1, f)
                    s2[x] += _weighted(w2, f)
                    s3[x] += _weighted(w3, f)
            for k in range(fours, twos, 2):
                w0, w1 = _eight(weights, k, t), _eight(weights, k + 1, t)
                s0, s1 = sums[k, start:stop], sums[k + 1, start:stop]
                for x in range(stop - start):
                    f = f0[x], f1[x], f2[x], f3[x], f4[x], f5[x], f6[x], f7[x]
                    s0[x] += _weighted(w0, f)
                    s1[x] += _weighted(w1, f)
            for k in range(twos, n_sums):
                w0, s0 = _eight(weights, k, t), sums[k, start:stop]
                for x in range(stop - start):
                    s0[x] += _weighted(w0, (f0[x], f1[x], f2[x], f3[x], f4[x], f5[x], f6[x], f7[x]))
        for t in range(eights, n_frames):
            frame = frames[t, start:stop]
            for k in range(n_sums):
                weight, total = weights[k, t], sums[k, start:stop]
                for x in range(stop - start):
                    total[x] += weight * frame[x]
