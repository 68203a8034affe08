"""The command ``txm-stream export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from txm_stream.terminal import json_printer, progress_bar, say


class FileFormat(StrEnum):
    """What a result is written as."""

    tiff = "tiff"
    nexus = "nexus"
    pyxas = "pyxas"
    xdi = "xdi"
    png = "png"
    report = "report"


class Picture(StrEnum):
    """What a picture shows."""

    map = "map"
    sigma = "sigma"
    frame = "frame"


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="latest, a uid or its beginning, a scan id; or a result file.")
    ],
    format: Annotated[FileFormat, typer.Option(help="What to write; report is one HTML page.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="File to write; others beside it are named after it.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="URI|DIR", help="Where the result is stored, unless RUN is a file.")
    ] = None,
    what: Annotated[Picture | None, typer.Option(help="png: one picture instead of the summary.")] = None,
    energy: Annotated[
        float | None, typer.Option(min=1, help="png --what frame: the visit nearest to it, in eV.")
    ] = None,
    roi: Annotated[
        list[str] | None, typer.Option(metavar="Y0:Y1,X0:X1", help="xdi: a region with a spectrum of its own.")
    ] = None,
    edge: Annotated[str | None, typer.Option(help="xdi: element and edge, as 'Ni K'; default: found.")] = None,
    pixel_nm: Annotated[
        float | None, typer.Option(min=1e-3, help="Pixel size in nm, where the result does not know it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one machine-readable object as the last line.")] = False,
) -> None:
    """Write a result for other programs: ImageJ, NeXus readers, PyXAS, Athena and Larch; as picture or report."""
    from txm_stream.export import ExportOptions, export_result
    from txm_stream.io.xdi_export import Region

    options = ExportOptions(
        what=None if what is None else what.value,
        energy_eV=energy,
        regions=tuple(Region.parse(text) for text in roi or ()),
        edge=edge,
        pixel_nm=pixel_nm,
    )
    written = export_result(
        run,
        format=format.value,
        output=output,
        source=source,
        options=options,
        overwrite=overwrite,
        progress=progress_bar("frame"),
    )
    say(f"written: {' and '.join(str(path) for path in written)}")
    json_printer(json)({"run": run, "format": format.value, "output": str(output), "files": [str(p) for p in written]})
