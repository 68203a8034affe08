"""Linear combination fitting: exact non-negative least squares per pixel (up to six states)."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Matrix
from txm_stream.errors import BadReferenceError
from txm_stream.row_threads import over_rows


def nonnegative(white: AnyArray, triangle: Matrix, *, where: AnyArray | None = None) -> AnyArray:
    """Return z ≥ 0 (L, N) that minimises ‖white − R z‖² in every pixel, exactly.

    Parameters
    ----------
    white
        (L, N), see :mod:`txm_stream.unmixing.design`.
    triangle
        R, (L, L); it may also be rotated.
    where
        Pixels (N,) that are wanted; z = 0 in the others.
    """
    from txm_stream.unmixing.nonnegative_loop import MAX_STATES, fit

    n_states, pixels = white.shape
    if n_states > MAX_STATES:
        raise BadReferenceError(f"exact fitting takes up to {MAX_STATES} states, got {n_states}; choose a subset")
    basis = np.asarray(triangle, dtype=np.float64)
    table = np.zeros((1 << n_states, MAX_STATES, MAX_STATES))
    table[:, :n_states, :n_states] = _all_supports(basis).transpose(0, 2, 1)
    wanted = np.ones(pixels, dtype=bool) if where is None else np.ascontiguousarray(where)
    out = np.zeros(white.shape, dtype=white.dtype)
    over_rows(fit, (pixels, n_states * n_states), white, np.ascontiguousarray(basis), table, wanted, out)
    return out


def _all_supports(basis: Matrix) -> AnyArray:
    """Return for every support the matrix (L, L) that gives z and the pull from b, from one decomposition of all."""
    n_states = len(basis)
    inside = (np.arange(1 << n_states)[:, None] >> np.arange(n_states) & 1).astype(bool)
    left, values, right = np.linalg.svd(basis * inside[:, None, :])
    kept = np.arange(n_states) < inside.sum(axis=1)[:, None]
    onto = left.transpose(0, 2, 1) * kept[:, :, None]
    inverse = right.transpose(0, 2, 1) @ (onto / np.where(kept, values, 1.0)[:, :, None])
    return np.asarray(np.where(inside[:, :, None], inverse, basis.T - basis.T @ left @ onto))


def split_scale(scaled: AnyArray, *, out: AnyArray | None = None) -> tuple[AnyArray, AnyArray]:
    """Split z = s·x (L, N) ≥ 0 into abundances x (L, N) on the simplex and scale s (N,); x = 1/L where s = 0.

    ``out``, which may be ``scaled``, is where the abundances are written.
    """
    scale = scaled.sum(axis=0)
    with np.errstate(invalid="ignore"):
        abundances = np.divide(scaled, scale, out=out)
    np.copyto(abundances, 1.0 / len(scaled), where=~(scale > 0))
    return abundances, scale
