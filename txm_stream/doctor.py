"""What works here, one line each, with a remedy where something does not."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from txm_stream.errors import BadProfileError

if TYPE_CHECKING:
    from txm_stream.callbacks.source_address import SourceAddress
    from txm_stream.profile import Profile

_PACKAGES = ("txm-stream", "numpy", "scipy", "torch", "bluesky", "tiled", "bluesky-tiled-plugins")
_SCRATCH_GB = 10.0
_ANSWER_S = 15.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``remedy`` says what to do; ``needed`` is whether txm-stream cannot work without it."""

    name: str
    works: bool
    text: str
    remedy: str = ""
    needed: bool = True

    def __str__(self) -> str:
        mark = "ok" if self.works else ("FAILS" if self.needed else "no")
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{mark:5} {self.name}: {self.text}{remedy}"


def examine(tiled: str | None = None, source: str | None = None) -> Iterator[Finding]:
    """Look at everything: ``tiled`` is a server's address, default: an embedded one; ``source`` as for watch."""
    yield _guarded("versions", _versions)
    yield _guarded("torch", _torch)
    yield from _denoisers()
    yield _guarded("scratch disk", _disk)
    yield _guarded("Tiled", lambda: _tiled(tiled), "check the address, the API key (TILED_API_KEY) and its scopes")
    yield from examine_source(source)


def examine_source(source: str | None = None) -> Iterator[Finding]:
    """Look at what documents may come from; what is named in ``source`` is needed."""
    from txm_stream.callbacks.source_address import read_address

    address = None if source is None else read_address(source)
    kind = None if address is None else address.kind
    yield _guarded("0MQ", lambda: _zmq(address if kind == "zmq" else None), "install pyzmq")
    remedy = "check address and topic, and that this machine may reach the brokers by the names they go by"
    yield _guarded("Kafka", lambda: _kafka(address if kind == "kafka" else None), remedy)
    if address is not None and kind == "tiled":
        yield _guarded("Tiled source", lambda: _runs_there(address.where), "check the address and the API key")


def examine_profile(path: Path) -> Iterator[Finding]:
    """Look at a profile: what it says beyond the defaults, and whether its files and folders can be used."""
    from txm_stream.profile import Profile, describe_fields

    try:
        profile = Profile.load(path)
    except BadProfileError as error:
        yield Finding("profile", False, str(error), "txm-stream profile fields lists all fields")
        return
    said = [f"{field.name} = {field.value!r}" for field in describe_fields(profile) if not field.is_default]
    yield Finding("profile", True, f"{path}: {', '.join(said) or 'all defaults'}")
    if profile.references:
        yield _guarded(
            "references", lambda: _references(profile), "give files that exist, one per state or one library"
        )
    folder = profile.scratch_dir or Path(tempfile.gettempdir())
    remedy = "set scratch_dir to a folder that can be written"
    yield _guarded("scratch disk", lambda: _scratch(folder, profile.limits.scratch_gb), remedy)


def _references(profile: Profile) -> Finding:
    from txm_stream.energies.information import start_visits
    from txm_stream.energies.rules import allowed_windows, candidate_energies
    from txm_stream.unmixing import load_references

    references = load_references(profile.references)
    low, high = references.range_eV
    text = f"{', '.join(references.names)}, {low:.1f} to {high:.1f} eV, edge at {references.edge_eV:.1f} eV"
    candidates = candidate_energies(allowed_windows(profile.steering, references=references), step_eV=0.5)
    values = references.at(candidates)
    inside = np.isfinite(values).all(axis=1)
    start_visits(candidates[inside], values[inside])
    return Finding("references", True, text)


def _scratch(folder: Path, wanted_gb: float) -> Finding:
    folder.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(folder).free / 1e9
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
    enough = free_gb >= wanted_gb
    remedy = (
        "" if enough else f"limits.scratch_gb allows {wanted_gb:g} GB: lower it, or set scratch_dir to a larger disk"
    )
    return Finding(
        "scratch disk",
        enough,
        f"{free_gb:.0f} GB free in {folder}",
        "" if enough else remedy,
        needed=free_gb < _SCRATCH_GB,
    )


def _guarded(name: str, look: Callable[[], Finding], remedy: str = "reinstall txm-stream") -> Finding:
    try:
        return look()
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        return Finding(name, False, f"{type(error).__name__}: {line}", remedy)


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}"]
    missing = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    remedy = f"install {', '.join(missing)}" if missing else ""
    return Finding("versions", not missing, f"{', '.join(found)} on {platform.system()} {platform.machine()}", remedy)


def _torch() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("torch", True, f"CUDA, {torch.cuda.get_device_name(0)}")
    return Finding("torch", True, f"CPU, {torch.get_num_threads()} threads; no CUDA device, which is not needed")


