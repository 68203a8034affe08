"""The scan that steers itself: after every visit the plan asks which energy is next, and ends when the map is good."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, RunEngineControlException, short_uid

from txm_stream.callbacks.advisor import Choice, EnergyAdvisor, Source
from txm_stream.callbacks.plans import Plan, XanesDevices, put_back, start_metadata, take_darks
from txm_stream.callbacks.steering import START_KEY
from txm_stream.callbacks.stream import XanesStream
from txm_stream.energies.rules import SAME_EV, wants_flat
from txm_stream.errors import BadStackError
from txm_stream.profile import Steering

logger = logging.getLogger("txm_stream")

_MOST_REFUSALS = 10
STREAM = "advice"
"""Stream of the raw run: one event per visit says where its energy came from, and why."""


class AdviceRecord:
    """What the plan decided, as a device that is read into the stream "advice" of the raw run."""

    name = STREAM
    parent = None

    def __init__(self) -> None:
        self._choice = Choice(None, "planned", "")

    def put(self, choice: Choice) -> None:
        """Take a decision."""
        self._choice = choice

    def read(self) -> dict[str, Any]:
        """Return the decision."""
        now, choice = time.time(), self._choice
        values = {
            "advised_energy_eV": float("nan") if choice.energy_eV is None else choice.energy_eV,
            "advice_source": choice.source,
            "advice_reason": choice.reason,
            "advice_rmse": choice.predicted_rmse,
        }
        return {name: {"value": value, "timestamp": now} for name, value in values.items()}

    def describe(self) -> dict[str, Any]:
        """Describe it."""
        number = {"source": "txm-stream", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        text = {"source": "txm-stream", "dtype": "string", "shape": []}
        return {
            "advised_energy_eV": {**number, "units": "eV"},
            "advice_source": text,
            "advice_reason": text,
            "advice_rmse": number,
        }

    def read_configuration(self) -> dict[str, Any]:
        """Return nothing: there is no configuration."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Return nothing: there is no configuration."""
        return {}


@dataclass(eq=False)
class _Progress:
    """What the plan has done so far."""

    visited_eV: list[float] = field(default_factory=list)
    flats_eV: list[float] = field(default_factory=list)
    refused_eV: list[float] = field(default_factory=list)
    source: Source = "advice"
    reason: str = ""


