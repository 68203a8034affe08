"""The command line of txm-stream."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from txm_stream.cli_export import export
from txm_stream.cli_options import Json, ProfileFile, References
from txm_stream.cli_scan import order, watch
from txm_stream.errors import TxmStreamError
from txm_stream.terminal import json_printer as _json
from txm_stream.terminal import progress_bar as _progress
from txm_stream.terminal import say as _say

if TYPE_CHECKING:
    from txm_stream.doctor import Finding

app = typer.Typer(
    help="Live chemical maps with calibrated uncertainty for TXM-XANES scans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_OUTSIDE = ("httpx", "tiled", "h5py", "sqlite3")
"""Packages whose errors are about the world outside, not about our code."""


class Chemistry(StrEnum):
    """How the states are distributed."""

    core_shell = "core-shell"
    region = "region"


class Delivery(StrEnum):
    """How the camera delivers its frames."""

    hdf5 = "hdf5"
    inline = "inline"


class Method(StrEnum):
    """How maps are made."""

    auto = "auto"
    rum_plus = "rum+"
    lcf = "lcf"
    vca = "vca"


class Signal(StrEnum):
    """What the numbers in a file are."""

    optical_density = "optical-density"
    transmission = "transmission"
    fluorescence = "fluorescence"
    counts = "counts"


@app.command(epilog="Example:  txm-stream demo --headless --output results")
def demo(
    size: Annotated[int, typer.Option(min=32, max=2560, help="Pixels along each side.")] = 256,
    energies: Annotated[int, typer.Option(min=8, max=1000, help="Number of energies.")] = 60,
    photons: Annotated[float, typer.Option(min=1, help="Quanta per pixel and energy in the open beam.")] = 500.0,
    jitter: Annotated[float, typer.Option(min=0, help="Rms motion of the image in px.")] = 2.0,
    states: Annotated[int, typer.Option(min=2, max=5, help="Chemical states.")] = 2,
    chemistry: Annotated[Chemistry, typer.Option(help="How the states are distributed.")] = Chemistry.core_shell,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another sample and noise.")] = 0,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the server, kept; default: a temporary one.")
    ] = None,
    no_registration: Annotated[bool, typer.Option("--no-registration", help="Do not correct the jitter.")] = False,
    delivery: Annotated[Delivery, typer.Option(help="How the camera delivers its frames.")] = Delivery.hdf5,
    exposure: Annotated[
        float | None, typer.Option(min=0, help="Real time per frame in s; default: 0.025, at 1024 pixels 0.4.")
    ] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="A scan that steers itself and ends when good.")] = False,
    target: Annotated[float, typer.Option(min=1e-4, max=0.2, help="Error of the map at which that ends.")] = 0.02,
    headless: Annotated[bool, typer.Option("--headless", help="No live page; end with the summary.")] = False,
    json: Json = False,
) -> None:
    """Simulate a scan: RunEngine, live processing, Tiled, live page; compare the map with the truth."""
    from txm_stream.demo import run_demo
    from txm_stream.demo_parts import DemoOptions

    options = DemoOptions(
        size=size,
        energies=energies,
        photons=photons,
        jitter_px=jitter,
        states=states,
        chemistry=chemistry.value,
        seed=seed,
        folder=output,
        registration=not no_registration,
        delivery=delivery.value,
        exposure_s=exposure,
        page=not headless,
        adaptive=adaptive,
        target_rmse=target,
    )
    run_demo(options, _say, progress=_progress("energy", energies), done=_json(headless or json))


@app.command(epilog="Example:  txm-stream replay latest --from results --json")
def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="latest, a uid or its beginning, or a scan id.")],
    source: Annotated[str, typer.Option("--from", metavar="URI|DIR", help="Where the run is stored.")],
    to: Annotated[str | None, typer.Option(metavar="URI|DIR", help="Where results go; default: --from.")] = None,
    profile: ProfileFile = None,
    references: References = None,
    json: Json = False,
) -> None:
    """Process a stored run from Tiled through the same path; the answer is that of the live run."""
    from txm_stream.profile import Profile
    from txm_stream.stored_run import replay_stored

    answer = replay_stored(
        run,
        source,
        to=to,
        profile=None if profile is None else Profile.load(profile),
        references=tuple(references or ()),
        say=_say,
        progress=_progress("event"),
    )
    _json(json)(answer)


@app.command(epilog="Example:  txm-stream process scan.h5 --references ref_NiO.txt --references ref_LiNiO2.txt")
def process(
    file: Annotated[str, typer.Argument(metavar="FILE", help="HDF5 or TIFF; FILE::/data/set names a dataset.")],
    energies: Annotated[Path | None, typer.Option(help="List of energies, where the file has none.")] = None,
    references: References = None,
    signal: Annotated[Signal | None, typer.Option(help="What the numbers are, where the file does not say.")] = None,
    output: Annotated[Path | None, typer.Option(help="Result file; default: <name>_txm.h5 here.")] = None,
    method: Annotated[Method, typer.Option(help="How maps are made.")] = Method.auto,
    profile: ProfileFile = None,
    json: Json = False,
) -> None:
    """Process a measured stack into one HDF5 file and a figure."""
    from txm_stream.process import process_file

    report = process_file(
        file,
        energies=energies,
        references=[str(path) for path in references or ()],
        signal=None if signal is None else signal.value,
        output=output,
        method=method.value,
        profile=profile,
        progress=_progress("frame"),
    )
    for warning in report.warnings:
        _say(f"warning: {warning}")
    _say(f"{report.energies} energies, {report.visits_in_fit} in the fit; states: {', '.join(report.states) or 'none'}")
    _say(f"rank {report.rank}, sigma {report.sigma:.4g}")
    _say(f"{report.map_method}: predicted RMSE {report.predicted_rmse:.4f}")
    _say(f"written: {report.output} and {report.figure}")
    _json(json)(report.summary())


@app.command(epilog="Example:  txm-stream view results --run latest")
def view(
    where: Annotated[str, typer.Argument(metavar="[URI|DIR]", help="Tiled server, or an embedded server's folder.")] = (
        "http://127.0.0.1:8000"
    ),
    run: Annotated[str, typer.Option(help="latest, a uid or its beginning, or a scan id.")] = "latest",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Show the live page of a Tiled server until Ctrl-C."""
    from txm_stream.page_exports import page_exporters
    from txm_stream.view.server import serve_view

    browse = not no_browser
    serve_view(where, run=run, host=host, port=port, exporters=page_exporters, open_browser=browse, show=_say)


