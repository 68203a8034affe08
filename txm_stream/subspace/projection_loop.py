"""Weighted sums of frames, compiled: every frame is read once, a stretch of pixels at a time, for all sums."""

from __future__ import annotations

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled

_STRETCH = 8192  # pixels; with ten sums 320 kB, which stay in a core's cache


@compiled("void(f4[:,::1],f4[:,::1],f4[:,::1],i8,i8)")
def add(weights: AnyArray, frames: AnyArray, sums: AnyArray, first: int, last: int) -> None:
    """Add Σ_t weights[k, t]·frames[t] to sums[k] for pixels ``first`` to ``last``; all are (·, pixels)."""
    n_sums, n_frames = weights.shape
    eights = n_frames // 8 * 8
    for start in range(first, last, _STRETCH):
        stop = min(start + _STRETCH, last)
        for t in range(0, eights, 8):
            f0, f1, f2, f3 = (
                frames[t, start:stop],
                frames[t + 1, start:stop],
                frames[t + 2, start:stop],
                frames[t + 3, start:stop],
            )
            f4, f5, f6, f7 = (
                frames[t + 4, start:stop],
                frames[t + 5, start:stop],
                frames[t + 6, start:stop],
                frames[t + 7, start:stop],
            )
            for k in range(n_sums):
                w0, w1, w2, w3 = weights[k, t], weights[k, t + 1], weights[k, t + 2], weights[k, t + 3]
                w4, w5, w6, w7 = weights[k, t + 4], weights[k, t + 5], weights[k, t + 6], weights[k, t + 7]
                total = sums[k, start:stop]
                for x in range(stop - start):
                    early = w0 * f0[x] + w1 * f1[x] + w2 * f2[x] + w3 * f3[x]
                    late = w4 * f4[x] + w5 * f5[x] + w6 * f6[x] + w7 * f7[x]
                    total[x] += early + late
        for t in range(eights, n_frames):
            frame = frames[t, start:stop]
            for k in range(n_sums):
                weight = weights[k, t]
                total = sums[k, start:stop]
                for x in range(stop - start):
                    total[x] += weight * frame[x]
