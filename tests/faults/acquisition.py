"""An acquisition in a process of its own that is killed in mid-scan: ``python acquisition.py '{…}'``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from bluesky import RunEngine

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM


def main(settings: dict[str, Any]) -> None:
    """Scan; a moment after event ``at`` is handed over, the process and what ``victims`` names are killed."""
    profile = Profile.from_fields(settings["profile"])
    engine = RunEngine({}, context_managers=[])
    stream = XanesStream(profile, tiled=TiledTarget(settings["uri"], settings["key"]))
    stream.ready(120)
    txm = SimulatedTXM(tuple(settings["txm"].pop("shape")), **settings["txm"])
    events = 0

    def tap(name: str, document: dict[str, Any]) -> None:
        nonlocal events
        stream(name, document)
        events += name == "event"
        if name == "start":
            Path(settings["uid_file"]).write_text(document["uid"])
        if name == "event" and events == settings["at"]:
            time.sleep(2.0)  # the feeder passes it on
            worker: Any = stream._supervisor.worker
            if "worker" in settings["victims"]:
                os.kill(worker.process.pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    engine.subscribe(tap)
    engine(xanes_scan(txm, settings["energies"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
