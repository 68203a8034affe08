"""One step of total variation in one pass over the image, compiled: memory traffic is most of the cost.

The dual p = (p_y, p_x), in units of λ, lives on forward differences D; with q = p_k + m (p_k − p_{k−1}) and the
image u = y/λ − Dᵀq a step is  p_{k+1} = Π(q + D u / 8),  Π the projection on |p| ≤ 1 in every pixel (Beck and
Teboulle 2009, DOI 10.1109/TIP.2009.2028250, with −D for their L). The last row of p_y and column of p_x stay zero.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image
from txm_stream.row_threads import compiled

_EIGHTH = np.float32(0.125)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@compiled("void(f4[:,::1],f4[:,::1],f4[:,::1],f4[:,::1],f4[:,::1],f4[:,::1],f4[:,::1],f4,i8,i8)")
def step(
    data: Image,
    present_y: Image,
    present_x: Image,
    earlier_y: Image,
    earlier_x: Image,
    next_y: Image,
    next_x: Image,
    momentum: float,
    first: int,
    last: int,
) -> None:
    """Write rows ``first`` to ``last`` of p_{k+1}, from y/λ, p_k and p_{k−1}."""
    height, width = data.shape
    q_y, q_x, u = np.zeros(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    below_y, below_x, u_below = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    if first > 0:
        for x in range(width):
            q_y[x] = present_y[first - 1, x] + momentum * (present_y[first - 1, x] - earlier_y[first - 1, x])
    for y in range(first, last + 1):  # u of row y is known when row y − 1 is written
        if y < height:
            for x in range(width):
                below_y[x] = present_y[y, x] + momentum * (present_y[y, x] - earlier_y[y, x])
                below_x[x] = present_x[y, x] + momentum * (present_x[y, x] - earlier_x[y, x])
            u_below[0] = data[y, 0] + below_y[0] - q_y[0] + below_x[0]
            for x in range(1, width):
                u_below[x] = data[y, x] + below_y[x] - q_y[x] + below_x[x] - below_x[x - 1]
        if y > first:
            for x in range(width):
                down = q_y[x] + _EIGHTH * (u_below[x] - u[x]) if y < height else _ZERO
                right = q_x[x] + _EIGHTH * (u[x + 1] - u[x]) if x < width - 1 else _ZERO
                inverse = _ONE / np.sqrt(max(_ONE, down * down + right * right))
                next_y[y - 1, x] = down * inverse
                next_x[y - 1, x] = right * inverse
        q_y, below_y = below_y, q_y
        q_x, below_x = below_x, q_x
        u, u_below = u_below, u


@compiled("void(f4[:,::1],f4[:,::1],f4[:,::1],f4,f4[:,::1],i8,i8)")
def primal(data: Image, dual_y: Image, dual_x: Image, strength: float, out: Image, first: int, last: int) -> None:
    """Write rows ``first`` to ``last`` of the image λ (y/λ − Dᵀp); ``out`` may be ``data``."""
    for y in range(first, last):
        for x in range(data.shape[1]):
            value = data[y, x] + dual_y[y, x] + dual_x[y, x]
            if y > 0:
                value -= dual_y[y - 1, x]
            if x > 0:
                value -= dual_x[y, x - 1]
            out[y, x] = value * strength
