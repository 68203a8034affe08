"""The commands about scans that run: ``txm-stream watch | order``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from txm_stream.cli_options import Json, ProfileFile, References
from txm_stream.terminal import json_printer, say


def watch(
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="zmq://, kafka://, http(s)://, or a folder.")],
    to: Annotated[
        str | None, typer.Option(metavar="URI|DIR", help="Where results go; default: back to a Tiled source.")
    ] = None,
    profile: ProfileFile = None,
    references: References = None,
    fill_from: Annotated[
        str | None, typer.Option(metavar="URI|DIR", help="Tiled with the raw runs: lost documents are fetched there.")
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="End after so many runs; default: Ctrl-C ends.")] = None,
    json: Json = False,
) -> None:
    """Follow a beamline: process every XANES run that comes from 0MQ, Kafka or Tiled."""
    from txm_stream.callbacks.source_address import read_address
    from txm_stream.errors import BadSourceError
    from txm_stream.profile import Profile
    from txm_stream.watch import watch_source

    try:
        address = read_address(source)
    except BadSourceError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    if to is None and address.kind != "tiled":
        raise typer.BadParameter("0MQ and Kafka take no results: give a Tiled address or a folder", param_hint="--to")
    loaded = None if profile is None else Profile.load(profile)
    named = tuple(references or ())
    json_printer(json)(
        watch_source(address, to=to, profile=loaded, references=named, fill_from=fill_from, most_runs=runs, say=say)
    )


def order(
    run: Annotated[str, typer.Argument(metavar="RUN", help="latest, or the beginning of a uid.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="reject, accept, region, freeze, measure, release.")],
    visit: Annotated[int | None, typer.Option(help="Number of the visit, from 1.")] = None,
    region: Annotated[str | None, typer.Option(metavar="Y0:Y1,X0:X1", help="Pixels, ends excluded.")] = None,
    energies: Annotated[str | None, typer.Option(metavar="EV,EV…", help="Energies to measure next, in eV.")] = None,
    position: Annotated[int, typer.Option(help="Sample position, from 0.")] = 0,
    reason: Annotated[str, typer.Option(help="Kept with the order.")] = "",
    source: Annotated[str | None, typer.Option("--from", metavar="URI|DIR", help="Results of a past run.")] = None,
    profile: ProfileFile = None,
) -> None:
    """Give an order about a run: a bad frame, a region of interest, the advice in your own hand."""
    from txm_stream.give_order import give_order

    fields: dict[str, Any] = {
        "visit": visit,
        "region": region,
        "energies": energies,
        "position": position,
        "reason": reason,
    }
    say(give_order(run, action, **fields, source=source, profile=profile))
