"""Mean spectra of a result as XDI 1.0 files, which Athena, Larch and our own reader of references open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import txm_stream
from txm_stream.arrays import Mask
from txm_stream.errors import ExportError
from txm_stream.io.absorption_edges import edge_near, parse_edge
from txm_stream.io.summary_figure import fitted_spectrum, inside_particles, mean_spectrum
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result
from txm_stream.unmixing.edge_step import find_edge_eV, sort_and_average

_FEWEST = 6
_MAPPED = 0.9
"""The fit is written where the map covers this share of the pixels, so that it is of the same pixels as the mean."""


@dataclass(frozen=True)
class Region:
    """Rows ``y0`` to ``y1`` and columns ``x0`` to ``x1`` of an image, ends not included."""

    y0: int
    y1: int
    x0: int
    x1: int

    def __str__(self) -> str:
        return f"{self.y0}:{self.y1},{self.x0}:{self.x1}"

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read "y0:y1,x0:x1".

        Raises
        ------
        ExportError
            It is something else.
        """
        try:
            rows, columns = (part.split(":") for part in text.split(","))
            return cls(int(rows[0]), int(rows[1]), int(columns[0]), int(columns[1]))
        except (ValueError, IndexError):
            raise ExportError(f"region is {text!r}, needed is y0:y1,x0:x1 in pixels, such as 10:20,30:50") from None

    def mask(self, shape: tuple[int, ...]) -> Mask:
        """Return the pixels of the region in an image of a shape.

        Raises
        ------
        ExportError
            It is empty or reaches beyond the image.
        """
        if not (0 <= self.y0 < self.y1 <= shape[0] and 0 <= self.x0 < self.x1 <= shape[1]):
            raise ExportError(f"region {self} holds no pixel or leaves the image, which is 0:{shape[0]},0:{shape[1]}")
        inside = np.zeros(shape, dtype=bool)
        inside[self.y0 : self.y1, self.x0 : self.x1] = True
        return inside


def xdi_paths(path: Path, regions: tuple[Region, ...]) -> tuple[Path, ...]:
    """Return the files of an export: the mean spectrum, and one beside it per region (``<stem>_roi1.xdi`` …)."""
    return path, *(path.with_name(f"{path.stem}_roi{i}{path.suffix}") for i in range(1, len(regions) + 1))


def write_xdi(
    path: Path | str, result: Result, *, regions: tuple[Region, ...] = (), edge: str | None = None, title: str = ""
) -> tuple[Path, ...]:
    """Write the mean spectrum inside the particles, and that of every region, as XDI 1.0; return the paths.

    Columns: ``energy`` in eV, ascending; ``mutrans`` (``mufluor``), mean of the denoised stack; ``noisy``, of the
    measured one; ``fit``, where references and map cover them. Visits without a value are left out.

    Parameters
    ----------
    edge
        Element and edge, "Ni K"; default: the known edge nearest to the steepest rise of the mean spectrum.

    Raises
    ------
    ExportError
        A region outside the image, too few values, or no known edge.

    Notes
    -----
    The three fields that XDI requires are Element.symbol, Element.edge and Mono.d_spacing. No scan says the last; it is
    written as 0, and a comment says so.
    """
    masks = [inside_particles(result), *(region.mask(result.mask.shape[-2:]) for region in regions)]
    places = ["mean inside the particles", *(f"region {region} (y0:y1,x0:x1)" for region in regions)]
    paths = xdi_paths(Path(path), regions)
    texts = []
    for mask, place in zip(masks, places, strict=True):
        names, values = _columns(result, mask, place)
        chosen = edge_near(find_edge_eV(*sort_and_average(*values[:2]))) if edge is None else parse_edge(edge)
        edge = " ".join(chosen)  # all files of one scan name one edge
        texts.append(_text(names, values, chosen, [title, f"{place}, {int(mask.sum())} pixels"], result))
    for target, text in zip(paths, texts, strict=True):
        with whole_file(target) as partial:
            partial.write_text(text, encoding="utf-8")
    return paths


def _columns(result: Result, mask: Mask, place: str) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype]]:
    """Return names and values (column, visit) sorted by energy."""
    denoised = mean_spectrum(result.denoised, mask)
    names = ["energy", "mufluor" if result.provenance.get("signal") == "fluorescence" else "mutrans", "noisy"]
    columns = [result.energies_eV, denoised, mean_spectrum(result.noisy, mask)]
    known = np.all(np.isfinite(np.stack(columns)), axis=0)
    if known.sum() < _FEWEST:
        raise ExportError(f"{place}: {known.sum()} visits have a value there, at least {_FEWEST} are needed")
    mapped = 0.0 if result.phase_map is None else float(np.isfinite(result.phase_map[:, mask]).mean())
    fit = fitted_spectrum(result, mask, denoised) if mapped > _MAPPED else None
    if fit is not None and np.isfinite(fit[known]).all():
        names.append("fit")
        columns.append(fit)
    values = np.stack(columns)[:, known]
    return names, values[:, np.argsort(values[0], kind="stable")]


def _text(
    names: list[str],
    values: np.ndarray[tuple[int, int], np.dtype],
    edge: tuple[str, str],
    comments: list[str],
    result: Result,
) -> str:
    units = [" eV", *[""] * (len(names) - 1)]
    head = [
        f"XDI/1.0 TxmStream/{txm_stream.__version__}",
        *(f"Column.{i}: {name}{unit}" for i, (name, unit) in enumerate(zip(names, units, strict=True), start=1)),
        f"Element.symbol: {edge[0]}",
        f"Element.edge: {edge[1]}",
        "Mono.d_spacing: 0",
    ]
    times = [row.time for row in result.metrics if row.time > 0]
    if times:
        for name, time in (("start_time", min(times)), ("end_time", max(times))):
            head.append(f"Scan.{name}: {datetime.fromtimestamp(time, UTC).isoformat(' ', 'seconds')}")
    head += [
        f"TxmStream.rank: {result.rank}",
        f"TxmStream.sigma: {result.sigma:.6g}",
        "///",
        *(line for line in comments if line),
        f"{names[1]}: denoised; noisy: as measured and registered. Mono.d_spacing is not known, 0 stands for it.",
        "---",
        " ".join(names),
    ]
    rows = [" ".join(f"{value:.10g}" for value in row) for row in values.T]
    return "\n".join([*(f"# {' '.join(line.split())}" for line in head), *rows, ""])
