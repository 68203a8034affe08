"""Where the numerics run: denoisers and resampling on a CUDA device if there is one, everything else on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from txm_stream.errors import BadProfileError

Device = Literal["auto", "cpu", "cuda"]


def compute_device(device: str) -> Literal["cpu", "cuda"]:
    """Return the device to compute on; "auto" is "cuda" where PyTorch finds it.

    Raises
    ------
    BadProfileError
        Another name, or "cuda" where PyTorch finds none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise BadProfileError(f"device is {device!r}, allowed are 'auto', 'cpu' and 'cuda'")
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise BadProfileError("device 'cuda' asked for, but PyTorch finds no CUDA here; use 'auto' or 'cpu'")
    return "cpu"


THREADS = 2
"""Numerical threads: sums come out the same on every machine only if they are split the same way."""


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Run with ``THREADS`` numerical threads, whatever the machine has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
