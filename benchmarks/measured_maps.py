"""Chemical maps of the measured stacks: how well halves of a scan agree, and what maps keep when noise is added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from txm_stream.arrays import AnyArray, Mask, Stack
from txm_stream.given_references import ReferenceFiles, load_given
from txm_stream.io import read_result, read_stack
from txm_stream.io.measured_stack import MeasuredStack
from txm_stream.process import process_file
from txm_stream.profile import Signal
from txm_stream.results import Result
from txm_stream.unmixing import References, unmix_stack

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
ADDED = (0, 2, 5, 15)
"""White noise added, % of the stack's range."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A measured stack as numbers to add noise to, and where its references come from."""

    name: str
    stack: MeasuredStack
    library: ReferenceFiles = ()

    def noisy(self, percent: int) -> Stack:
        """Return the frames (T, y, x) with white noise added; transmission becomes optical density."""
        clean = np.asarray(self.stack.frames, dtype=np.float32)
        if self.stack.signal == "transmission":
            clean = -np.log(np.maximum(clean, 1e-3))
        sigma = percent / 100 * float(np.nanmax(clean) - np.nanmin(clean))
        return clean + np.float32(sigma) * np.random.default_rng(percent).standard_normal(clean.shape, np.float32)

    @property
    def signal(self) -> Signal:
        """What :meth:`noisy` returns."""
        return "optical-density" if self.stack.signal == "transmission" else self.stack.signal


def stacks() -> list[Measured]:
    """Return the stacks that are here."""
    hxn, als = DATA / "hxn_fe_k", DATA / "als11022_stxm_Fe_L23_71214078.h5"
    found = []
    if hxn.is_dir():
        stack = read_stack(hxn / "test_stack.tiff", signal="fluorescence")
        found.append(Measured("HXN Fe K", stack, hxn / "test_ref_athena.nor"))
    if als.exists():
        found.append(Measured("ALS Fe L", read_stack(als, signal="transmission")))
    return found


def measured_part(folder: Path) -> None:
    """Print the table; figures and result files go to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    print("\n## Maps of measured stacks with white noise added, % of their range: ours / least squares per pixel")
    print(
        "Halves: correlation of the maps of even and odd energies, mean over states. Kept, changed: correlation with,"
    )
    print("and rms difference to, the map of the same method without added noise.")
    print("| stack | states | noise | halves | kept | changed | ours predicts | miss the fit |")
    print("|---|---|---|---|---|---|---|---|")
    for measured in stacks():
        known: ReferenceFiles = measured.library
        before: tuple[Stack, Stack] | None = None
        for percent in ADDED:
            frames = measured.noisy(percent)
            stem = folder / f"{measured.name.replace(' ', '_')}_{percent}"
            whole = _process(measured, frames, slice(None), known, stem)
            if before is None:  # what follows is asked for the states that the stack as it is shows
                known = _shown(measured, whole)
            maps = _both(whole)
            before = before or maps
            halves = [
                _both(_process(measured, frames, slice(k, None, 2), known, stem.with_name(f"half_{k}"))) for k in (0, 1)
            ]
            where, seen = _common(*halves[0], *halves[1]), _common(*maps, *before)
            agree = [_correlation(a[:, where], b[:, where]) for a, b in zip(*halves, strict=True)]
            kept = [_correlation(a[:, seen], b[:, seen]) for a, b in zip(maps, before, strict=True)]
            changed = [float(np.sqrt(np.mean((a - b)[:, seen] ** 2))) for a, b in zip(maps, before, strict=True)]
            cells = [f"{ours:.3f} / {plain:.3f}" for ours, plain in (agree, kept, changed)]
            print(
                f"| {measured.name} | {', '.join(whole.states)} | {percent} | " + " | ".join(cells)
                + f" | {whole.predicted_rmse:.3f} | {whole.provenance['misfit_share']:.0%} |",
                flush=True,
            )  # fmt: skip
    print(f"pictures: {folder}")


def _process(measured: Measured, frames: Stack, part: slice, references: ReferenceFiles, stem: Path) -> Result:
    file = stem.with_suffix(".stack.h5")
    with h5py.File(file, "w") as out:
        out["stack"], out["energy"] = frames[part], measured.stack.energies_eV[part]
    report = process_file(file, references=references, signal=measured.signal, output=stem.with_suffix(".h5"))
    file.unlink()
    return read_result(report.output)


def _shown(measured: Measured, whole: Result) -> References:
    """Return the states of the library that were chosen, or those that were found."""
    library, _ = load_given(measured.library)
    if library is not None:
        return library.subset(whole.states)
    assert whole.references is not None
    return References(whole.states, whole.energies_eV, whole.references)


def _both(result: Result) -> tuple[Stack, Stack]:
    """Return the abundances (L, y, x) of ours, and of least squares on the same registered frames."""
    assert result.phase_map is not None
    assert result.references is not None
    sigma = np.array([row.sigma if row.sigma > 0 else 1.0 for row in result.metrics])
    plain = unmix_stack(
        result.noisy, result.references, energies_eV=result.energies_eV, method="lcf", sigma=sigma, mask=result.mask
    )
    return result.phase_map, plain.abundances


def _common(*maps: Stack) -> Mask:
    return np.logical_and.reduce([np.isfinite(image).all(axis=0) for image in maps])


def _correlation(a: AnyArray, b: AnyArray) -> float:
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]))
