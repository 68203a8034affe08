"""What is printed of a finished run: the figures of the JSON line and the readable summary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from txm_stream.judgement import Judgement

if TYPE_CHECKING:
    from txm_stream.callbacks.report import RunReport
    from txm_stream.results import Result


def json_line(answer: dict[str, Any]) -> str:
    """Return one line of strict JSON; what is not a number becomes null."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in answer.items()
    }
    return json.dumps(plain, allow_nan=False)


def simulated_figures(report: RunReport, verdict: Judgement, *, tiled_uri: str) -> dict[str, Any]:
    """Return the JSON object of a simulated run."""
    return {
        "frames": report.frames_seen,
        "energies": report.visits,
        **verdict.figures(),
        "latency_s_median": float(report.latency_s_median),
        "tiled_uri": tiled_uri,
        "run_uid": report.run_uid,
        "results_path": report.results_path,
    }


def measured_figures(report: RunReport, result: Result, *, tiled_uri: str) -> dict[str, Any]:
    """Return the JSON object of a run without a truth."""
    return {
        "frames": report.frames_seen,
        "energies": report.visits,
        "states": list(result.states),
        "rank": int(result.rank),
        "sigma": float(result.sigma),
        "predicted_rmse": float(result.predicted_rmse),
        "map_method": result.map_method,
        "latency_s_median": float(report.latency_s_median),
        "tiled_uri": tiled_uri,
        "run_uid": report.run_uid,
        "results_path": report.results_path,
    }


def summary(report: RunReport, *, tiled_uri: str, warnings: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines that say what became of a run."""
    reason = f" ({report.reason})" if report.reason else ""
    yield f"run {report.run_uid[:8]}: {report.frames_seen} frames, {report.visits} energies, {report.status}{reason}"
    yield f"results: {report.results_path} at {tiled_uri}"
    yield (
        f"median {report.latency_s_median:.2f} s from a frame to its row, {report.previews_skipped} previews skipped, "
        f"{len(report.frames_lost)} frames lost, {len(report.frames_rejected)} rejected"
    )
    for warning in warnings:
        yield f"warning: {warning}"


def verdict_line(name: str, verdict: Judgement) -> str:
    """Return the errors against the truth in one line."""
    return (
        f"{name}: correlation {verdict.map_correlation:.4f}, abundance RMSE {verdict.abundance_rmse:.4f}, "
        f"{verdict.mapped_rmse:.4f} where there is a map (predicted {verdict.predicted_rmse:.4f}), "
        f"registration {verdict.shift_rmse_px:.3f} px, sigma/true {verdict.sigma_ratio:.3f}, "
        f"map on {100 * verdict.map_coverage:.1f} % of the particles"
    )
