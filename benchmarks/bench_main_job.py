"""Times and memory of the main job: hand-over, scan with and without us, a large scan, replay against live.

    python benchmarks/bench_main_job.py [--only handover scan large] [--energies 120]

The whole takes about a quarter of an hour; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.sources import open_source
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.demo import run_demo
from txm_stream.demo_parts import DemoOptions, run_engine
from txm_stream.phantoms import nickel_energies
from txm_stream.profile import Limits, Profile
from txm_stream.simulated_devices import SimulatedTXM
from txm_stream.stored_run import replay_stored

PAIRS = 3


class Timed:
    """A callback with a stopwatch, in ms."""

    def __init__(self, callback: Callable[[str, Any], None]) -> None:
        self.callback = callback
        self.ms: list[float] = []

    def __call__(self, name: str, document: Any) -> None:
        began = time.perf_counter()
        self.callback(name, document)
        self.ms.append(1e3 * (time.perf_counter() - began))


def bench_handover(folder: Path) -> None:
    """Time on the RunEngine's thread per document, 1024 x 1024, 5 frames per event."""
    for delivery in ("inline", "hdf5"):
        txm = SimulatedTXM((1024, 1024), chunk_size=5, delivery=delivery, directory=folder / delivery)
        profile = Profile(scratch_dir=folder / "scratch")
        with run_engine() as engine, XanesStream(profile) as stream:
            timed = Timed(stream)
            engine.subscribe(timed)
            engine(xanes_scan(txm, nickel_energies(16).tolist()))
        median, p99 = np.percentile(timed.ms, [50, 99])
        print(f"hand-over {delivery:6}  median {median:.3f} ms (<= 1)  p99 {p99:.3f} ms (<= 5)  n {len(timed.ms)}")


def scan_s(txm: SimulatedTXM, callback: Callable[[str, Any], None] | None) -> float:
    """Return how long a scan of about 60 s takes."""
    with run_engine() as engine:
        if callback is not None:
            engine.subscribe(callback)
        began = time.monotonic()
        engine(xanes_scan(txm, nickel_energies(60).tolist()))
        return time.monotonic() - began


def bench_scan(folder: Path) -> None:
    """Paired scans of 60 s without the subscription, with it, and with it while the server is down."""
    txm = SimulatedTXM((256, 256), exposure_s=0.1)
    profile = Profile(scratch_dir=folder / "scratch", limits=Limits(server_patience_s=1.0))
    nobody = TiledTarget("http://127.0.0.1:9/api/v1", "none")
    took: dict[str, list[float]] = {"without": [], "with": [], "server down": []}
    with EmbeddedServer(folder / "server") as server:
        for _ in range(PAIRS):
            took["without"].append(scan_s(txm, None))
            for name, target in (("with", TiledTarget(server.uri, server.api_key)), ("server down", nobody)):
                with XanesStream(profile, tiled=target) as stream:
                    took[name].append(scan_s(txm, stream))
    for name, seconds in took.items():
        ratio = np.median(np.array(seconds) / np.array(took["without"]))
        print(
            f"scan {name:11}  {np.median(seconds):.2f} s  {100 * (ratio - 1):+.2f} % (median of {PAIRS} pairs, <= 2 %)"
        )


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Yield a list to which the proportional memory of this process and its descendants is added, in MB."""
    import psutil

    ended = threading.Event()
    sizes: list[float] = []

    def watch() -> None:
        while not ended.wait(0.5):
            total = 0.0
            for process in (own, *own.children(recursive=True)):
                try:
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", memory.rss)
                except psutil.Error:
                    continue
            sizes.append(total / 1e6)

    own = psutil.Process()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def final_arrays(folder: Path, path: str) -> dict[str, Any]:
    """Return the arrays of a final result."""
    with open_source(folder) as client:
        final = client[(*path.split("/"), "final")]
        return {name: np.asarray(final[name].read()) for name in final}


def bench_large(folder: Path, *, size: int, energies: int, exposure_s: float) -> None:
    """One large scan: latency, memory, and its replay."""
    options = DemoOptions(size=size, energies=energies, exposure_s=exposure_s, folder=folder / "large", compare=False)
    with watched_memory() as sizes:
        live = run_demo(options, print)
    print(f"{size} x {size} x {energies}  latency median {live['latency_s_median']:.2f} s (<= 1.5)")
    print(f"{size} x {size} x {energies}  memory {max(sizes):.0f} MB proportional, all processes (<= 3000)")
    before = final_arrays(folder / "large", live["results_path"])
    replay_stored("latest", str(folder / "large"), say=print)
    after = final_arrays(folder / "large", live["results_path"])
    for name, array in before.items():
        same = "bitwise equal" if np.array_equal(array, after[name], equal_nan=True) else "NOT bitwise equal"
        largest = np.nanmax(np.abs(after[name].astype(np.float64) - array), initial=0.0)
        print(f"replay {name:12}  largest difference {largest:.2g} (<= 1e-6), {same}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=("handover", "scan", "large"), default=["handover", "scan", "large"]
    )
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--energies", type=int, default=120)
    parser.add_argument("--exposure", type=float, default=0.2, help="of the large scan, s per frame (5 per event)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="txm-stream-bench-") as folder:
        if "handover" in arguments.only:
            bench_handover(Path(folder))
        if "scan" in arguments.only:
            bench_scan(Path(folder))
        if "large" in arguments.only:
            bench_large(Path(folder), size=arguments.size, energies=arguments.energies, exposure_s=arguments.exposure)


if __name__ == "__main__":
    main()
