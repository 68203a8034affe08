"""Sums of weighted images in double precision, compiled, and what is read off them."""

from __future__ import annotations

from txm_stream.arrays import AnyArray
from txm_stream.row_threads import compiled

_STRETCH = 4096  # pixels; with nine sums 300 kB, which stay in a core's cache


@compiled("void(f8[::1],f4[::1],f8[:,::1],i8,i8)")
def add_image(weights: AnyArray, image: AnyArray, sums: AnyArray, first: int, last: int) -> None:
    """Add weights[k]·image (pixels,) to sums[k] for pixels ``first`` to ``last``."""
    for start in range(first, last, _STRETCH):
        stop = min(start + _STRETCH, last)
        for k in range(len(weights)):
            weight = weights[k]
            for x in range(start, stop):
                sums[k, x] += weight * image[x]


@compiled("void(f8[:,::1],f8[:,::1],f4[:,::1],i8,i8)")
def mix(mixing: AnyArray, sums: AnyArray, out: AnyArray, first: int, last: int) -> None:
    """Set out[l] to Σ_k mixing[l, k]·sums[k] for pixels ``first`` to ``last``, rounded at the end."""
    for x in range(first, last):
        for row in range(len(mixing)):
            total = 0.0
            for k in range(len(sums)):
                total += mixing[row, k] * sums[k, x]
            out[row, x] = total
