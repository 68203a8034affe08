"""Phantoms measured by the real plans and RunEngine on simulated devices with a virtual clock, from list or advice."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.callbacks import EnergyAdvisor, XanesStream, adaptive_xanes
from txm_stream.callbacks.advisor import Choice
from txm_stream.callbacks.documents import FrameAssembler
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.demo_parts import run_engine
from txm_stream.frames import Frame
from txm_stream.judgement import judge
from txm_stream.phantoms import Truth, nickel_states
from txm_stream.pipeline import Pipeline
from txm_stream.profile import Profile, Steering
from txm_stream.results import Result
from txm_stream.simulated_devices import SimulatedTXM, VirtualClock
from txm_stream.unmixing import References

GRID_EV = np.arange(8150.0, 8850.0, 0.25)
PHOTONS = {"low noise": 500.0, "high noise": 100.0}
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Case:
    """A phantom and its noise."""

    n_states: int
    chemistry: Any
    seed: int
    noise: str
    size: int

    def txm(self) -> SimulatedTXM:
        """Return its microscope; the same frames every time."""
        return SimulatedTXM(
            (self.size, self.size),
            n_states=self.n_states,
            chemistry=self.chemistry,
            photons=PHOTONS[self.noise],
            seed=self.seed,
            exposure_s=0.1,
            move_time_s=3.0,
            sample_move_s=1.0,
            clock=VirtualClock(),
        )

    def references(self, shift_eV: float = 0.0) -> References:
        """Return the true spectra, with the energies off by ``shift_eV``."""
        spectra = nickel_states(self.n_states)
        return References(spectra.names, GRID_EV, spectra(GRID_EV - shift_eV))

    def __str__(self) -> str:
        return f"{self.n_states} states, {self.chemistry}, seed {self.seed}, {self.noise}"


@dataclass(eq=False)
class Scan:
    """What one scan brought: frames with the number of sample frames before them, seconds, advice."""

    truth: Truth
    frames: list[tuple[int, Frame]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    energies_eV: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)

    def finish(self, visits: int, references: References | None, profile: Profile) -> tuple[Result, Truth]:
        """Return the final result of the first visits, and their truth."""
        with Pipeline(profile, references=references) as pipeline:
            for before, frame in self.frames:
                if before <= visits:
                    pipeline.keep(frame)
            result = pipeline.finish()
        return result, first_visits(self.truth, visits)


def first_visits(truth: Truth, visits: int) -> Truth:
    """Return the truth of the first visits."""
    cut = {name: getattr(truth, name)[:visits] for name in ("energies_eV", "spectra", "shifts_px", "flicker", "faults")}
    return Truth(**(vars(truth) | cut))


def error(result: Result, truth: Truth) -> float:
    """Return the abundance RMSE of the pixels inside the particles that have a map."""
    return judge(result, truth).mapped_rmse


class Taker:
    """Keeps the frames of a run, and when each sample frame came."""

    def __init__(self, profile: Profile, txm: SimulatedTXM) -> None:
        self.assembler = FrameAssembler(profile)
        self.txm = txm
        self.scan = Scan(txm.truth())
        self.samples = 0

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        for frame in self.assembler(name, document):
            if frame.role == "sample":
                self.samples += 1
                self.scan.energies_eV.append(float(frame.energy_eV or 0.0))
            if frame.role != "dark":
                del self.scan.seconds[self.samples - 1 :]
                self.scan.seconds.append(self.txm.clock.now())
            self.scan.frames.append((self.samples, frame))


def listed(case: Case, energies_eV: Sequence[float], profile: Profile) -> Scan:
    """Measure a list with the plain plan, a flat at every energy."""
    txm = case.txm()
    taker = Taker(profile, txm)
    with run_engine() as engine:
        engine.subscribe(taker)
        engine(xanes_scan(txm, [float(e) for e in energies_eV]))
    taker.scan.truth = txm.truth()
    return taker.scan


def steered(case: Case, visits: int, planned_eV: Sequence[float], references: References | None) -> Scan:
    """Measure what is advised, with the adaptive plan; the forecast after every visit is kept."""
    with tempfile.TemporaryDirectory() as folder:
        rules = Steering(most_visits=visits, deadline_s=PATIENCE_S, least_gain=0.0)
        paths = () if references is None else written(references, Path(folder) / "references")
        profile = Profile(scratch_dir=Path(folder) / "scratch", steering=rules, references=paths)
        txm = case.txm()
        taker = Taker(profile, txm)
        predicted: list[float] = []

        class Keeping(EnergyAdvisor):
            def next(self, seq: int, **known: Any) -> Any:
                choice = super().next(seq, **known)
                predicted.append(choice.predicted_rmse)
                return choice

        with run_engine() as engine, XanesStream(profile, worker="thread") as stream:
            stream.ready(PATIENCE_S)
            engine.subscribe(stream)
            engine.subscribe(taker)
            engine(adaptive_xanes(txm, Keeping(stream, planned_eV, judgement_s=PATIENCE_S), planned_eV))
            stream.wait(600)
        taker.scan.truth = txm.truth()
        taker.scan.predicted = predicted[1:]
        return taker.scan


def repeated(case: Case, energies_eV: Sequence[float], planned_eV: Sequence[float], draw: int) -> Scan:
    """Measure a steered scan again: same sample, energies and motion; quanta, read noise and flicker are drawn anew."""
    txm = case.txm()
    txm.microscope.seed = zlib.crc32(f"{case}, draw {draw}".encode())
    taker = Taker(Profile(), txm)

    class Reciting:
        steering = Steering()

        def next(self, seq: int, **_: Any) -> Choice:
            return Choice(energies_eV[seq] if seq < len(energies_eV) else None, "advice", "as before")

    with run_engine() as engine:
        engine.subscribe(taker)
        engine(adaptive_xanes(txm, Reciting(), planned_eV))
    taker.scan.truth = txm.truth()
    return taker.scan


def written(references: References, folder: Path) -> tuple[Path, ...]:
    """Write references as text files."""
    folder.mkdir(parents=True)
    paths = []
    for name, mu in zip(references.names, references.mu.T, strict=True):
        paths.append(folder / f"{name}.txt")
        np.savetxt(paths[-1], np.column_stack([references.energies_eV, mu]), fmt="%.17g", header="energy_eV norm")
    return tuple(paths)
