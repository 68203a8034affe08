"""The demo: a simulated scan on a RunEngine, processed live into an embedded Tiled server and judged by its truth."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from txm_stream.demo_comparison import Comparison
from txm_stream.demo_parts import (
    DemoOptions,
    Simulation,
    last_scan_id,
    run_engine,
    simulate,
    stored_raw,
)
from txm_stream.errors import MissingFramesError
from txm_stream.figures import simulated_figures, summary, verdict_line
from txm_stream.judgement import StoredResult, judge, load_truth
from txm_stream.memory import memory_text

if TYPE_CHECKING:
    from txm_stream.callbacks.report import RunReport

_COMPARED_UP_TO = 512
_START_S = 60.0
_PATIENCE_S = 3600.0
_JUDGEMENT_S = 10.0
Say = Callable[[str], None]


class Phases:
    """How long each part took, in s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())


def run_demo(
    options: DemoOptions,
    say: Say,
    *,
    progress: Callable[[int], None] | None = None,
    done: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run the demo; return the figures of the JSON line.

    Parameters
    ----------
    say
        Prints a line of the readable summary.
    progress
        Called with the number of energies measured so far.
    done
        Called with the figures before the live page waits for Ctrl-C.

    Raises
    ------
    MissingFramesError
        The run has no final result; the message says why.
    """
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="txm-stream-demo-"))).resolve()
    try:
        return _run(options, folder, say, progress or (lambda _: None), done or (lambda _: None))
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _run(
    options: DemoOptions,
    folder: Path,
    say: Say,
    progress: Callable[[int], None],
    done: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    from txm_stream.callbacks.stream import XanesStream
    from txm_stream.callbacks.tiled_server import EmbeddedServer
    from txm_stream.callbacks.tiled_target import TiledTarget

    say("starting a Tiled server, the worker of the live view and a simulated microscope")
    phases = Phases()
    port, key = _free_port(), secrets.token_hex(32)
    target = TiledTarget(f"http://127.0.0.1:{port}/api/v1", key)
    camera_files = [folder / "simulated", *sorted((folder / "simulated").glob("*/camera"))]
    with contextlib.ExitStack() as stack:
        with phases("start"), ThreadPoolExecutor(1) as pool:  # server, worker and microscope at the same time
            starting = pool.submit(EmbeddedServer, folder, port=port, api_key=key, readable_storage=camera_files)
            simulation = simulate(options, folder / "simulated" / uuid.uuid4().hex[:8])
            stream = XanesStream(simulation.profile, tiled=target)
            server = stack.enter_context(starting.result())
            stack.enter_context(stream)
            client = server.client()
            scan_id = last_scan_id(client)
            _load("bluesky.plans", "bluesky_tiled_plugins")
            stream.ready(_START_S)
        if options.page:
            stack.enter_context(_live_page(target, say))
        compared = None
        if options.compare and not options.adaptive and options.size <= _COMPARED_UP_TO:
            # meanwhile: a scan leaves time between its frames
            compared = stack.enter_context(Comparison(options, folder / "simulated" / "comparison"))
        meanwhile = () if compared is None else ("torch",)  # which the judgement needs; large scans have no time to win
        report = _scan(options, simulation, client, stream, folder, phases, say, progress, scan_id, meanwhile)
        memory = memory_text()
        final = client[(*str(report.results_path).split("/"), "final")]
        verdict = judge(StoredResult.from_tiled(final), load_truth(simulation.truth_path))
        for line in summary(report, tiled_uri=server.uri, warnings=tuple(final.metadata["attrs"].get("warnings", ()))):
            say(line)
        say(verdict_line("map", verdict))
        if options.adaptive:
            say(_steering_line(client[(*str(report.results_path).split("/"), "live", "advice")].read(), options))
        if compared is not None:
            with phases("rest of the comparison"):
                for line in compared.lines():
                    say(line)
        say(_where_it_is_kept(options.folder, report.run_uid))
        say(f"time: {phases}")
        say(f"memory: {memory}")
        answer = simulated_figures(report, verdict, tiled_uri=server.uri)
        done(answer)
        if options.page:
            _until_ctrl_c(say)
    return answer


def _scan(
    options: DemoOptions,
    simulation: Simulation,
    client: Any,
    stream: Any,
    folder: Path,
    phases: Phases,
    say: Say,
    progress: Callable[[int], None],
    scan_id: int,
    meanwhile: tuple[str, ...],
) -> RunReport:
    """Make the scan, and wait for its final result and its raw data."""
    from txm_stream.callbacks.adaptive_plan import adaptive_xanes
    from txm_stream.callbacks.advisor import EnergyAdvisor
    from txm_stream.callbacks.plans import xanes_scan

    energies = iter(range(1, simulation.energies_eV.size + 1))
    txm = simulation.txm
    with run_engine(scan_id) as engine, stored_raw(client, folder / "undelivered") as raw:
        engine.subscribe(raw)
        engine.subscribe(stream)
        txm.energy.subscribe(lambda **_: progress(next(energies, simulation.energies_eV.size)), run=False)
        planned = simulation.energies_eV.tolist()
        about: dict[str, Any] = {"sample": "simulated particles", "md": simulation.md()}
        with phases("scan"):
            if options.adaptive:  # moves take no time here: the map is waited for instead
                advisor = EnergyAdvisor(stream, planned, judgement_s=_JUDGEMENT_S)
                (uid,) = engine(adaptive_xanes(txm, advisor, planned, **about))
            else:
                (uid,) = engine(xanes_scan(txm, planned, **about))
            txm.save_truth(simulation.truth_path)
        say("all energies are measured; the final result is being computed")
        with phases("final pass"):
            _load(*meanwhile)
            report: RunReport | None = stream.wait(_PATIENCE_S, run_uid=uid)
    if report is None or report.status != "final" or report.results_path is None:
        why = f"it took longer than {_PATIENCE_S:g} s" if report is None else report.reason
        raise MissingFramesError(f"run {uid[:8]} has no final result: {why}")
    return report


def _steering_line(advice: Any, options: DemoOptions) -> str:
    """Say how the scan steered itself, from its table of advice."""
    stops = len(advice["energy_eV"].round(2).unique())
    return f"steered: {len(advice)} visits at {stops} of {options.energies} energies; {advice['reason'].iloc[-1]}"


def _where_it_is_kept(folder: Path | None, run_uid: str) -> str:
    if folder is None:
        return "nothing of this is kept; --output FOLDER keeps frames and results for view, replay and export"
    command = "txm-stream" if shutil.which("txm-stream") else sys.argv[0]
    again = f"{command} replay {run_uid[:8]} --from {folder}"
    return f"kept; its page: {command} view {folder}; the same from its frames: {again}"


@contextlib.contextmanager
def _live_page(target: Any, say: Say) -> Iterator[None]:
    import webbrowser

    from txm_stream.page_exports import page_exporters
    from txm_stream.view.server import RESULTS_PATH, ViewServer

    with ViewServer(target, exporters=page_exporters(target, RESULTS_PATH)) as view:
        say(f"live page: {view.page()}")
        webbrowser.open(view.page())
        yield


def _until_ctrl_c(say: Say) -> None:
    say("the live page stays until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1.0)
    say("the live page has ended")


def _load(*modules: str) -> None:
    """Import while another process is waited for: seconds of a demo."""
    for module in modules:
        importlib.import_module(module)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