def _denoisers() -> Iterator[Finding]:
    from txm_stream.denoising import available_denoisers, load_denoiser

    for name in available_denoisers():
        if name == "bm3d":
            continue
        try:
            load_denoiser(name)
        except Exception as error:
            yield Finding(f"denoiser {name}", False, str(error), "install txm-stream, or the plug-in, again")
        else:
            yield Finding(f"denoiser {name}", True, "ready")
    terms = "licence: free for NON-COMMERCIAL use only, closed binaries"
    if importlib.util.find_spec("bm3d") is None:
        remedy = "if those terms suit you: pip install 'txm-stream[bm3d]'"
        yield Finding("denoiser bm3d", False, f"not installed ({terms})", remedy, needed=False)
    else:
        yield Finding("denoiser bm3d", True, f"installed; {terms}")


def _disk() -> Finding:
    folder = Path(tempfile.gettempdir())
    free_gb = shutil.disk_usage(folder).free / 1e9
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
    remedy = "" if free_gb >= _SCRATCH_GB else "set scratch_dir in the profile to a larger disk"
    return Finding("scratch disk", free_gb >= _SCRATCH_GB, f"{free_gb:.0f} GB free in {folder}", remedy)


def _tiled(address: str | None) -> Finding:
    from txm_stream.callbacks.sources import open_source
    from txm_stream.callbacks.tiled_server import EmbeddedServer

    if address is not None:
        with open_source(address) as client:
            return _write_and_hear(client, address)
    with tempfile.TemporaryDirectory(prefix="txm-stream-doctor-") as folder, EmbeddedServer(folder) as server:
        return _write_and_hear(server.client(), "embedded server")


def _zmq(address: SourceAddress | None) -> Finding:
    from txm_stream.callbacks.zmq_source import proxy_answers

    text = f"pyzmq {version('pyzmq')}"
    if address is None:
        return Finding("0MQ", True, text, needed=False)
    if proxy_answers(f"tcp://{address.where}", _ANSWER_S):
        return Finding("0MQ", True, f"{text}; a proxy answers at {address.where}")
    remedy = (
        f"start bluesky-0MQ-proxy there, give the port it sends from, and open it in the firewall ({address.where})"
    )
    return Finding("0MQ", False, f"{text}; nothing that speaks 0MQ answers at {address.where}", remedy)


def _kafka(address: SourceAddress | None) -> Finding:
    from txm_stream.callbacks.kafka_source import REMEDY, check_topics

    needed = address is not None
    try:
        text = f"bluesky-kafka {version('bluesky-kafka')}, confluent-kafka {version('confluent-kafka')}"
    except PackageNotFoundError as error:
        return Finding("Kafka", False, f"{error.name} is not installed", REMEDY, needed=needed)
    if address is None:
        return Finding("Kafka", True, text, needed=False)
    count = check_topics(address.where, address.topics)
    return Finding("Kafka", True, f"{text}; {count} brokers answer, topics {', '.join(address.topics)} exist")


def _runs_there(where: str) -> Finding:
    from tiled.queries import SpecsQuery

    from txm_stream.callbacks.sources import open_source

    with open_source(where) as client:
        count = len(client.search(SpecsQuery(include=["BlueskyRun"], exclude=[])))
    return Finding("Tiled source", True, f"{where}: {count} runs")


def _write_and_hear(client: Any, where: str) -> Finding:
    """Write an array that grows by one frame, and wait until a subscription tells of it; leave nothing behind."""
    import uuid

    key = f"txm-stream-doctor-{uuid.uuid4().hex[:8]}"
    box = client.create_container(key=key)
    try:
        array = box.write_array(np.zeros((1, 8, 8), np.float32), key="noisy")
        heard = threading.Event()
        subscription = array.subscribe()

        def tell(_: Any) -> None:
            heard.set()

        subscription.new_data.add_callback(tell)
        starter = threading.Thread(target=lambda: subscription.start_in_thread(0), daemon=True)  # hangs without a cache
        starter.start()
        starter.join(_ANSWER_S)
        array.patch(np.ones((1, 8, 8), np.float32), offset=(1,), extend=True)
        if np.asarray(array.read()).shape != (2, 8, 8):
            return Finding("Tiled", False, f"{where}: what is read is not what was written", "check the server's log")
        streams = not starter.is_alive() and heard.wait(_ANSWER_S)
        if streams:
            subscription.disconnect()
    finally:
        client.delete_contents(key, recursive=True, external_only=False)
    remedy = (
        "" if streams else "the live page needs a streaming cache: set streaming_cache in the server's configuration"
    )
    return Finding("Tiled", True, f"{where}: writes, reads, {'streams' if streams else 'does NOT stream'}", remedy)
