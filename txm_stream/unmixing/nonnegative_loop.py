"""Non-negative least squares in every pixel, compiled: all supports are tried, on many pixels at once.

The solution is the least-squares fit on those states that are above zero, its support. Of all supports whose fit is
nowhere negative it is the one that explains most of b: with z the fit, ‖b‖² − ‖b − R z‖² = (Rᵀb)ᵀz. Up to six states
there are few enough to try each, and without a branch per pixel a processor tries several pixels per instruction.

References
----------
Lawson and Hanson, Solving Least Squares Problems (1974), DOI 10.1137/1.9781611971217, ch. 23: the conditions.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled

MAX_STATES = 6
_AT_ONCE = 128  # pixels; what belongs to them stays in the first cache


@compiled(
    "void(f4[:,::1],f8[:,::1],f8[:,:,::1],b1[::1],f4[:,::1],i8,i8)",
    "void(f8[:,::1],f8[:,::1],f8[:,:,::1],b1[::1],f8[:,::1],i8,i8)",
)
def fit(
    white: AnyArray,
    triangle: AnyArray,
    table: AnyArray,
    where: AnyArray,
    out: AnyArray,
    first: int,
    last: int,
) -> None:
    """Write pixels ``first`` to ``last`` of z ≥ 0 (L, N) that minimises ‖b − R z‖² ``where`` it is asked for.

    ``table[m]`` (6, 6) has in the rows of the states in the bits of m the pseudo-inverse of R on them, and zeros
    elsewhere. Pixels that are not finite stay as they are.
    """
    n_states = len(triangle)
    pixels = np.empty(_AT_ONCE, np.int64)
    b, pull = np.zeros((MAX_STATES, _AT_ONCE)), np.empty((MAX_STATES, _AT_ONCE))
    b0, b1, b2, b3, b4, b5 = b[0], b[1], b[2], b[3], b[4], b[5]
    least, gain, most = np.empty(_AT_ONCE), np.empty(_AT_ONCE), np.empty(_AT_ONCE)
    support = np.empty(_AT_ONCE)
    taken = 0
    for n in range(first, last):
        if where[n]:
            size = 0.0
            for i in range(n_states):
                b[i, taken] = white[i, n]
                size += abs(b[i, taken])
            if size < np.inf:
                pixels[taken] = n
                taken += 1
        if taken < _AT_ONCE and n < last - 1:
            continue
        for i in range(n_states):
            drawn = pull[i]
            drawn[:] = 0.0
            for j in range(n_states):
                weight, channel = triangle[j, i], b[j]
                for x in range(_AT_ONCE):
                    drawn[x] += weight * channel[x]
        most[:] = 0.0
        support[:] = 0.0
        for tried in range(1, 1 << n_states):
            least[:] = 0.0
            gain[:] = 0.0
            for i in range(n_states):
                if tried >> i & 1:
                    w0, w1, w2 = table[tried, i, 0], table[tried, i, 1], table[tried, i, 2]
                    w3, w4, w5 = table[tried, i, 3], table[tried, i, 4], table[tried, i, 5]
                    drawn = pull[i]
                    for x in range(_AT_ONCE):
                        z = (w0 * b0[x] + w1 * b1[x] + w2 * b2[x]) + (w3 * b3[x] + w4 * b4[x] + w5 * b5[x])
                        least[x] = z if z < least[x] else least[x]
                        gain[x] += drawn[x] * z
            for x in range(_AT_ONCE):
                better = (least[x] >= 0.0) & (gain[x] > most[x])
                most[x] = gain[x] if better else most[x]
                support[x] = tried if better else support[x]
        for x in range(taken):
            found = int(support[x])
            for i in range(n_states):
                z = 0.0
                for j in range(n_states):
                    z += table[found, i, j] * b[j, x]
                out[i, pixels[x]] = max(z, 0.0)
        taken = 0


@compiled("void(f4[:,::1],f4[:,::1],f4[::1],i8,i8)", "void(f8[:,::1],f8[:,::1],f8[::1],i8,i8)")
def split(scaled: AnyArray, out: AnyArray, scale: AnyArray, first: int, last: int) -> None:
    """Write the sum over the states of pixels ``first`` to ``last`` of z (L, N), and z over it; 1/L where it is zero.

    ``out`` may be ``scaled``.
    """
    n_states = len(scaled)
    even = 1.0 / n_states
    for start in range(first, last, _AT_ONCE):
        stop = min(start + _AT_ONCE, last)
        total = scale[start:stop]
        total[:] = 0.0
        for k in range(n_states):
            part = scaled[k, start:stop]
            for x in range(stop - start):
                total[x] += part[x]
        for k in range(n_states):
            part, share = scaled[k, start:stop], out[k, start:stop]
            for x in range(stop - start):
                share[x] = part[x] / total[x] if total[x] > 0 else even
