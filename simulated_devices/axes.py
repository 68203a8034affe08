"""Simulated axes and shutter: they take their time on a thread and tell the microscope when they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ophyd import Signal, SoftPositioner
from ophyd.status import Status

from txm_stream.simulated_devices.clock import Clock, RealClock


class Axis(SoftPositioner):  # type: ignore[misc]
    """A positioner that takes ``move_time_s`` and ``seconds_per_unit`` for its way, and then ``settle_time`` to settle.

    ``on_arrival`` is called with the new position before the move is reported as done. ``refuses`` says of a position
    whether the move to it fails, as on an axis with a fault.
    """

    def __init__(
        self,
        *,
        name: str,
        egu: str,
        position: float,
        limits: tuple[float, float],
        on_arrival: Callable[[float], None] = lambda position: None,
        move_time_s: float = 0.0,
        settle_time: float = 0.0,
        seconds_per_unit: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name=name, egu=egu, limits=limits, source=f"SIM:{name}", kind="hinted")
        self.move_time_s = move_time_s
        self.settle_time_s = settle_time
        self.seconds_per_unit = seconds_per_unit
        self.refuses: Callable[[float], bool] = lambda position: False
        self._clock = clock or RealClock()
        self._on_arrival = on_arrival
        self._cancel: Callable[[], None] = lambda: None
        self.follow(position)

    def describe(self) -> dict[str, Any]:
        """Describe the position, with its numpy type."""
        described: dict[str, Any] = super().describe()
        described[self.name].update(dtype="number", dtype_numpy="<f8", shape=[])
        return described

    def follow(self, position: float) -> None:
        """Show a position that another axis has caused; nothing is told to the microscope."""
        self._set_position(float(position))

    def stop(self, *, success: bool = False) -> None:
        """Stop where it stands; a move under way fails unless ``success``."""
        self._cancel()
        super().stop(success=success)

    def _setup_move(self, position: float, status: Any) -> None:
        self._run_subs(sub_type=self.SUB_START)
        self._started_moving = True
        self._moving = True
        way = abs(position - float(self.position))
        seconds = self.move_time_s + self.settle_time_s + self.seconds_per_unit * way
        if self.refuses(position):
            self._moving = False
            self._done_moving(success=False)
        elif seconds <= 0:
            self._arrive(position)
        else:
            self._cancel = self._clock.later(seconds, lambda: self._arrive(position))

    def _arrive(self, position: float) -> None:
        self._moving = False
        self._on_arrival(float(position))
        self._set_position(float(position))
        self._done_moving()


class Shutter(Signal):  # type: ignore[misc]
    """A shutter that is ``"open"`` or ``"closed"``."""

    def __init__(self, *, name: str, on_change: Callable[[bool], None]) -> None:
        super().__init__(name=name, value="open")
        self._on_change = on_change

    def set(self, value: str, **kwargs: Any) -> Any:
        """Open or close it at once; return a finished status."""
        if value not in ("open", "closed"):
            raise ValueError(f"shutter can be 'open' or 'closed', not {value!r}")
        self.put(value)
        self._on_change(value == "open")
        status = Status(obj=self)
        status.set_finished()
        return status
