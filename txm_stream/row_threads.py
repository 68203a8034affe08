"""Compiled loops over the rows of images, on all cores; the answer does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

_Loop = TypeVar("_Loop", bound=Callable[..., Any])

_MOST = 8
_FEW_PIXELS = 64 * 1024


def compiled(*signatures: str) -> Callable[[_Loop], _Loop]:
    """Compile a function with Numba, to run without the interpreter's lock; kept on disk where that can be written.

    Parameters
    ----------
    signatures
        Types, as ``"void(f4[:,::1], i8)"``; other arguments are a TypeError.

    Notes
    -----
    A division by zero gives inf. Multiplications and additions are contracted, nothing else is reordered: the
    result does not depend on how rows are split between threads.
    """
    from numba import njit

    def compile_it(loop: _Loop) -> _Loop:
        def made(*, cache: bool) -> _Loop:
            decorate: Callable[[_Loop], _Loop] = njit(
                list(signatures), nogil=True, cache=cache, error_model="numpy", fastmath={"contract", "nsz"}
            )
            return decorate(loop)

        try:
            return made(cache=True)
        except RuntimeError:  # no folder that it could be kept in
            return made(cache=False)

    return compile_it


def inlined(part: _Loop) -> _Loop:
    """Mark a function that compiled loops call, to be compiled as part of them."""
    from numba import njit

    decorate: Callable[[_Loop], _Loop] = njit(inline="always")
    return decorate(part)


def over_rows(loop: Callable[..., None], shape: tuple[int, ...], *arguments: Any) -> None:
    """Call ``loop(*arguments, first, last)`` for blocks of rows of an image (y, x), at the same time if it is large."""
    rows = shape[0]
    blocks = min(_cores(), rows) if rows * shape[1] > _FEW_PIXELS else 1
    if blocks < 2:
        loop(*arguments, 0, rows)
        return
    cuts = [rows * block // blocks for block in range(blocks + 1)]
    others = [_pool().submit(loop, *arguments, first, last) for first, last in pairwise(cuts[:-1])]
    try:
        loop(*arguments, cuts[-2], rows)
    finally:
        wait(others)
    for done in others:
        done.result()


@lru_cache(maxsize=1)
def _cores() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(_cores() - 1, 1), thread_name_prefix="txm-rows")  # and the calling one
