"""Non-negative least squares in every pixel, compiled: block principal pivoting, on a table of all supports.

References
----------
Portugal, Júdice and Vicente, Math. Comput. 63, 625 (1994), DOI 10.1090/S0025-5718-1994-1250776-4.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled

_EXCHANGES = 50
_AT_ONCE = 3
_ROUNDING = 1e-12


@compiled(
    "void(f4[:,:],f8[:,::1],f8[:,:,::1],b1[::1],f4[:,:],i8,i8)",
    "void(f8[:,:],f8[:,::1],f8[:,:,::1],b1[::1],f8[:,:],i8,i8)",
)
def fit(
    white: AnyArray,
    triangle: AnyArray,
    inverses: AnyArray,
    where: AnyArray,
    out: AnyArray,
    first: int,
    last: int,
) -> None:
    """Write pixels ``first`` to ``last`` of z ≥ 0 (L, N) that minimises ‖b − R z‖² ``where`` it is asked for.

    ``inverses[m]`` is the pseudo-inverse of R on the states in the bits of m, its other rows zero. From the support of
    the pixel before, states whose z is negative leave and those that the residual asks for enter, all at once as long
    as they become fewer, else one by one. Where that does not end, as it may where two supports fit equally well, all
    are tried. Pixels that are not finite stay as they are.
    """
    n_states = len(triangle)
    every = (1 << n_states) - 1
    b, z, rest = np.empty(n_states), np.empty(n_states), np.empty(n_states)
    rounding, support = _ROUNDING * np.abs(triangle).max(), every
    for n in range(first, last):
        if not where[n]:
            continue
        size = 0.0
        for i in range(n_states):
            b[i] = white[i, n]
            size += abs(b[i])
        if not size < np.inf:
            continue
        settled, fewest, patience = False, n_states + 1, _AT_ONCE
        for _ in range(_EXCHANGES):
            change, changes, highest = 0, 0, 0
            for i in range(n_states):
                z[i] = 0.0
                if support >> i & 1:
                    for j in range(n_states):
                        z[i] += inverses[support, i, j] * b[j]
                    if z[i] < 0:
                        highest, changes = 1 << i, changes + 1
                        change |= highest
            if support != every:
                for i in range(n_states):
                    rest[i] = b[i]
                    for j in range(n_states):
                        rest[i] -= triangle[i, j] * z[j]
                for i in range(n_states):
                    if not support >> i & 1:
                        pull = 0.0
                        for j in range(n_states):
                            pull += triangle[j, i] * rest[j]
                        if pull > rounding * size:
                            highest, changes = max(highest, 1 << i), changes + 1
                            change |= 1 << i
            if change == 0:
                settled = True
                break
            if changes < fewest:
                fewest, patience = changes, _AT_ONCE
            elif patience > 0:
                patience -= 1
            else:
                change = highest
            support ^= change
        if not settled:
            support, least = 0, np.inf
            for tried in range(every + 1):
                feasible, residual = True, 0.0
                for i in range(n_states):
                    z[i] = 0.0
                    for j in range(n_states):
                        z[i] += inverses[tried, i, j] * b[j]
                    feasible &= z[i] >= 0
                for i in range(n_states):
                    rest[i] = b[i]
                    for j in range(n_states):
                        rest[i] -= triangle[i, j] * z[j]
                    residual += rest[i] * rest[i]
                if feasible and residual < least:
                    support, least = tried, residual
            for i in range(n_states):
                z[i] = 0.0
                for j in range(n_states):
                    z[i] += inverses[support, i, j] * b[j]
        for i in range(n_states):
            out[i, n] = max(z[i], 0.0)
