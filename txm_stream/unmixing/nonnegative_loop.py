"""Non-negative least squares in every pixel, compiled: block principal pivoting, on a table of all supports.

On a support the solution z and the pull Rᵀ(b − R z) on the states outside it are both linear in b: one matrix (L, L)
per support gives either, and its signs say which states leave and which enter. There are no branches per state, and
matrices are filled up to the same width, so that all states of a pixel are reckoned at once.

References
----------
Portugal, Júdice and Vicente, Math. Comput. 63, 625 (1994), DOI 10.1090/S0025-5718-1994-1250776-4.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled

MAX_STATES = 6
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
    table: AnyArray,
    where: AnyArray,
    out: AnyArray,
    first: int,
    last: int,
) -> None:
    """Write pixels ``first`` to ``last`` of z ≥ 0 (L, N) that minimises ‖b − R z‖² ``where`` it is asked for.

    ``table[m]`` (6, 6), zero beyond L, has for the states in the bits of m the columns of the transposed pseudo-inverse
    of R on them, and for the others those of (1 − R R⁺)ᵀR. From the support of the pixel before, states whose z is
    negative leave and those that are pulled in enter, all at once as long as they become fewer, else one by one. Where
    that does not end, as it may where two supports fit equally well, all are tried. Pixels that are not finite stay as
    they are.
    """
    n_states = len(triangle)
    every = (1 << n_states) - 1
    b, z = np.zeros(MAX_STATES), np.empty(MAX_STATES)
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
            for i in range(MAX_STATES):
                z[i] = 0.0
            for j in range(n_states):
                for i in range(MAX_STATES):
                    z[i] += table[support, j, i] * b[j]
            change, changes = 0, 0
            for i in range(MAX_STATES):
                wrong = 1 if (z[i] if support >> i & 1 else rounding * size - z[i]) < 0 else 0
                changes += wrong
                change |= wrong << i
            if change == 0:
                settled = True
                break
            if changes < fewest:
                fewest, patience = changes, _AT_ONCE
            elif patience > 0:
                patience -= 1
            else:
                while change & (change - 1):
                    change &= change - 1  # only the highest
            support ^= change
        if not settled:
            least = np.inf
            for tried in range(every + 1):
                feasible = True
                for i in range(n_states):
                    z[i] = 0.0
                    if tried >> i & 1:
                        for j in range(n_states):
                            z[i] += table[tried, j, i] * b[j]
                    feasible &= z[i] >= 0
                residual = 0.0
                for i in range(n_states):
                    rest = b[i]
                    for j in range(n_states):
                        rest -= triangle[i, j] * z[j]
                    residual += rest * rest
                if feasible and residual < least:
                    support, least = tried, residual
            for i in range(n_states):
                z[i] = 0.0
                for j in range(n_states):
                    z[i] += table[support, j, i] * b[j]
        for i in range(n_states):
            out[i, n] = max(z[i], 0.0) if support >> i & 1 else 0.0
