"""Time of the simulated devices: real, or virtual so that hours of moves and exposures run in seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the devices need of time, in s."""

    def now(self) -> float:
        """Return the time."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def later(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Do something after some time; return what cancels it."""


class RealClock:
    """Time as it is."""

    def now(self) -> float:
        """Return the time in s."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(seconds, 0.0))

    def later(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Do something on a timer's thread."""
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
        return timer.cancel


class VirtualClock:
    """Time that only passes when a device takes some; nobody waits for it.

    Devices that move at the same time add up, as if they moved one after the other.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the time in s, 0 at first."""
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        """Let the time pass, at once."""
        with self._lock:
            self._now += max(seconds, 0.0)

    def later(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Let the time pass and act, at once; it cannot be cancelled any more."""
        self.sleep(seconds)
        action()
        return lambda: None
