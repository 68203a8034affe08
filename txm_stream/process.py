"""Process a measured stack: file in, result file and figure out, by the same pipeline as a live scan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import txm_stream
from txm_stream.arrays import AnyArray
from txm_stream.errors import BadProfileError, BadReferenceError
from txm_stream.frames import Frame
from txm_stream.given_references import (
    ReferenceFiles,
    any_given,
    doubts_about,
    hard_to_tell,
    load_given,
    reduce_library,
)
from txm_stream.io.measured_stack import MeasuredStack
from txm_stream.io.result_file import write_result
from txm_stream.io.stack_file import read_stack
from txm_stream.io.summary_figure import save_summary
from txm_stream.pipeline import Pipeline
from txm_stream.profile import Profile, Signal
from txm_stream.results import Result
from txm_stream.unmixing.choose_references import can_be_told_apart
from txm_stream.unmixing.references import References
from txm_stream.unmixing.unmix import unmix_stack

METHODS = ("auto", "rum+", "lcf", "vca")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ProcessReport:
    """What came out: ``energies`` (visits), ``states``, ``rank``, noise ``sigma`` in units of the ``signal``,
    ``predicted_rmse`` of the abundances, ``visits_in_fit``, rms of the shifts applied, the files, every warning."""

    energies: int
    states: tuple[str, ...]
    rank: int
    sigma: float
    predicted_rmse: float
    map_method: str
    signal: str
    visits_in_fit: int
    shift_rms_px: float
    output: Path
    figure: Path
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return the machine-readable summary: energies, states, rank, sigma, predicted_rmse, output and more.

        Figures that are not known are ``None``, so that it is valid JSON.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values |= {"states": list(self.states), "warnings": list(self.warnings)}
        values |= {"output": str(self.output), "figure": str(self.figure)}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}


def process_file(
    path: Path | str,
    *,
    energies: Path | str | AnyArray | None = None,
    references: ReferenceFiles = (),
    signal: Signal | None = None,
    output: Path | str | None = None,
    method: str = "auto",
    profile: Profile | Path | str | None = None,
    progress: Progress | None = None,
) -> ProcessReport:
    """Process a measured stack into one HDF5 file and a figure beside it.

    Parameters
    ----------
    path, energies, signal
        As in :func:`.read_stack`; ``signal`` is "counts", "transmission", "optical-density" or "fluorescence".
    references
        One file per state, or one library; ``FILE::name1,name2`` takes these columns. From a library whose states the
        energies cannot tell apart, those that the data ask for are chosen (:func:`.choose_references`), with a warning.
        Default: those of the profile; none: edge-50 and states found in the stack.
    output
        Result file; default ``<stem>_txm.h5`` in the current directory. The figure has the same name, ``.png``.
    method
        ``"auto"``: RUM+ with references, otherwise edge-50 and VCA; ``"rum+"``; ``"lcf"``: least squares per pixel;
        ``"vca"``: without references.
    profile
        A :class:`Profile` or its TOML file, for the camera and ``registration``; ``signal`` wins over the profile's.
    progress
        Called with (done, total) after every frame and at the end.

    Returns
    -------
    ProcessReport

    Raises
    ------
    BadStackError, BadReferenceError, BadProfileError
        The stack, its energies, the references or the method cannot be used as given.
    MissingFramesError
        No frame can be used.
    """
    if method not in METHODS:
        raise BadProfileError(f"method is {method!r}, allowed are: {', '.join(METHODS)}")
    chosen = Profile() if profile is None else profile if isinstance(profile, Profile) else Profile.load(profile)
    stack = read_stack(path, energies=energies, signal=signal)
    source = references if any_given(references) else chosen.references
    given, library = load_given(source)
    if method == "vca":
        given = None
    if method in ("rum+", "lcf") and given is None:
        raise BadReferenceError(f"method {method!r} needs reference spectra; give them, or use 'vca' or 'auto'")
    chosen = chosen.model_copy(update={"signal": stack.signal, "references": ()})
    target = Path.cwd() / f"{Path(str(path).partition('::')[0]).stem}_txm.h5" if output is None else Path(output)
    warnings = list(stack.notes)
    reduce = given is not None and library and not can_be_told_apart(given, stack.energies_eV)
    total = len(stack.frames) + 1
    with Pipeline(chosen, references=None if reduce else given) as pipeline:
        take = pipeline.ingest if reduce else pipeline.keep
        for frame in frames_of(stack):
            take(frame)
            if progress is not None and frame.role == "sample":
                progress(frame.seq, total)
        if reduce and given is not None:
            given, note = reduce_library(given, stack.energies_eV, pipeline.snapshot())
            warnings.append(note)
            pipeline.references = given
        elif given is not None:
            warnings += hard_to_tell(given, stack.energies_eV)
        result = pipeline.finish()
        if method == "lcf":
            result = _least_squares(result)
        result = _with_provenance(result, stack, source if given is not None else (), warnings)
        write_result(target, result, title=stack.name, pixel_nm=stack.pixel_nm)
        figure = save_summary(target.with_suffix(".png"), result, title=stack.name)
        report = _report(result, stack, target, figure)
    if progress is not None:
        progress(total, total)
    return report


def frames_of(stack: MeasuredStack) -> Iterator[Frame]:
    """Yield the frames of a stack in the order in which a pipeline wants them: darks, flats, samples."""
    if stack.darks is not None:
        yield Frame("dark", stack.darks, None, 1)
    if stack.flats is not None and len(stack.flats) == len(stack.frames):
        for index, (image, energy) in enumerate(zip(stack.flats, stack.energies_eV, strict=True)):
            yield Frame("flat", image, float(energy), index + 1, time=float(index))
    elif stack.flats is not None:
        yield Frame("flat", stack.flats, None, 1)
    for index, (image, energy) in enumerate(zip(stack.frames, stack.energies_eV, strict=True)):
        yield Frame("sample", image, float(energy), index + 1, time=float(index))


def _least_squares(result: Result) -> Result:
    """Replace the maps by those of non-negative least squares."""
    if result.references is None:
        return result
    sigma = np.array([row.sigma if row.sigma > 0 else 1.0 for row in result.metrics])
    maps = unmix_stack(
        result.noisy, result.references, energies_eV=result.energies_eV, method="lcf", sigma=sigma, mask=result.mask
    )
    return replace(
        result,
        phase_map=maps.abundances,
        phase_sigma=maps.sigma,
        scale=maps.scale,
        predicted_rmse=maps.predicted_rmse,
        map_method="lcf",
    )


def _with_provenance(
    result: Result,
    stack: MeasuredStack,
    references: ReferenceFiles,
    warnings: list[str],
) -> Result:
    files: dict[str, str] = {}
    if not isinstance(references, References):
        for entry in [references] if isinstance(references, (str, Path)) else references:
            file = Path(str(entry).partition("::")[0])
            files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    warnings = [*warnings, *doubts_about(result)]
    provenance = result.provenance | {
        "signal": stack.signal,
        "source": stack.name,
        "reference_files_sha256": files,
        "version": txm_stream.__version__,
    }
    return replace(result, provenance=provenance, warnings=(*warnings, *result.warnings))


def _report(result: Result, stack: MeasuredStack, output: Path, figure: Path) -> ProcessReport:
    shifts = result.shifts_px[np.isfinite(result.shift_sigma_px)]
    return ProcessReport(
        energies=len(result.energies_eV),
        states=result.states,
        rank=result.rank,
        sigma=result.sigma,
        predicted_rmse=result.predicted_rmse,
        map_method=result.map_method,
        signal=stack.signal,
        visits_in_fit=int(result.provenance.get("visits_in_fit", 0)),
        shift_rms_px=float(np.sqrt(np.mean((shifts - shifts.mean(axis=0)) ** 2))) if len(shifts) else 0.0,
        output=output,
        figure=figure,
        warnings=result.warnings,
    )
