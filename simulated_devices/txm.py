"""SimulatedTXM: energy axis, zone plate, sample stage, shutter and camera of one simulated microscope."""

from __future__ import annotations

import math
from pathlib import Path

from txm_stream.errors import BadFrameError
from txm_stream.phantoms import Jitter, Phantom, Truth, make_detector, make_phantom, suitable_gain
from txm_stream.phantoms.particles import Chemistry
from txm_stream.simulated_devices.axes import Axis, Shutter
from txm_stream.simulated_devices.camera import Delivery, SimulatedCamera
from txm_stream.simulated_devices.clock import Clock, RealClock
from txm_stream.simulated_devices.microscope import Fault, Microscope

START_EV = 8300.0
_ZONE_PLATE_UM_PER_EV = 5.09
_LARGEST_CHANGE = 0.1


class SimulatedTXM:
    """A transmission X-ray microscope at the Ni K edge, made of ophyd devices; works without a network.

    Parameters
    ----------
    shape
        Image size (y, x) in px.
    n_states, chemistry
        The sample, see :func:`txm_stream.phantoms.make_phantom`; ``phantom`` overrides both and ``shape``.
    photons
        Detected quanta per pixel in the open beam, all ``chunk_size`` frames of an event together.
    jitter_px
        Rms motion of the image along each axis at every energy move in px; a drift of that size is added.
    flicker
        Rms of the relative beam intensity from event to event.
    seed
        Same seed and same plan: same frames, whatever the delivery.
    chunk_size
        Frames per event.
    exposure_s
        Real time per frame in s; 0 takes as long as the simulation needs.
    delivery, directory, shared_file
        See :class:`~txm_stream.simulated_devices.camera.SimulatedCamera`.
    move_time_s, settle_time_s, move_s_per_eV
        Time of an energy move, of settling after it, and what every eV of the way adds, in s.
    sample_move_s, readout_s
        Time to take the sample out or in, and of the read-out after each event, in s.
    clock
        With a :class:`~txm_stream.simulated_devices.clock.VirtualClock` nobody waits for these times; default: real.

    magnified_about_eV
        A pixel on the sample grows as the energy and is nominal there; default: the magnification is held.
    dark_adu
        Dark level of the camera in ADU.
    camera_name, energy_kev_name
        Names of the camera and of the axis in keV, for their data keys.

    Attributes
    ----------
    energy, energy_kev
        The energy axis in eV and the same in keV; setting either moves both.
    zone_plate
        Position of the zone plate in um; follows the energy.
    sample_x
        Sample stage in mm; at ``sample_in`` the sample is in the beam, elsewhere it is out (flats).
    shutter
        ``"open"`` or ``"closed"`` (darks).
    camera
        Its data key is ``camera_image``, unless it has another name.

    Notes
    -----
    The truth counts exposures. Where a pause makes the RunEngine repeat an event, it holds both exposures.
    """

    sample_in = 0.0
    sample_out = 5.0
    shutter_open = "open"
    shutter_closed = "closed"

    def __init__(
        self,
        shape: tuple[int, int] = (256, 256),
        *,
        n_states: int = 2,
        chemistry: Chemistry = "core-shell",
        photons: float = 500.0,
        jitter_px: float = 2.0,
        flicker: float = 0.02,
        seed: int = 0,
        chunk_size: int = 5,
        exposure_s: float = 0.0,
        delivery: Delivery = "inline",
        directory: str | Path | None = None,
        shared_file: bool = False,
        move_time_s: float = 0.0,
        settle_time_s: float = 0.0,
        move_s_per_eV: float = 0.0,
        sample_move_s: float = 0.0,
        readout_s: float = 0.0,
        clock: Clock | None = None,
        phantom: Phantom | None = None,
        magnified_about_eV: float | None = None,
        dark_adu: float = 100.0,
        camera_name: str = "camera",
        energy_kev_name: str = "energy_kev",
    ) -> None:
        jitter = Jitter(jitter_px, seed=seed)
        shrinks_px = 0 if magnified_about_eV is None else math.ceil(_LARGEST_CHANGE * max(shape) / 2)
        margin = max(24, math.ceil(jitter.largest_px) + shrinks_px)
        if phantom is None:
            phantom = make_phantom(shape, n_states=n_states, chemistry=chemistry, seed=seed, margin=margin)
        elif phantom.margin < jitter.largest_px:
            raise BadFrameError(
                f"the phantom's margin is {phantom.margin} px, a jitter of {jitter_px} px needs {margin}"
            )
        gain = suitable_gain(photons / chunk_size)
        self.microscope = Microscope(
            phantom=phantom,
            detector=make_detector(phantom.shape, seed=seed, electrons_per_adu=gain, offset_adu=dark_adu),
            jitter=jitter,
            photons=photons,
            chunk_size=chunk_size,
            flicker=flicker,
            seed=seed,
            energy_eV=START_EV,
            magnified_about_eV=magnified_about_eV,
        )
        self.clock: Clock = clock or RealClock()
        self.energy = Axis(
            name="energy",
            egu="eV",
            position=START_EV,
            limits=(5000.0, 20000.0),
            on_arrival=self._moved_to,
            move_time_s=move_time_s,
            settle_time=settle_time_s,
            seconds_per_unit=move_s_per_eV,
            clock=self.clock,
        )
        self.energy_kev = Axis(
            name=energy_kev_name,
            egu="keV",
            position=START_EV / 1000,
            limits=(5.0, 20.0),
            on_arrival=lambda energy_kev: self._moved_to(round(1000 * energy_kev, 6)),
            move_time_s=move_time_s,
            settle_time=settle_time_s,
            seconds_per_unit=1000 * move_s_per_eV,
            clock=self.clock,
        )
        zone_plate_um = _ZONE_PLATE_UM_PER_EV * START_EV
        self.zone_plate = Axis(name="zone_plate", egu="um", position=zone_plate_um, limits=(0.0, 2e5))
        self.sample_x = Axis(
            name="sample_x",
            egu="mm",
            position=self.sample_in,
            limits=(-10.0, 10.0),
            on_arrival=self._stage_at,
            seconds_per_unit=sample_move_s / abs(self.sample_out - self.sample_in),
            clock=self.clock,
        )
        self.shutter = Shutter(name="shutter", on_change=self._shutter_is)
        self.camera = SimulatedCamera(
            name=camera_name,
            microscope=self.microscope,
            exposure_s=exposure_s,
            delivery=delivery,
            directory=None if directory is None else Path(directory),
            shared_file=shared_file,
            readout_s=readout_s,
            clock=self.clock,
        )

    @property
    def chunk_size(self) -> int:
        """Frames per event."""
        return self.microscope.chunk_size

    @property
    def exposure_time(self) -> float:
        """Nominal exposure time of one frame in s."""
        return float(self.camera.exposure_time.get())

    def fault(self, visit: int, kind: Fault = "dark") -> None:
        """Let visit number ``visit`` (from 0) go wrong: ``"dark"`` (beam dump) or ``"saturated"``."""
        self.microscope.add_fault(visit, kind)

    def truth(self) -> Truth:
        """Return the truth of the sample exposures so far."""
        return self.microscope.truth()

    def save_truth(self, path: str | Path) -> None:
        """Write the truth of the sample exposures so far to one ``.npz`` file."""
        self.truth().save(path)

    def _moved_to(self, energy_eV: float) -> None:
        self.microscope.move_energy(energy_eV)
        self.energy.follow(energy_eV)
        self.energy_kev.follow(energy_eV / 1000)
        self.zone_plate.follow(_ZONE_PLATE_UM_PER_EV * energy_eV)

    def _stage_at(self, position_mm: float) -> None:
        self.microscope.sample_in = abs(position_mm - self.sample_in) < 1.0

    def _shutter_is(self, open_now: bool) -> None:
        self.microscope.shutter_open = open_now
