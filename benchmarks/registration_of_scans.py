"""Registration inside whole scans: counts, jitter, chemistry; what its errors cost the map against the true shifts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream import Pipeline, Profile, aligned_scan
from txm_stream.arrays import Matrix
from txm_stream.demo_parts import DemoOptions, frames_of, make_txm, simulated_energies, write_references
from txm_stream.judgement import judge


@contextmanager
def shifts_known(shifts_px: Matrix) -> Iterator[None]:
    """Let every final pass inside the block use these shifts (T, 2) px."""
    found = aligned_scan._shifts

    def known(*arguments: Any, **options: Any) -> Any:
        shifts, warnings = found(*arguments, **options)
        return replace(shifts, shifts_px=shifts_px), warnings

    aligned_scan._shifts = known
    try:
        yield
    finally:
        aligned_scan._shifts = found


def scans(seeds: int) -> None:
    """Print the error of the shifts, and of the map with found and with true shifts, for the demo's scan."""
    print("\n## Whole scans: 256², 60 energies, 500 photons, jitter 2 px; target .04 px, .5 dB")
    print("| phantom | shift, px rms | RMSE of the map | with true shifts | loss |")
    print("|---|---|---|---|---|")
    for kind in ("core-shell", "region"):
        for seed in range(seeds):
            options = DemoOptions(exposure_s=0.0, seed=seed, chemistry=kind)
            txm = make_txm(options)
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                profile = Profile(references=write_references(txm, folder / "references"), scratch_dir=folder)
                with Pipeline(profile) as pipeline:
                    for frame in frames_of(txm, simulated_energies(options)):
                        pipeline.keep(frame)
                    result, truth = pipeline.finish(), txm.truth()
                    ours = judge(result, truth)
                    offset = np.mean(result.shifts_px + truth.shifts_px, axis=0)
                    with shifts_known(offset - truth.shifts_px):
                        best = judge(pipeline.finish(), truth)
            loss = 20 * np.log10(ours.abundance_rmse / best.abundance_rmse)
            print(
                f"| {kind} {seed} | {ours.shift_rmse_px:.3f} | {ours.abundance_rmse:.4f} | {best.abundance_rmse:.4f} | "
                f"{loss:.2f} dB |",
                flush=True,
            )