@app.command(epilog="Example:  txm-stream energies --references ref_NiO.txt --references ref_LiNiO2.txt --n 24")
def energies(
    references: References = None,
    candidates: Annotated[
        Path | None, typer.Option(help="Energies to choose from, and to compare with; default: every 0.5 eV.")
    ] = None,
    n: Annotated[int | None, typer.Option(min=5, help="Visits, repeats counted.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Budget for moves and exposures, instead of --n.")
    ] = None,
    sigma: Annotated[float, typer.Option(min=1e-6, help="Noise of a visit, in edge jumps.")] = 0.05,
    move: Annotated[float, typer.Option(min=0, help="Time of a move to another energy in s.")] = 3.0,
    exposure: Annotated[float, typer.Option(min=1e-6, help="Time of a visit in s.")] = 0.5,
    output: Annotated[Path, typer.Option(help="The list; the picture has the same name, .png.")] = Path("energies.txt"),
    json: Json = False,
) -> None:
    """Choose the energies of a scan for given references and a budget; write the list and a picture of it."""
    from txm_stream.plan_energies import list_energies, save_figure, write_list

    files = [str(path) for path in references or ()]
    times = {"sigma": sigma, "move_s": move, "exposure_s": exposure}
    chosen = list_energies(files, candidates_eV=candidates, n=n, budget_s=seconds, **times)
    for energy, repeats in zip(chosen.plan.energies_eV, chosen.plan.repeats, strict=True):
        _say(f"{energy:10.2f} eV  {repeats:3d} ×")
    _say(f"predicted RMSE {chosen.plan.predicted_rmse:.4f} in {chosen.seconds:.0f} s")
    if chosen.own_eV is not None:
        _say(f"the {len(chosen.own_eV)} candidates, once each: {chosen.own_rmse:.4f} in {chosen.own_seconds:.0f} s")
    _say(f"written: {write_list(output, chosen)} and {save_figure(output.with_suffix('.png'), chosen)}")
    _json(json)(chosen.summary() | {"output": str(output)})


@app.command(epilog="Example:  txm-stream doctor --tiled https://tiled.example.org")
def doctor(
    tiled: Annotated[
        str | None, typer.Option(metavar="URI|DIR", help="Server to try; default: an embedded one.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE", help="Source of documents to try, as for watch.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what works here, with a remedy for what does not; exit 1 if something needed fails."""
    from txm_stream.doctor import examine

    _report(examine(tiled, source), json)


profiles = typer.Typer(
    help="Look at profiles: check one, list the fields.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example:  txm-stream profile check profiles/fxi.toml",
)
app.add_typer(profiles, name="profile")
app.command(epilog="Example:  txm-stream watch --from zmq://beamline:5578 --to results --profile fxi.toml")(watch)
app.command(epilog='Example:  txm-stream order latest reject --visit 12 --reason "beam lost"')(order)
app.command(epilog="Example:  txm-stream export latest --from results --format tiff --output map.tif")(export)


@profiles.command(epilog="Example:  txm-stream profile check profiles/fxi.toml")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML profile.")],
    json: Json = False,
) -> None:
    """Check a profile, its references and its folder; exit 1 if something needed fails."""
    from txm_stream.doctor import examine_profile

    _report(examine_profile(file), json)


@profiles.command()
def fields() -> None:
    """List every field of a profile with its type, default and meaning."""
    from txm_stream.profile import Profile, describe_fields

    for field in describe_fields(Profile()):
        _say(f"{field.name} = {field.default!r}  ({field.kind})")
        _say(f"    {field.meaning}")


def _report(findings: Iterable[Finding], json: bool) -> None:
    """Print findings as they come; exit 1 where something needed fails."""
    from dataclasses import asdict

    found = []
    for finding in findings:
        _say(str(finding))
        found.append(finding)
    fails = [finding.name for finding in found if finding.needed and not finding.works]
    _json(json)({"works": not fails, "findings": [asdict(finding) for finding in found]})
    if fails:
        _fail(f"does not work here: {', '.join(fails)}")


def main() -> None:
    """Run the command line; errors that a user can mend become one line and exit status 1."""
    try:
        app()
    except (TxmStreamError, OSError) as error:
        _fail(error)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _OUTSIDE:
            raise
        _fail(error)


def _fail(what: Exception | str) -> NoReturn:
    lines = str(what).splitlines() or [type(what).__name__]
    print(f"txm-stream: {lines[0]}", file=sys.stderr)
    sys.exit(1)
