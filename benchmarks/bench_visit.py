"""Time per visit of what the live view does before denoising, late in a long scan of large frames.

python benchmarks/bench_visit.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from txm_stream.alignment.causal import CausalRegistration
from txm_stream.arrays import Stack
from txm_stream.device import fixed_threads
from txm_stream.frame_store import FrameStore
from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.resampling import bin_image, shift_image
from txm_stream.subspace.gram import SmoothedGram
from txm_stream.subspace.projection import Projection
from txm_stream.subspace.rank import components_above_noise


def per_visit(visits: int = 288, side: int = 1024) -> None:
    """Time per visit of what the live view does before denoising, late in a long scan of large frames."""
    phantom = make_phantom((side, side), seed=0)
    energies = nickel_energies(visits)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, side, side), dtype=np.float32)
    chosen = (energies[0], 8352.0, energies[-1])
    rows = [np.append(phantom.spectra(e)[0], [1.0, (e - 8345) / 100]) for e in (*energies, *chosen)]
    design, known = np.stack(rows[:-3]), np.stack(rows[-3:])
    parts = [phantom.optical_density(float(e)) for e in chosen]
    mix = design @ np.linalg.pinv(known)  # every frame as a mixture of three: cheap to make, of the right rank
    sigma = 0.05

    def frame(t: int) -> Stack:
        image = sum(np.float32(m) * p for m, p in zip(mix[t], parts, strict=True))
        return np.asarray(image + np.float32(sigma) * np.roll(noise[t % 4], 37 * t, axis=1), dtype=np.float32)

    gram = SmoothedGram((side, side))
    store = FrameStore(Path(tempfile.mkdtemp()) / "frames")
    projection = Projection((side, side), lambda t: store.get("registered", t) / np.float32(sigma))
    causal = CausalRegistration((side // 2, side // 2))
    field = np.ones((side, side), dtype=bool)
    field[:3] = field[:, -3:] = False
    registering, keeping, following = [], [], []
    for t in range(visits):
        image = frame(t)
        began = time.perf_counter()
        found = causal.partial_fit(bin_image(image, 2), sigma / 2)
        shift_image(image, found.shift_px * 2)
        registering.append(time.perf_counter() - began)
        began = time.perf_counter()
        store.put("registered", t, image)
        keeping.append(time.perf_counter() - began)
        began = time.perf_counter()
        gram.partial_fit(t, image, field, sigma)
        spectrum = gram.spectrum()
        level = gram.noise_level()
        projection.turn(spectrum.vectors, components_above_noise(spectrum, level, margin=2.0))
        following.append(time.perf_counter() - began)
    store.close()
    last = slice(-48, None)
    print(f"\n## Per visit, {side} x {side}, visits {visits - 48} to {visits}")
    print(f"registration and moving {1e3 * np.mean(registering[last]):.0f} ms")
    print(f"writing it to the frame store {1e3 * np.mean(keeping[last]):.0f} ms")
    print(f"Gram matrix, spectrum, noise, projection {1e3 * np.mean(following[last]):.0f} ms (<= 40), rebuilds counted")
    together = np.mean(registering[last]) + np.mean(keeping[last]) + np.mean(following[last])
    print(f"together {1e3 * together:.0f} ms (<= 150)")
    print(f"exact projections in the whole scan: {projection.n_rebuilds}")


if __name__ == "__main__":
    with fixed_threads():
        per_visit()
