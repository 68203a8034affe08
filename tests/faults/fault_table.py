"""The table of faults: server, disk, worker, operator; those of documents, frames and files are beside it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from bluesky.utils import RunEngineInterrupted
from fault_case import Case, Documents, Fault
from fault_documents import DOCUMENT_FAULTS, FRAME_FAULTS
from fault_files import FILE_FAULTS
from fault_proxy import Mode, Trouble

Act = Callable[[Case], None]


# -- server


def killed(seconds: float, soak_seconds: float) -> Act:
    """Kill Tiled; start it again after so long."""

    def act(case: Case) -> None:
        case.bench.server.kill()
        case.later(soak_seconds if case.soak else seconds, case.bench.server.start)

    return act


def proxy(trouble: Trouble, seconds: float, soak_seconds: float, *, status: int = 200, wait: float = 0.0) -> Act:
    """Let the proxy spoil every request for so long."""

    def act(case: Case) -> None:
        mode = Mode(trouble, status, 10.0 if case.soak and wait else wait)
        case.bench.proxy.spoil(mode, soak_seconds if case.soak else seconds)

    return act


def was_hit(case: Case) -> None:
    """The proxy had something to spoil; else the case says nothing."""
    case.stream.wait(240, run_uid=case.uid)
    assert case.bench.proxy.hits > 0


def answers(status: int, size: Any = "slow") -> Fault:
    """Tiled, or what stands in front of it, answers every request with a status."""
    act = proxy("status", 2.0, 20.0, status=status)
    return Fault(f"Tiled answers {status}", act=act, undo=was_hit, target="proxy", size=size)


def back_before_delivery(case: Case) -> None:
    """A server that is gone for good is started again only when the report is there."""
    case.stream.wait(240, run_uid=case.uid)
    case.bench.server.start()


IMPATIENT = (("limits", {"server_patience_s": 1.0}),)
SERVER_FAULTS = [
    Fault("Tiled killed for 1 s", act=killed(1.0, 1.0)),
    Fault("Tiled killed for longer", act=killed(5.0, 60.0), waits=None, size="slow"),
    Fault(
        "Tiled killed for good",
        act=lambda case: case.bench.server.kill(),
        undo=back_before_delivery,
        options=IMPATIENT,
        waits=True,
    ),
    Fault("Tiled slow", act=proxy("slow", 3.0, 60.0, wait=0.5), undo=was_hit, target="proxy", size="slow"),
    answers(401),
    answers(403),
    answers(413, "normal"),
    answers(500),
    answers(503),
    Fault("connections reset", act=proxy("reset", 1.5, 20.0), undo=was_hit, target="proxy", size="slow"),
    Fault("connections reset after the request", act=proxy("reset after", 1.5, 20.0), undo=was_hit, target="proxy"),
    Fault("answers cut in half", act=proxy("half an answer", 1.5, 20.0), undo=was_hit, target="proxy", size="slow"),
]


# -- disk


def scratch_gone(case: Case) -> None:
    """A file stands where the scratch folder should be."""
    scratch = case.bench.scratch
    if scratch.exists():
        scratch.rename(scratch.with_name("scratch-away"))
    scratch.write_text("in the way")


def scratch_back(case: Case) -> None:
    case.stream.wait(240, run_uid=case.uid)
    scratch = case.bench.scratch
    scratch.unlink()
    if scratch.with_name("scratch-away").exists():
        scratch.with_name("scratch-away").rename(scratch)


def no_room(case: Case) -> None:
    """The disk is full for the frames that are handed over, from now on, and for the worker (see ``trouble``)."""
    write = os.pwrite

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    os.pwrite = full
    case.kept["undo"] = lambda: setattr(os, "pwrite", write)


def undone(case: Case) -> None:
    case.stream.wait(240, run_uid=case.uid)
    case.kept["undo"]()


DISK_FAULTS = [
    Fault("scratch folder unwritable", prepare=scratch_gone, undo=scratch_back, moments=("early",)),
    Fault(
        "disk full",
        prepare=lambda case: trouble("disk full")(case),
        act=no_room,
        undo=undone,
        moments=("middle", "early", "late"),
    ),
]


# -- worker


def trouble(kind: str) -> Act:
    """Have the worker misbehave at the moment, see ``fault_processor.py``."""
    return lambda case: case.md.update(trouble=kind, trouble_at=case.at)


def may_go_well(kind: str) -> Act:
    def prepare(case: Case) -> None:
        trouble(kind)(case)
        case.kept["may go well"] = True

    return prepare


def no_python(case: Case) -> None:
    """The interpreter that workers are started with is not there any more, and the worker dies."""
    python = sys.executable
    sys.executable = "/bin/false"
    case.kept["undo"] = lambda: setattr(sys, "executable", python)
    trouble("killed")(case)
    if case.soak:
        case.later(10.0, case.kept["undo"])


def no_result(case: Case) -> None:
    undone(case)
    case.kept["no result"] = True


WORKER_FAULTS = [
    Fault("worker killed", prepare=trouble("killed"), restarts=1),
    Fault("worker hung", prepare=trouble("hung"), restarts=1, options=(("stuck_s", 15.0),), size="slow"),
    Fault("worker raises", prepare=trouble("raises"), restarts=1, size="slow"),
    Fault("no memory once", prepare=trouble("memory"), restarts=1),
    Fault(
        "no memory any more",
        prepare=may_go_well("no more memory"),
        restarts=1,
        options=(("stuck_s", 15.0),),
        size="slow",
    ),
    Fault(
        "worker cannot start",
        prepare=no_python,
        undo=no_result,
        restarts=4,
        status="failed",
        reason="the worker died",
        own_stream=True,
        moments=("middle",),
        size="slow",
    ),
]


# -- operator


def pressed_twice(case: Case) -> None:
    """Ctrl-C twice, as the operator does who does not want to wait for the next checkpoint."""

    def press() -> None:
        for _ in range(2):
            if case.engine.state == "running":
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.15)  # what comes within 0.1 s the RunEngine takes for one press

    case.later(0.0, press)


def paused(case: Case) -> None:
    case.later(0.0, case.engine.request_pause)


def interrupted(then: Callable[[Case], object], exit_status: str = "success") -> Callable[[Case], None]:
    """Run the plan until it is interrupted, then go on as the operator says."""

    def scan(case: Case) -> None:
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            with pytest.raises(RunEngineInterrupted):
                case.engine(case.plan())
            then(case)
        finally:
            signal.signal(signal.SIGINT, before)
        case.kept["exit_status"] = exit_status

    return scan


def as_sent(case: Case) -> Documents:
    """The documents that the RunEngine sent: a scan that was interrupted has other exposures."""
    return case.documents


def broken_handler(case: Case) -> None:
    """A log handler of the site raises, while there is something to log."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log server is gone")

    handler = Broken()
    logger = logging.getLogger("txm_stream")
    logger.addHandler(handler)
    case.kept["undo"] = lambda: logger.removeHandler(handler)


