"""Export of a result from the command line: find it, read it, write it in the format asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from txm_stream.errors import ExportError, OutputExistsError
from txm_stream.io.picture import What, save_picture
from txm_stream.io.pyxas_export import write_pyxas
from txm_stream.io.report_page import write_report
from txm_stream.io.result_file import read_pixel_nm, read_result, write_result
from txm_stream.io.summary_figure import save_summary
from txm_stream.io.tiff_export import tiff_paths, write_tiff
from txm_stream.io.xdi_export import Region, write_xdi, xdi_paths
from txm_stream.results import Result

Format = Literal["tiff", "nexus", "pyxas", "xdi", "png", "report"]
FORMATS = get_args(Format)
_PRINT_DPI = 300
_BELONGS_TO: dict[str, Format] = {"what": "png", "energy_eV": "png", "regions": "xdi", "edge": "xdi"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Found:
    """A result and what is known about it: title, pixel size in nm, scan id, uid."""

    result: Result
    title: str
    pixel_nm: float | None = None
    scan_id: int | None = None
    uid: str = ""


@dataclass(frozen=True)
class ExportOptions:
    """What some formats want to know besides.

    ``what``: picture of a png ("map", "sigma", "frame"), ``None``: the summary figure. ``energy_eV``: of the frame.
    ``regions``: of which xdi writes a spectrum each, besides the mean. ``edge``: "Ni K", for xdi. ``pixel_nm``: where
    the result does not know it.
    """

    what: What | None = None
    energy_eV: float | None = None
    regions: tuple[Region, ...] = ()
    edge: str | None = None
    pixel_nm: float | None = None


def export_result(
    run: str,
    *,
    format: Format,
    output: Path | str,
    source: str | None = None,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write a result as files of another format; return their paths, the one asked for first.

    Parameters
    ----------
    run
        A result file of ``process``; or, with ``source``, ``"latest"``, a uid or its beginning, or a scan id.
    source
        Address of a Tiled server, or the folder of an embedded one.
    overwrite
        Replace files that are there.
    progress
        Called with (done, total) frames read from Tiled.

    Raises
    ------
    ExportError, OutputExistsError
        The format or its option does not exist, the result has not what was asked for, or files are there already.
    UnreachableError, NoSuchRunError, MissingFramesError, BadStackError
        There is no such server, run, final result or file.
    """
    if format not in FORMATS:
        raise ExportError(f"format is {format!r}, allowed are: {', '.join(FORMATS)}")
    options = options or ExportOptions()
    _check(options, format)
    output = Path(output)
    there = [path for path in planned_files(format, output, options) if path.exists()]
    if there and not overwrite:
        raise OutputExistsError(f"{there[0]} exists; give another --output, or --overwrite to replace it")
    return write_files(find_result(run, source, progress=progress), format, output, options)


def _check(options: ExportOptions, format: Format) -> None:
    for name, owner in _BELONGS_TO.items():
        if getattr(options, name) not in (None, ()) and format != owner:
            raise ExportError(f"{name} is an option of {owner}, the format is {format}; leave it out")
    if options.energy_eV is not None and options.what != "frame":
        raise ExportError(f"energy_eV says which frame is drawn, what is {options.what!r}; use what 'frame' with it")


def find_result(run: str, source: str | None, *, progress: Progress | None = None) -> Found:
    """Read a result from its file or from Tiled; arguments and errors as in :func:`export_result`."""
    if source is None:
        if not Path(run).is_file():
            raise ExportError(f"{run} is no result file; for a run in Tiled say where it is: --from URI or --from DIR")
        return Found(read_result(run), Path(run).stem, pixel_nm=read_pixel_nm(run))
    from txm_stream.callbacks.sources import open_source

    with open_source(source) as client:
        return find_in_tiled(client, run, progress=progress)


def find_in_tiled(
    client: Any, run: str, *, results_path: tuple[str, ...] | None = None, progress: Progress | None = None
) -> Found:
    """Read a result from an open Tiled client; arguments and errors as in :func:`.find_results`."""
    from txm_stream.callbacks.stored_results import find_results, read_final

    tree = find_results(client, run, results_path=results_path)
    about = tree.metadata
    uid, scan_id = str(about.get("raw_uid", "")), about.get("scan_id")
    title = f"{about.get('sample') or 'scan'}, scan {scan_id}, run {uid[:8]}"
    return Found(read_final(tree, progress=progress), title, scan_id=scan_id, uid=uid)


def planned_files(format: Format, output: Path, options: ExportOptions) -> tuple[Path, ...]:
    """Return every file that an export may write."""
    if format == "tiff":
        return tiff_paths(output)
    return xdi_paths(output, options.regions) if format == "xdi" else (output,)


def write_files(found: Found, format: Format, output: Path, options: ExportOptions) -> tuple[Path, ...]:
    """Write a result that was found."""
    result, title = found.result, found.title
    pixel_nm = options.pixel_nm or found.pixel_nm
    if format == "tiff":
        return write_tiff(output, result, pixel_nm=pixel_nm)
    if format == "xdi":
        return write_xdi(output, result, regions=options.regions, edge=options.edge, title=title)
    if format == "nexus":
        return (write_result(output, result, title=title, pixel_nm=pixel_nm, compression="gzip"),)
    if format == "pyxas":
        return (write_pyxas(output, result, pixel_nm=pixel_nm, title=title, scan_id=found.scan_id, uid=found.uid),)
    if format == "report":
        return (write_report(output, result, title=title, pixel_nm=pixel_nm),)
    if options.what is None:
        return (save_summary(output, result, title=title, dpi=_PRINT_DPI),)
    picture = {"energy_eV": options.energy_eV, "pixel_nm": pixel_nm}
    return (save_picture(output, result, what=options.what, title=title, **picture),)
