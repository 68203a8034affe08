"""Parts of the demo: the simulated microscope and its files, the RunEngine, the raw run, the runs compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from txm_stream.arrays import Vector
from txm_stream.frames import Frame
from txm_stream.profile import Profile, Steering

if TYPE_CHECKING:
    from txm_stream.phantoms.particles import Chemistry
    from txm_stream.simulated_devices import SimulatedTXM

_RAW_BATCH = 20
_DEADLINE_S = 5.0
_REFERENCE_STEP_EV = 0.25


@dataclass(frozen=True)
class DemoOptions:
    """What is simulated. ``photons``: quanta per pixel and energy in the open beam; ``jitter_px``: rms per axis.

    ``folder``: of the embedded server, kept; ``None``: a temporary one, removed at the end. ``exposure_s``: real time
    per frame; ``None``: the pace of a real scan, see :attr:`pace_s`; 0: as fast as the simulation. ``page``: show the
    live page, and go on showing it until Ctrl-C. ``compare``: also the same scan without jitter, and without
    registration. ``adaptive``: a scan that steers itself, until the final map's predicted error is ``target_rmse``;
    ``energies`` are then planned ones, and the most visits that are made.
    """

    size: int = 256
    energies: int = 60
    photons: float = 500.0
    jitter_px: float = 2.0
    states: int = 2
    chemistry: Chemistry = "core-shell"
    seed: int = 0
    folder: Path | None = None
    registration: bool = True
    delivery: Literal["hdf5", "inline"] = "hdf5"
    exposure_s: float | None = None
    page: bool = False
    compare: bool = True
    adaptive: bool = False
    target_rmse: float = 0.02

    @property
    def pace_s(self) -> float:
        """Real time per frame: 0.025 s for small frames, 0.4 s at 1024², in proportion to the pixels."""
        return max(0.025, 0.4 * (self.size / 1024) ** 2) if self.exposure_s is None else self.exposure_s


@dataclass(frozen=True)
class Simulation:
    """A simulated microscope, what it will measure, and where its files are."""

    txm: SimulatedTXM
    energies_eV: Vector
    profile: Profile
    truth_path: Path

    def md(self) -> dict[str, Any]:
        """Return what the start document says, so that a replay finds truth and references."""
        return {
            "truth": str(self.truth_path),
            "reference_files": [str(path) for path in self.profile.references],
            "simulated": {"registration": self.profile.registration},
        }


def simulate(options: DemoOptions, folder: Path) -> Simulation:
    """Make the microscope; camera files, references and truth go into ``folder``, working files below it."""
    txm = make_txm(options, delivery=options.delivery, camera=folder / "camera")
    profile = Profile(
        registration=options.registration,
        references=write_references(txm, folder / "references"),
        scratch_dir=folder / "scratch",
        steering=Steering(target_rmse=options.target_rmse, most_visits=options.energies, deadline_s=_DEADLINE_S),
    )
    return Simulation(txm, simulated_energies(options), profile, folder / "truth.npz")


def make_txm(options: DemoOptions, *, delivery: Any = "inline", camera: Path | None = None) -> SimulatedTXM:
    """Return the microscope of the options."""
    from txm_stream.simulated_devices import SimulatedTXM

    return SimulatedTXM(
        (options.size, options.size),
        n_states=options.states,
        chemistry=options.chemistry,
        photons=options.photons,
        jitter_px=options.jitter_px,
        seed=options.seed,
        exposure_s=options.pace_s,
        delivery=delivery,
        directory=camera,
    )


def simulated_energies(options: DemoOptions) -> Vector:
    """Return the energies of the scan (T,) in eV."""
    from txm_stream.phantoms import nickel_energies

    return nickel_energies(options.energies)


def write_references(txm: SimulatedTXM, folder: Path) -> tuple[Path, ...]:
    """Write the spectra of the phantom's states as two-column text files named by the state."""
    folder.mkdir(parents=True, exist_ok=True)
    spectra = txm.microscope.phantom.spectra
    energies = np.arange(8200.0, 8500.0 + _REFERENCE_STEP_EV, _REFERENCE_STEP_EV)
    paths = []
    for name, spectrum in zip(spectra.names, spectra(energies).T, strict=True):
        paths.append(folder / f"{name}.txt")
        np.savetxt(paths[-1], np.column_stack([energies, spectrum]), fmt="%.17g", header="energy_eV norm")
    return tuple(paths)


def last_scan_id(client: Any) -> int:
    """Return the scan id of the latest run in a catalog, 0 where there is none."""
    from tiled.queries import SpecsQuery

    runs = client.search(SpecsQuery(include=["BlueskyRun"], exclude=[])).sort(("start.time", -1))
    return max((int(run.start.get("scan_id") or 0) for run in runs.values().head(1)), default=0)


@contextlib.contextmanager
def run_engine(scan_id: int = 0) -> Iterator[Any]:
    """Make a RunEngine whose next scan follows ``scan_id``, and end its thread afterwards; Ctrl-C ends its plan."""
    from bluesky import RunEngine

    engine = RunEngine({"scan_id": scan_id}, context_managers=[])
    try:
        yield engine
    finally:
        engine.loop.call_soon_threadsafe(engine.loop.stop)
        engine._th.join(5)
        engine.loop.close()


@contextlib.contextmanager
def stored_raw(client: Any, backup: Path) -> Iterator[Any]:
    """Yield a callback that writes the raw run into Tiled from a thread of its own, and wait for it at the end.

    Its queue is unlimited and its errors are logged, so that it neither slows nor ends the scan; with the server away
    the documents go to ``backup``.
    """
    from bluesky.callbacks.buffer import BufferingWrapper
    from bluesky_tiled_plugins import TiledWriter

    buffered = BufferingWrapper(TiledWriter(client, batch_size=_RAW_BATCH, backup_directory=str(backup)), queue_size=0)
    try:
        yield buffered
    finally:
        buffered.shutdown(wait=True)


def frames_of(txm: SimulatedTXM, energies_eV: Vector) -> Iterator[Frame]:
    """Yield the frames that the scan plan would take, straight from the microscope: dark, then sample and flat."""
    microscope = txm.microscope
    microscope.shutter_open = False
    yield Frame("dark", microscope.expose()[1], None, 1)
    microscope.shutter_open = True
    for seq, energy in enumerate(energies_eV, start=1):
        microscope.move_energy(float(energy))
        for role, inside in (("sample", True), ("flat", False)):
            microscope.sample_in = inside
            image = microscope.expose()[1]
            yield Frame(
                "sample" if role == "sample" else "flat", image, float(energy), seq, time=seq + 0.5 * (not inside)
            )
        microscope.sample_in = True