def something_to_log(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
    """Documents that are worth a warning in every thread, when the fault comes."""
    if not hit:
        return [(name, document)]
    return [(name, document), ("start", {}), (3, {}), ("descriptor", {"run_start": case.uid}), ("datum", None)]


# A plan that closes its run itself, as most do, leaves the operator's words to RE.abort out of its stop document.
# Exposures are long enough for the keys to be pressed while the plan still runs, also at its last event but one.
ABORTED: dict[str, Any] = {"frames": as_sent, "moments": ("middle", "early", "late"), "txm": {"exposure_s": 0.3}}
OPERATOR_FAULTS = [
    Fault(
        "Ctrl-C twice, then resume", act=pressed_twice, scan=interrupted(lambda case: case.engine.resume()), **ABORTED
    ),
    Fault(
        "Ctrl-C twice, then abort",
        act=pressed_twice,
        scan=interrupted(lambda case: case.engine.abort("shutter stuck"), "abort"),
        reason=r"run aborted after \d energies",
        size="slow",
        **ABORTED,
    ),
    Fault(
        "RE.abort",
        act=paused,
        scan=interrupted(lambda case: case.engine.abort("sample gone"), "abort"),
        reason=r"run aborted after \d energies",
        **ABORTED,
    ),
    Fault(
        "RE.halt",
        act=paused,
        scan=interrupted(lambda case: case.engine.halt(), "abort"),
        reason=r"run aborted after \d energies",
        size="slow",
        **ABORTED,
    ),
    Fault("log handler broken", prepare=broken_handler, change=something_to_log, undo=undone),
    Fault(
        "log handler broken, worker killed",
        prepare=lambda case: (broken_handler(case), trouble("killed")(case), None)[-1],
        undo=undone,
        restarts=1,
        size="slow",
    ),
]

FAULTS = [
    *SERVER_FAULTS,
    *DISK_FAULTS,
    *FILE_FAULTS,
    *FRAME_FAULTS,
    *DOCUMENT_FAULTS,
    *WORKER_FAULTS,
    *OPERATOR_FAULTS,
]
