"""Both plans from the start-up profile, in a real RE Manager of queueserver with a real Redis."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from txm_stream.demo_parts import write_references
from txm_stream.simulated_devices import SimulatedTXM

STARTUP = Path(__file__).parents[1] / "profiles" / "startup"
PERMISSIONS = """
user_groups:
  root:
    allowed_plans: [null]
    forbidden_plans: [":^_"]
    allowed_devices: [null]
    forbidden_devices: [":^_"]
    allowed_functions: [null]
  primary:
    allowed_plans: [":.*"]
    allowed_devices: [":.*"]
    allowed_functions: [":.*"]
"""
USER = {"user": "tester", "user_group": "primary"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Manager:
    """A running RE Manager."""

    def __init__(self, address: str) -> None:
        from bluesky_queueserver.manager.comms import ZMQCommSendThreads

        self.client = ZMQCommSendThreads(zmq_server_address=address, raise_exceptions=False)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return dict(self.client.send_message(method=method, params=params, timeout=5000))

    def until(self, what: Any, *, timeout_s: float) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        status: dict[str, Any] = {}
        while time.monotonic() < end:
            status = self.ask("status")
            if status.get("manager_state") and what(status):
                return status
            time.sleep(0.3)
        raise AssertionError(f"not within {timeout_s:g} s: {status}")


@pytest.fixture
def manager(tmp_path: Path, shared_server: Any) -> Iterator[Manager]:
    redis = shutil.which("redis-server")
    if redis is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    profile = tmp_path / "profile.toml"
    references = write_references(SimulatedTXM((32, 32)), tmp_path / "references")
    names = ", ".join(f'"{path}"' for path in references)
    profile.write_text(
        f'references = [{names}]\nscratch_dir = "{tmp_path / "scratch"}"\n[steering]\ndeadline_s = 10.0\n'
    )
    (tmp_path / "permissions.yaml").write_text(PERMISSIONS)
    ports = [free_port() for _ in range(3)]
    control = f"tcp://127.0.0.1:{ports[1]}"
    environment = os.environ | {
        "TXM_STREAM_PROFILE": str(profile),
        "TXM_STREAM_TILED": shared_server.uri,
        "TILED_API_KEY": shared_server.api_key,
    }
    command = [
        str(Path(sys.executable).with_name("start-re-manager")),
        *("--startup-dir", str(STARTUP), "--keep-re", "--redis-addr", f"127.0.0.1:{ports[0]}"),
        *("--zmq-control-addr", control, "--zmq-info-addr", f"tcp://127.0.0.1:{ports[2]}"),
        *("--user-group-permissions", str(tmp_path / "permissions.yaml")),
        *("--existing-plans-devices", str(tmp_path / "existing.yaml")),
    ]
    stored = [redis, "--port", str(ports[0]), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        database = subprocess.Popen(stored, stdout=log, stderr=log, cwd=tmp_path)
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
        made = Manager(control)
        try:
            made.until(lambda status: status["manager_state"] == "idle", timeout_s=60)
            yield made
        finally:
            made.ask("environment_destroy")
            made.ask("manager_stop", option="safe_off")
            made.client.close()
            made.client._ctx.term()
            for process in (server, database):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def test_the_startup_profile_runs_alone(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    source = (STARTUP / "10-txm-stream.py").read_text(encoding="utf-8")
    exec(compile(source, "startup", "exec"), namespace)
    try:
        messages = [message.command for message in namespace["xanes_scan"]([8300.0, 8400.0])]
        assert messages.count("open_run") == 1
        assert namespace["PLANNED_EV"][0] < 8300
    finally:
        namespace["xanes_stream"].close()
        engine = namespace["RE"]
        engine.loop.call_soon_threadsafe(engine.loop.stop)
        engine._th.join(5)
        engine.loop.close()


def test_both_plans_run_in_a_re_manager(manager: Manager, shared_server: Any) -> None:
    assert manager.ask("environment_open")["success"]
    opened = manager.until(lambda s: s["manager_state"] != "creating_environment", timeout_s=120)
    assert opened["worker_environment_exists"]
    plans = manager.ask("plans_allowed", user_group="primary")["plans_allowed"]
    assert {"adaptive_xanes", "xanes_scan"} <= set(plans)
    items = [
        {"item_type": "plan", "name": "adaptive_xanes", "kwargs": {"most_visits": 9, "sample": "queued"}},
        {"item_type": "plan", "name": "xanes_scan", "kwargs": {"energies_eV": [8300.0, 8345.0, 8350.0, 8400.0]}},
    ]
    for item in items:
        added = manager.ask("queue_item_add", item=item, **USER)
        assert added["success"], added["msg"]
    assert manager.ask("queue_start")["success"]
    status = manager.until(lambda s: s["items_in_queue"] == 0 and s["manager_state"] == "idle", timeout_s=240)
    assert status["items_in_history"] == 2
    history = manager.ask("history_get")["items"]
    assert [entry["result"]["exit_status"] for entry in history] == ["completed", "completed"]
    uid = history[0]["result"]["run_uids"][0]
    results = shared_server.client()["processed", "txm_stream", uid]
    end = time.monotonic() + 120
    while results.refresh().metadata["status"] == "live" and time.monotonic() < end:
        time.sleep(0.5)
    assert results.metadata["status"] == "final"
    assert len(results["live", "advice"].read()) == 9
