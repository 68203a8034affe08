"""A result as one HTML page that needs nothing else: figure, numbers, warnings, provenance."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np

import txm_stream
from txm_stream.io.named_images import stack_unit, state_names
from txm_stream.io.summary_figure import inside_particles, save_summary
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p.about { color: #5b6069; margin: .2rem 0 1.5rem } img { width: 100%; height: auto; margin-top: 1rem }
table { border-collapse: collapse } th, td { padding: .2rem 1rem .2rem 0; text-align: left; border-bottom: 1px solid #e3e5e8; vertical-align: top }
th { font-weight: 600 } td.n { text-align: right; font-variant-numeric: tabular-nums } pre { background: #f5f6f7; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }
ul.warnings { background: #fff6e0; border-left: 4px solid #e0a100; padding: .6rem 1rem .6rem 2rem; margin: 0 } summary { cursor: pointer }
@media print { body { margin: 0; max-width: none } details { display: none } }
"""  # noqa: E501


def write_report(path: Path | str, result: Result, *, title: str = "", pixel_nm: float | None = None) -> Path:
    """Write one self-contained HTML page; return its path.

    It holds the summary figure, the numbers with units, the share of every state, the warnings, one row per visit, and
    the provenance as JSON. The figure is part of the file; nothing is fetched, and no script runs.
    """
    name = title or "TXM-XANES result"
    now = datetime.now(UTC).isoformat(" ", "minutes").replace("+00:00", " UTC")
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="about">written by txm-stream {escape(txm_stream.__version__)}, {escape(now)}</p>',
        _warnings(result.warnings),
        f'<img alt="mean image, maps, spectra and sigma map" src="data:image/png;base64,{_figure(result)}">',
        "<h2>Numbers</h2>",
        _table(("", ""), numbers(result, pixel_nm), numeric=False),
        *_states(result),
        f"<h2>Visits</h2><details><summary>{len(result.metrics)} rows</summary>{_visits(result)}</details>",
        "<h2>Provenance</h2>",
        f"<pre>{escape(_provenance(result))}</pre>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return Path(path)


def numbers(result: Result, pixel_nm: float | None = None) -> list[tuple[str, str]]:
    """Return what is worth knowing of a result as (name, text with unit); unknown figures are left out."""
    unit = stack_unit(result)
    shape = " × ".join(str(n) for n in result.denoised.shape[1:])
    low, high = float(np.min(result.energies_eV)), float(np.max(result.energies_eV))
    rows = [
        ("visits", f"{len(result.energies_eV)}, {low:.2f} to {high:.2f} eV"),
        ("image", f"{shape} px" + (f", {pixel_nm:g} nm per pixel" if pixel_nm else "")),
        ("map", result.map_method or "none"),
        ("states", ", ".join(result.states) or "none"),
        ("predicted RMSE of the map", _figure_of(result.predicted_rmse, "inside the particles")),
        ("noise σ", _figure_of(result.sigma, unit)),
        ("rank", str(result.rank)),
        ("predicted error of the denoised stack", _figure_of(float(np.sqrt(result.risk)), f"{unit} rms")),
        ("registration σ", _figure_of(_median(result.shift_sigma_px), "px, median")),
        ("energy shift fitted", _energy_shift(result)),
    ]
    return [(name, text) for name, text in rows if text]


def state_shares(result: Result) -> list[tuple[str, float, float]]:
    """Return (name, share, median σ) of every state.

    The share is the mean abundance inside the particles, weighted by the edge jump; σ is that of one pixel, NaN where
    it is not known.
    """
    if result.phase_map is None:
        return []
    inside = inside_particles(result) & np.isfinite(result.phase_map).all(axis=0)
    weight = np.ones(inside.shape) if result.scale is None else np.asarray(result.scale, dtype=np.float64)
    shares = []
    for j, name in enumerate(state_names(result)):
        known = inside & np.isfinite(weight)
        share = float(np.average(result.phase_map[j][known], weights=weight[known])) if known.any() else float("nan")
        sigma = _median(result.phase_sigma[j][known]) if result.phase_sigma is not None else float("nan")
        shares.append((name, share, sigma))
    return shares


def _figure(result: Result) -> str:
    with tempfile.TemporaryDirectory() as folder:
        picture = save_summary(Path(folder) / "summary.png", result, dpi=150)
        return base64.b64encode(picture.read_bytes()).decode("ascii")


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    listed = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<h2>Warnings</h2><ul class="warnings">{listed}</ul>'


def _states(result: Result) -> list[str]:
    rows = [(name, f"{share:.3f}", f"{sigma:.3f}") for name, share, sigma in state_shares(result)]
    if not rows:
        return []
    heads = ("state", "share inside the particles", "σ of one pixel, median")
    return ["<h2>States</h2>", _table(heads, rows)]


def _visits(result: Result) -> str:
    rejected = result.provenance.get("visits_rejected") or {}
    rows = [
        (
            str(row.seq),
            f"{row.energy_eV:.2f}",
            _figure_of(row.shift_y_px),
            _figure_of(row.shift_x_px),
            _figure_of(row.sigma),
            str(rejected.get(str(row.seq), "")),
        )
        for row in result.metrics
    ]
    return _table(
        ("visit", "energy (eV)", "shift y (px)", "shift x (px)", f"σ ({stack_unit(result)})", "left out"), rows
    )


def _provenance(result: Result) -> str:
    """Return one line of JSON per entry."""
    return "\n".join(
        f"{name}: {json.dumps(value, default=_plain, ensure_ascii=False)}" for name, value in result.provenance.items()
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: bool = True) -> str:
    """Return a table; with ``numeric`` all columns but the first are aligned to the right."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads) if any(heads) else ""
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td{' class=n' if numeric else ''}>{escape(text)}</td>" for text in rest)
        body.append(f"<tr><th>{escape(first)}</th>{cells}</tr>")
    return f"<table>{'<tr>' + head + '</tr>' if head else ''}{''.join(body)}</table>"


def _figure_of(value: float, unit: str = "") -> str:
    return f"{value:.3g} {unit}".rstrip() if np.isfinite(value) else ""


def _energy_shift(result: Result) -> str:
    shift, sigma = (_number(result.provenance.get(f"energy_shift_{name}eV")) for name in ("", "sigma_"))
    spread = f" ± {sigma:.2g}" if np.isfinite(sigma) else ""
    return f"{shift:.2f}{spread} eV" if np.isfinite(shift) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _median(values: object) -> float:
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    return float(np.median(array)) if array.size else float("nan")


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
