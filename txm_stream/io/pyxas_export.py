"""A result as the HDF5 file that PyXAS and TXM-Sandbox read as a normalised 2-D XANES scan of FXI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result


def write_pyxas(
    path: Path | str,
    result: Result,
    *,
    pixel_nm: float | None = None,
    magnification: float | None = None,
    title: str = "",
    scan_id: int | None = None,
    uid: str = "",
) -> Path:
    """Write the denoised stack for PyXAS and TXM-Sandbox; return its path.

    Parameters
    ----------
    pixel_nm, magnification
        ``Pixel Size`` is written as FXI does, "20.3nm", or "unknown"; ``Magnification`` is NaN where it is not known.

    Notes
    -----
    ``X_eng`` (T,) is in keV. ``img_xanes`` (T, y, x) float32 is the transmission, ``img_bkg`` is 1 and ``img_dark``
    (1, y, x) is 0 everywhere: PyXAS takes −ln of ``img_xanes``, TXM-Sandbox −ln of (img − dark) / (bkg − dark), and
    both find the optical density. Both compute with every pixel, so what says nothing is open beam there (transmission
    1); the dataset ``mask``, which they do not know, tells which pixels do say something in every frame. The constant
    images take no room in the file. Fluorescence yields are written as they are.
    """
    import h5py

    path, shape = Path(path), result.denoised.shape
    transmitted = result.provenance.get("signal") != "fluorescence"
    known = np.ones(shape[1:], dtype=bool)
    with whole_file(path) as partial, h5py.File(partial, "w") as file:
        images = file.create_dataset("img_xanes", shape=shape, dtype=np.float32, chunks=(1, *shape[1:]))
        for index, frame in enumerate(result.denoised):
            values = np.asarray(frame, dtype=np.float64)
            finite = np.isfinite(values)
            known &= finite
            values = np.where(finite, values, 0.0)
            images[index] = np.exp(-values) if transmitted else values
        chunks = (1, *shape[1:])
        file.create_dataset("img_bkg", shape=shape, dtype=np.float32, chunks=chunks, fillvalue=1.0)
        file.create_dataset("img_dark", shape=chunks, dtype=np.float32, chunks=chunks, fillvalue=0.0)
        file["X_eng"] = np.asarray(result.energies_eV, dtype=np.float64) / 1000.0
        file["mask"] = known
        file["Pixel Size"] = f"{pixel_nm:g}nm" if pixel_nm else "unknown"
        file["Magnification"] = float("nan") if magnification is None else float(magnification)
        times = [row.time for row in result.metrics if row.time > 0]
        file["scan_time"] = min(times, default=0.0)
        file["scan_id"] = -1 if scan_id is None else scan_id
        file["uid"], file["note"] = uid, f"denoised by txm-stream; {title}".rstrip("; ")
    return path
