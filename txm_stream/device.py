"""Where the numerics run: the CPU today; the choice is checked so that nobody believes otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from txm_stream.errors import BadProfileError

Device = Literal["auto", "cpu", "cuda"]


def check_device(device: str) -> None:
    """Check a device name; "cuda" must be there, although everything still runs on the CPU.

    Raises
    ------
    BadProfileError
        Another name, or "cuda" where PyTorch finds none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise BadProfileError(f"device is {device!r}, allowed are 'auto', 'cpu' and 'cuda'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadProfileError("device 'cuda' asked for, but PyTorch finds no CUDA here; use 'auto' or 'cpu'")


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
