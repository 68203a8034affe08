"""How much memory this process and its children have taken at most, and whether an error says that there is no more."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_NO_MEMORY = ("allocate memory", "out of memory", "not enough memory")
"""What torch says, in a RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that there is no more memory: Python's, the system's, or torch's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
    return said or isinstance(error, MemoryError)


def memory_text() -> str:
    """Return the peak resident memory of this process and of its living children."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    children = [peak for peak in map(_peak_bytes, _descendants(os.getpid())) if peak]
    if not children:  # no /proc: the largest child that has ended
        children = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit]
    parts = " + ".join(f"{size / 1e6:.0f}" for size in (own, *children))
    return f"at most {(own + sum(children)) / 1e6:.0f} MB resident (this process and its children: {parts})"


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text(encoding="ascii").split()):
            found += [child, *_descendants(child)]
    return found


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0
