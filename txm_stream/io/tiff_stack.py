"""Read a TIFF stack; the energies come from a list beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.errors import BadStackError


def read_tiff(path: Path) -> tuple[AnyArray, float | None]:
    """Return the array as stored and the pixel size in nm (``None`` where the file does not say).

    Raises
    ------
    BadStackError
        No readable TIFF.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            data = file.series[0].asarray()
            pixel_nm = _pixel_nm(file)
    except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
        raise BadStackError(f"{path} cannot be read as TIFF: {str(error).splitlines()[0]}") from error
    if np.iscomplexobj(data):
        raise BadStackError(f"{path}: complex values; give intensities or optical density")
    return np.asarray(data), pixel_nm


def _pixel_nm(file: object) -> float | None:
    """Take the pixel size from ImageJ's resolution and unit."""
    tags = file.pages[0].tags  # type: ignore[attr-defined]
    unit = str((getattr(file, "imagej_metadata", None) or {}).get("unit", "")).lower()
    factor = {"micron": 1000.0, "um": 1000.0, "µm": 1000.0, "\\u00b5m": 1000.0, "nm": 1.0}.get(unit)
    if factor is None or "XResolution" not in tags:
        return None
    numerator, denominator = tags["XResolution"].value
    return factor * denominator / numerator if numerator else None
