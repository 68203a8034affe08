"""Pixels that some visits did not see: predicted from the visits that did, in the subspace of the stack.

A registered frame misses a strip along its border, another one in every visit. With y = V c + noise and the rows V_o of
the visits that saw a pixel, c = (V_oᵀ V_o)⁻¹ V_oᵀ y_o is unbiased; filling the other visits with V c makes every later
sum over visits exact, at the price of noise that grows as (V_oᵀ V_o)⁻¹.
"""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Image, Mask, Matrix, Vector

INFLATION_AT_MOST = 16.0
"""A pixel whose worst component has more than this many times the noise variance of a complete one is given up."""
_CHUNK = 4096


def complete(values: AnyArray, seen: Mask, basis: Matrix) -> tuple[Image, Vector]:
    """Fill whitened values (T, P) where ``seen`` (T, P) is False, from ``basis`` (T, K) with orthonormal columns.

    Returns
    -------
    filled
        (T, P) float32.
    inflation
        (P,), the noise variance of a projected pixel over that of a complete one, mean over components; ``inf`` where
        too few visits saw the pixel, whose values are then left as they are.

    References
    ----------
    Brand, "Incremental singular value decomposition of uncertain data with missing values", ECCV 2002,
    DOI 10.1007/3-540-47969-4_47, section 3.
    """
    filled = np.array(values, dtype=np.float32)
    inflation = np.full(values.shape[1], np.inf)
    for start in range(0, values.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        weight = seen[:, part].T.astype(np.float64)
        spread, axes = np.linalg.eigh(np.einsum("pt,tk,tl->pkl", weight, basis, basis, optimize=True))
        enough = np.flatnonzero(spread[:, 0] * INFLATION_AT_MOST > 1)
        spread, axes, weight = spread[enough], axes[enough], weight[enough]
        chosen = start + enough
        projected = (weight * values[:, chosen].T) @ basis
        loads = np.einsum("pkj,pj,plj,pl->pk", axes, 1 / spread, axes, projected, optimize=True)
        predicted = (basis @ loads.T).astype(np.float32)
        filled[:, chosen] = np.where(seen[:, chosen], values[:, chosen], predicted)
        inflation[chosen] = (1 / spread).mean(axis=1)
    return filled, inflation
