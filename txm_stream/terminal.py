"""What the commands print: lines and JSON on standard output, progress on standard error where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from txm_stream.figures import json_line

_BAR = 24


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def json_printer(wanted: bool) -> Callable[[dict[str, Any]], None]:
    """Return what prints an object as one line of JSON, if that is wanted."""
    return lambda answer: say(json_line(answer)) if wanted else None


class Bar(Protocol):
    """Draws how far something is."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """Draw ``done`` of ``total``; a bar only where the total is known."""


def progress_bar(what: str, total: int | None = None) -> Bar | None:
    """Return what draws progress on standard error; ``None`` where that is no terminal.

    ``total`` stands where the call does not give one. At its end a bar is wiped, so that the next line begins on an
    empty one.
    """
    if not sys.stderr.isatty():
        return None

    def show(done: int, of: int | None = None, /) -> None:
        of = of or total
        line = f"{what} {done}"
        if of:
            full = _BAR * min(done, of) // of
            line = f"{line} of {of}  {'█' * full}{'░' * (_BAR - full)}" if done < of else ""
        print(f"\r{line}\x1b[K\r", end="", file=sys.stderr, flush=True)

    return show
