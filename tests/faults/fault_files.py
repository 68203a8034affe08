"""Faults of pixel files: late, missing, cut off, of another shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fault_case import Case, Documents, Fault
from fault_documents import GONE, WITHIN, Change, without_hit

from txm_stream.simulated_devices.hdf5_writer import DATASET


def file_elsewhere(make: Callable[[Case, Path], None]) -> Change:
    """The pixel file of the event that is hit is in a folder where ``make`` puts it, or not."""

    def changed(case: Case, name: str, document: dict[str, Any], hit: bool) -> Documents:
        if name == "resource" and case.events + 1 == case.at:
            case.kept["file"] = Path(document["root"]) / document["resource_path"]
            return [(name, {**document, "root": str(case.tmp / "elsewhere")})]
        if hit:
            make(case, case.tmp / "elsewhere" / case.kept["file"].name)
        return [(name, document)]

    return changed


def late_file(case: Case, path: Path) -> None:
    """The file shows up after a while."""
    case.later(20.0 if case.soak else 1.0, lambda: path.parent.symlink_to(case.kept["file"].parent))


def truncated_file(case: Case, path: Path) -> None:
    """Half of the file's bytes are there."""
    path.parent.mkdir()
    content = case.kept["file"].read_bytes()
    path.write_bytes(content[: len(content) // 2])


def wrong_shape_file(case: Case, path: Path) -> None:
    """The file holds images of another camera region."""
    path.parent.mkdir()
    with h5py.File(path, "w", libver="latest") as file:
        file[DATASET] = np.ones((2, 24, 20), np.uint16)


def impatient(case: Case) -> None:
    """Do not wait half a minute for pixels after the stop document."""
    case.md["last_patience_s"] = 40.0 if case.kept.get("late") else 1.0


def late(case: Case) -> None:
    case.kept["late"] = True
    impatient(case)


FILES: dict[str, Any] = {"txm": {"delivery": "hdf5"}, "plan": {"restage": True}, "moments": WITHIN}

FILE_FAULTS = [
    Fault("file late", prepare=late, change=file_elsewhere(late_file), size="slow", **FILES),
    Fault("file missing", prepare=impatient, change=file_elsewhere(lambda *_: None), **GONE, **FILES),
    Fault("file truncated", prepare=impatient, change=file_elsewhere(truncated_file), size="slow", **GONE, **FILES),
    Fault(
        "file of another shape",
        change=file_elsewhere(wrong_shape_file),
        frames=without_hit,
        warning="rejected",
        size="slow",
        **FILES,
    ),
]
