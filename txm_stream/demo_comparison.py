"""What the demo compares its scan with: the same without jitter, and without registration; in a patient process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from txm_stream.demo_parts import DemoOptions, frames_of, make_txm, simulated_energies, write_references
from txm_stream.errors import TxmStreamError
from txm_stream.figures import verdict_line
from txm_stream.judgement import judge
from txm_stream.pipeline import Pipeline
from txm_stream.profile import Profile

if TYPE_CHECKING:
    from txm_stream.judgement import Judgement

_NICE = 15


class Comparison:
    """Runs beside the scan at the lowest priority; a context manager that ends it."""

    def __init__(self, options: DemoOptions, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "txm_stream.demo_comparison", json.dumps(asdict(options), default=str), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            start_new_session=True,
        )

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def lines(self) -> list[str]:
        """Wait for it; return its lines.

        Raises
        ------
        TxmStreamError
            It failed.
        """
        out, error = self._process.communicate()
        if self._process.returncode:
            last = error.strip().splitlines()[-1:] or ["no reason given"]
            raise TxmStreamError(f"the comparison failed: {last[0]}")
        return out.splitlines()


def judged(options: DemoOptions, profile: Profile) -> Judgement:
    """Judge the scan of the options, processed without RunEngine and Tiled."""
    txm = make_txm(options)
    with Pipeline(profile) as pipeline:
        for frame in frames_of(txm, simulated_energies(options)):
            pipeline.keep(frame)
        return judge(pipeline.finish(), txm.truth())


def main(arguments: list[str]) -> None:
    """Print one line per case."""
    os.nice(_NICE)
    given: dict[str, Any] = json.loads(arguments[0])
    options = DemoOptions(**given | {"folder": None})
    folder = Path(arguments[1])
    profile = Profile(references=write_references(make_txm(options), folder / "references"), scratch_dir=folder)
    off = profile.model_copy(update={"registration": False})
    print(verdict_line("the same with jitter 0", judged(replace(options, jitter_px=0.0), profile)), flush=True)
    print(verdict_line("the same, registration off", judged(options, off)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
