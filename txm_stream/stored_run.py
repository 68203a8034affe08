"""Replay of a stored run from the command line: find it, and what belongs to it; process it; say what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from txm_stream.errors import MissingFramesError
from txm_stream.figures import measured_figures, simulated_figures, summary, verdict_line
from txm_stream.judgement import judge, load_truth
from txm_stream.profile import Profile

Say = Callable[[str], None]


def replay_stored(
    which: str,
    source: str,
    *,
    to: str | None = None,
    profile: Profile | None = None,
    references: tuple[Path, ...] = (),
    say: Say,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Process a stored run again; return the figures of the JSON line.

    Parameters
    ----------
    which
        ``"latest"``, a uid or the beginning of one, or a scan id.
    source, to
        Address of a Tiled server, or the folder of an embedded one; without ``to`` the results go back to ``source``.
    profile, references
        Default: what a simulated run says of itself, else the simulated beamline without references.
    say
        Prints a line of the readable summary.
    progress
        Called with (done, total) events read; the total is 0 where the run does not say.

    Raises
    ------
    UnreachableError, NoSuchRunError
        There is no such server or run.
    MissingFramesError
        The run has no final result; the message says why.
    """
    from txm_stream.callbacks.orders import orders_of
    from txm_stream.callbacks.sources import find_scan, open_source, open_target, replay

    with open_source(source, profile) as client, open_target(to, source, client, profile) as target:
        runs = find_scan(client, which, profile or Profile())
        start = runs[0].start
        folder = None if "://" in source else Path(source).resolve()
        profile = _profile(profile, references, start, folder)
        orders = orders_of(target, profile.results_path, str(start["uid"]))
        for order in orders:
            say(f"the operator's order of the run: {order}")
        total = sum(sum(((run.metadata.get("stop") or {}).get("num_events") or {}).values()) for run in runs)
        count = None if progress is None else lambda done: progress(done, total)
        report = replay(runs, to=target, profile=profile, orders=orders, progress=count)
        uri = str(target.context.api_uri).rstrip("/")
        if report.result is None or report.status != "final":
            raise MissingFramesError(f"run {report.run_uid[:8]} has no final result: {report.reason}")
        for line in summary(report, tiled_uri=uri, warnings=report.result.warnings):
            say(line)
        truth = _existing(start.get("truth"), folder)
        if truth is None:
            return measured_figures(report, report.result, tiled_uri=uri)
        verdict = judge(report.result, load_truth(truth))
        say(verdict_line("map", verdict))
        return simulated_figures(report, verdict, tiled_uri=uri)


def _profile(
    profile: Profile | None, references: tuple[Path, ...], start: dict[str, Any], folder: Path | None
) -> Profile:
    """Return the profile with references: those given, the profile's own, or those a simulated run names."""
    changes: dict[str, Any] = {}
    if profile is None:
        profile = Profile()
        simulated = start.get("simulated") or {}
        changes["registration"] = bool(simulated.get("registration", True))
    named = tuple(_existing(path, folder) for path in start.get("reference_files") or ())
    if references:
        changes["references"] = references
    elif not profile.references and all(named):
        changes["references"] = named
    return profile.model_copy(update=changes)


def _existing(path: Any, folder: Path | None) -> Path | None:
    """Return a file that a simulated run names, also where the server's folder was moved."""
    if not isinstance(path, str):
        return None
    here = Path(path)
    if folder is not None and not here.exists() and "simulated" in here.parts:
        last = len(here.parts) - 1 - here.parts[::-1].index("simulated")
        here = folder.joinpath(*here.parts[last:])
    return here if here.exists() else None
