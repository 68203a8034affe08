"""Linear combination fitting: exact non-negative least squares per pixel (up to six states)."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import AnyArray, Matrix
from txm_stream.errors import BadReferenceError
from txm_stream.row_threads import over_rows

_ALIKE = 1e-13
"""States whose difference is smaller than this are one."""


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
    table[:, :n_states, :n_states] = _on_supports(basis)
    wanted = np.ones(pixels, dtype=bool) if where is None else np.ascontiguousarray(where)
    out, channels = np.zeros(white.shape, dtype=white.dtype), np.ascontiguousarray(white)
    over_rows(fit, (pixels, n_states * n_states), channels, np.ascontiguousarray(basis), table, wanted, out)
    return out


def _on_supports(basis: Matrix) -> AnyArray:
    """Return for every support the pseudo-inverse (L, L) of the states in it, zero in the rows of the others."""
    n_states = len(basis)
    inside = (np.arange(1 << n_states)[:, None] >> np.arange(n_states) & 1).astype(bool)
    inverse = np.linalg.pinv(basis * inside[:, None, :], rcond=_ALIKE)
    return np.where(inside[:, :, None], inverse, 0.0)


def split_scale(scaled: AnyArray, *, out: AnyArray | None = None) -> tuple[AnyArray, AnyArray]:
    """Split z = s·x (L, N) ≥ 0 into abundances x (L, N) on the simplex and scale s (N,); x = 1/L where s = 0.

    ``out``, which may be ``scaled``, is where the abundances are written.
    """
    from txm_stream.unmixing.nonnegative_loop import split

    n_states, pixels = scaled.shape
    scale = np.empty(pixels, dtype=scaled.dtype)
    abundances = np.empty_like(scaled) if out is None else out
    over_rows(split, (pixels, n_states), np.ascontiguousarray(scaled), abundances, scale)
    return abundances, scale
