"""What the live page offers beside pictures: every format of ``txm-stream export``, made where the page is served."""

from __future__ import annotations

import functools
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.export import ExportOptions, Format, find_in_tiled, write_files
from txm_stream.io.xdi_export import Region
from txm_stream.view.app import Exported, Exporter
from txm_stream.view.region import Box

_FILES: Mapping[Format, str] = {
    "report": "{}.html",
    "nexus": "{}.h5",
    "tiff": "{}.tif",
    "pyxas": "{}-pyxas.h5",
    "xdi": "{}.xdi",
}


def page_exporters(target: TiledTarget, results_path: tuple[str, ...]) -> dict[str, Exporter]:
    """Return what the page's menu offers, by name; ``results_path`` is below ``target``."""
    return {
        format: functools.partial(_make, target=target, results_path=results_path, format=format) for format in _FILES
    }


def _make(run: str, box: Box | None, *, target: TiledTarget, results_path: tuple[str, ...], format: Format) -> Exported:
    """Write the final result of a run (its path below the results path), XDI with the box; several files are packed."""
    client = target.connect()
    with tempfile.TemporaryDirectory(prefix="txm-stream-export-") as name:
        try:
            found = find_in_tiled(client, run, results_path=results_path)
        finally:
            target.release(client)
        folder = Path(name)
        regions = (Region(box.y0, box.y1, box.x0, box.x1),) if box is not None and format == "xdi" else ()
        path = folder / _FILES[format].format(f"scan-{found.scan_id}-{found.uid[:8]}")
        files = write_files(found, format, path, ExportOptions(regions=regions))
        file = files[0]
        if len(files) > 1:
            file = folder / f"{files[0].stem}-{format}.zip"
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for each in files:
                    archive.write(each, each.name)
        return Exported(file.name, file.read_bytes(), "text/html" if format == "report" else "application/octet-stream")
