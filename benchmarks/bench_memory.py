"""Memory of the pipeline for large frames: live statistics, previews and final pass, with the frame store on disk.

python benchmarks/bench_memory.py [--shape 2160 2560] [--energies 100]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_main_job import watched_memory

from txm_stream import Pipeline, Profile
from txm_stream.device import fixed_threads
from txm_stream.frames import Frame
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.unmixing.references import References


def frames(shape: tuple[int, int], energies: int) -> Iterator[Frame]:
    """Yield ten dark frames, then sample and flat of every energy, as uint16: 500 quanta per pixel above an offset of
    100, jitter ± 2 px (whole pixels: cheap)."""
    phantom = make_phantom(shape, seed=0)
    values = nickel_energies(energies)
    spectra = phantom.spectra
    rng = np.random.default_rng(0)
    chosen = (values[0], 8352.0, values[-1])
    known = np.stack([np.append(spectra(e)[0], [1.0, (e - 8345) / 100]) for e in chosen])
    parts = [phantom.optical_density(float(e)) for e in chosen]
    del phantom  # its memory is not ours
    dark = 100 + np.float32(2) * rng.standard_normal((10, *shape), dtype=np.float32)
    yield Frame("dark", dark.astype(np.uint16), None, 1, 1.0, 0.0)
    del dark
    for t, energy in enumerate(values):
        mix = np.append(spectra(energy)[0], [1.0, (energy - 8345) / 100]) @ np.linalg.pinv(known)
        density = sum(np.float32(m) * p for m, p in zip(mix, parts, strict=True))
        mean = 500 * np.exp(-np.roll(density, rng.integers(-2, 3, 2), axis=(0, 1)))
        sample = 100 + mean + np.sqrt(mean) * rng.standard_normal(shape, dtype=np.float32)
        yield Frame("sample", np.maximum(sample, 0).astype(np.uint16), float(energy), t + 1, 1.0, 2.0 * t)
        flat = 600 + np.float32(500**0.5) * rng.standard_normal(shape, dtype=np.float32)
        yield Frame("flat", flat.astype(np.uint16), float(energy), t + 1, 1.0, 2.0 * t + 1)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=(2160, 2560))
    parser.add_argument("--energies", type=int, default=100)
    arguments = parser.parse_args()
    spectra = make_phantom((64, 64), seed=0).spectra
    grid = np.arange(8200.0, 8500.0, 0.25)
    references = References(spectra.names, grid, spectra(grid))
    with tempfile.TemporaryDirectory(prefix="txm-stream-bench-") as folder, fixed_threads():
        with watched_memory() as sizes, Pipeline(Profile(), references=references, scratch=Path(folder)) as pipeline:
            began = time.perf_counter()
            for frame in frames((arguments.shape[0], arguments.shape[1]), arguments.energies):
                pipeline.ingest(frame)
                if frame.role == "flat" and frame.seq % 10 == 0:
                    pipeline.snapshot()
                    pipeline.settle()
            live_s, live = time.perf_counter() - began, max(sizes)
            pipeline.finish()
            final_s = time.perf_counter() - began - live_s
        print(" × ".join(str(n) for n in (*arguments.shape, arguments.energies)))
        print(f"live {live:.0f} MB in {live_s:.0f} s")
        print(f"with final pass {max(sizes):.0f} MB (<= 4000) in {final_s:.0f} s")


if __name__ == "__main__":
    main()