def adaptive_xanes(
    devices: XanesDevices,
    advisor: EnergyAdvisor | XanesStream,
    energies_eV: Sequence[float] = (),
    *,
    steering: Steering | None = None,
    n_darks: int = 1,
    sample: str = "",
    exposure_time: float | None = None,
    note: str = "",
    zone_plate: Mapping[str, Any] | None = None,
    camera_timeout_s: float = 120.0,
    tries: int = 3,
    clock: Callable[[], float] | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Scan the energies that the running stream advises, until the map is good enough.

    Parameters
    ----------
    devices
        Energy axis, camera, sample stage and shutter.
    advisor
        The :class:`XanesStream` that is subscribed to this RunEngine, or an :class:`EnergyAdvisor` over it.
    energies_eV
        The beamline's own list in eV: says where energies may lie, unless the rules do, and is taken in its order
        whenever advice is late. Without it a scan without advice ends.
    steering
        Rules, costs and targets; default: those of the stream's profile. They go into the start document.
    n_darks, sample, exposure_time, note, zone_plate, md
        As in :func:`.xanes_scan`.
    camera_timeout_s, tries
        An exposure that takes longer, or fails, is tried again; after so many tries the scan fails.
    clock
        Returns seconds, for ``steering.most_s``; default: real ones.

    Returns
    -------
    The uid of the run.

    Raises
    ------
    BadStackError
        ``tries`` is less than 1.

    Notes
    -----
    Every visit begins at a checkpoint: the plan may be paused, resumed and aborted at any time. Advice outside the
    allowed windows is not followed; an energy that the axis refuses is left out. The stream "advice" of the raw run
    says for every visit where its energy came from.
    """
    if tries < 1:
        raise BadStackError(f"tries is {tries}; at least one is needed")
    planned = [float(energy) for energy in energies_eV]
    if isinstance(advisor, XanesStream):
        advisor = EnergyAdvisor(advisor, planned, steering=steering)
    rules = steering or advisor.steering
    metadata = start_metadata(
        devices,
        planned or [float(devices.energy.position)],
        plan_name="adaptive_xanes",
        n_darks=n_darks,
        flats="none" if rules.flats == "none" else "each",
        sample=sample,
        exposure_time=exposure_time,
        note=note,
        zone_plate=zone_plate,
    )
    metadata |= {"flats": rules.flats, "eng_list": planned, "num_eng": len(planned)}
    metadata |= {START_KEY: rules.model_dump(mode="json"), **(md or {})}
    metadata.pop("num_points")  # nobody knows
    progress = _Progress()

    def visits(run_uid: str) -> Plan:
        now = clock or time.monotonic
        record, began = AdviceRecord(), now()
        yield from take_darks(devices, n_darks)
        while True:
            choice = yield from _ask(advisor, progress, run_uid)
            if rules.most_s is not None and now() - began >= rules.most_s:
                choice = Choice(None, "advice", f"the time of {rules.most_s:g} s is over")
            lost = choice.source != "advice" and choice.source != progress.source
            level = logging.WARNING if lost else logging.INFO
            logger.log(level, "visit %d, %s: %s", len(progress.visited_eV) + 1, choice.source, choice.reason)
            progress.source = choice.source
            if choice.energy_eV is None:
                progress.reason = choice.reason
                logger.info("the scan ends after %d visits: %s", len(progress.visited_eV), choice.reason)
                return
            yield from bps.checkpoint()
            if not (yield from _approach(devices, choice.energy_eV, rules, progress)):
                continue
            record.put(choice)
            yield from bps.create(name=STREAM)
            yield from bps.read(record)
            yield from bps.save()
            yield from _expose(devices, "primary", camera_timeout_s, tries)
            progress.visited_eV.append(choice.energy_eV)
            if wants_flat(rules, choice.energy_eV, flats_eV=progress.flats_eV):
                yield from bps.mv(devices.sample_x, devices.sample_out)
                for _ in range(rules.flat_exposures):
                    yield from _expose(devices, "flat", camera_timeout_s, tries)
                yield from bps.mv(devices.sample_x, devices.sample_in)
                progress.flats_eV.append(choice.energy_eV)

    def run() -> Plan:
        uid = yield from bps.open_run(metadata)

        def failed(error: BaseException) -> Plan:
            if isinstance(error, RunEngineControlException):
                yield from bps.close_run(exit_status=error.exit_status)
            else:
                yield from bps.close_run(exit_status="fail", reason=str(error))

        def done() -> Plan:
            yield from bps.close_run(exit_status="success", reason=progress.reason)

        yield from bpp.contingency_wrapper(visits(uid), except_plan=failed, else_plan=done)
        return uid

    return (yield from bpp.finalize_wrapper(bpp.stage_wrapper(run(), [devices.camera]), put_back(devices)))


def _ask(advisor: EnergyAdvisor, progress: _Progress, run_uid: str) -> Plan:
    """Ask for the next energy on another thread: the RunEngine's loop goes on meanwhile."""
    answer: list[Choice] = []
    seq = len(progress.visited_eV)

    async def waiter() -> None:
        loop = asyncio.get_running_loop()
        choice = await loop.run_in_executor(
            None,
            lambda: advisor.next(seq, visited_eV=progress.visited_eV, refused_eV=progress.refused_eV, run_uid=run_uid),
        )
        answer.append(choice)

    yield from bps.wait_for([waiter])
    return answer[-1]


def _approach(devices: XanesDevices, energy_eV: float, rules: Steering, progress: _Progress) -> Plan:
    """Go to an energy, from below if the rules say so; return whether the axis is there."""
    now = progress.visited_eV[-1] if progress.visited_eV else float(devices.energy.position)
    try:
        if not progress.visited_eV or abs(now - energy_eV) > SAME_EV or progress.refused_eV:
            if rules.backlash_eV and energy_eV < now:
                yield from bps.mv(devices.energy, energy_eV - rules.backlash_eV)
            yield from bps.mv(devices.energy, energy_eV)
        yield from bps.mv(devices.sample_x, devices.sample_in)
    except (FailedStatus, ValueError, TimeoutError) as error:
        progress.refused_eV.append(energy_eV)
        logger.warning("the energy axis refused %.2f eV (%s); it is left out", energy_eV, error or type(error).__name__)
        if len(progress.refused_eV) > _MOST_REFUSALS:
            raise
        return False
    return True


def _expose(devices: XanesDevices, stream: str, timeout_s: float, tries: int) -> Plan:
    """Take one event; an exposure that fails or takes too long is tried again."""
    for attempt in range(1, tries + 1):
        group = short_uid("expose")
        try:
            yield from bps.trigger(devices.camera, group=group)
            yield from bps.wait(group, timeout=timeout_s)
            break
        except (FailedStatus, TimeoutError) as error:
            if attempt == tries:
                raise
            logger.warning("exposure for %s: %s, try %d of %d", stream, type(error).__name__, attempt + 1, tries)
    yield from bps.create(name=stream)
    yield from bps.read(devices.camera)
    yield from bps.read(devices.energy)
    yield from bps.save()
