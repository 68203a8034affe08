"""Results on a server with logins and access tags: who may see them, and without any API key in sight."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bluesky import RunEngine
from facility import free_port

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks.plans import xanes_scan
from txm_stream.callbacks.sources import open_source
from txm_stream.callbacks.tiled_target import InProcessClientError, TiledTarget
from txm_stream.errors import BadProfileError, UnreachableError
from txm_stream.profile import Profile, describe_fields
from txm_stream.simulated_devices import SimulatedTXM

LogIn = Callable[..., Any]
TAG = "beamline_18"
SCOPES = ["read:metadata", "read:data", "write:metadata", "write:data", "create:node", "delete:node"]
CONFIG = """
authentication:
  secret_keys: ["{secret}"]
  providers:
    - provider: people
      authenticator: tiled.authenticators:DictionaryAuthenticator
      args: {{users_to_passwords: {{alice: "of-alice", bob: "of-bob"}}}}
access_control:
  access_policy: tiled.access_control.access_policies:TagBasedAccessPolicy
  args: {{provider: people, access_tags_parser: "tiled.access_control.access_tags:AccessTagsParser"}}
database: {{uri: "sqlite:///{folder}/people.db", init_if_not_exists: true}}
trees:
  - path: /
    tree: catalog
    args:
      uri: "sqlite:///{folder}/catalog.db"
      writable_storage: ["{folder}/data"]
      init_if_not_exists: true
      top_level_access_tags: ["{tag}", "guests"]
"""


def define_tags(folder: Path) -> None:
    """Alice may do everything with the beamline's data, both may see what is at the top."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.access_control.access_tags import create_access_tags_tables, update_access_tags_tables

    async def define() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/catalog.db")
        await create_access_tags_tables(engine)
        tags: dict[str, dict[str, list[str]]] = {TAG: {"alice": SCOPES}, "guests": {"bob": ["read:metadata"]}}
        await update_access_tags_tables(engine, tags | {"public": {}}, {TAG: {"alice"}}, {"public"})
        await engine.dispose()

    asyncio.run(define())


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("people")
    config = folder / "config.yml"
    config.write_text(CONFIG.format(folder=folder, tag=TAG, secret=os.urandom(16).hex()))
    port = free_port()
    address = f"http://127.0.0.1:{port}/api/v1"
    command = [sys.executable, "-m", "tiled", "serve", "config", str(config), "--port", str(port)]
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(300):
                try:
                    if httpx.get(f"{address}/").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            else:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            define_tags(folder)
            yield address
        finally:
            process.kill()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where nobody is logged in, here and in the worker."""
    monkeypatch.delenv("TILED_API_KEY", raising=False)
    monkeypatch.setenv("TILED_CACHE_DIR", str(tmp_path / "tiled"))
    return tmp_path


@pytest.fixture
def log_in(uri: str, home: Path) -> Iterator[LogIn]:
    """Client of somebody who gave his password, as after ``tiled login``."""
    from tiled.client.constructors import from_context
    from tiled.client.context import Context, password_grant

    opened = []

    def log_in(name: str, *, remember: bool = True) -> Any:
        context = Context.from_any_uri(uri)[0]
        opened.append(context.http_client)
        provider = context.server_info.authentication.providers[0]
        tokens = password_grant(context.http_client, provider.links["auth_endpoint"], "people", name, f"of-{name}")
        context.configure_auth(tokens, remember_me=remember)
        return from_context(context)

    yield log_in
    for http_client in opened:
        http_client.close()


def test_a_login_on_this_machine_is_enough_and_the_tags_say_who_sees_the_results(
    uri: str, home: Path, log_in: LogIn
) -> None:
    profile = Profile.from_fields(
        {"scratch_dir": home / "scratch", "tiled": {"access_tags": [TAG], "specs": ["BeamlineResult"]}}
    )
    engine = RunEngine({}, context_managers=[])
    alice = log_in("alice")
    with XanesStream(profile, tiled=alice) as stream:
        engine.subscribe(stream)
        (uid,) = engine(xanes_scan(SimulatedTXM((48, 48)), [8320.0, 8340.0, 8345.0, 8350.0, 8360.0, 8380.0]))
        report = stream.wait(120)
    assert report is not None
    assert report.status == "final", report
    assert not report.undelivered
    results = alice["/".join((*profile.results_path, uid))]
    assert [spec.name for spec in results.specs] == ["TXMStream", "BeamlineResult"]
    nodes = [results, results["live"], results["live/metrics"], results["final"], results["final/denoised"]]
    assert [set(node.access_tags) for node in nodes] == [{TAG}] * len(nodes)
    bob = log_in("bob", remember=False)
    assert "processed" not in bob


def test_without_key_and_login_it_is_said_how_to_get_one(uri: str, home: Path, log_in: LogIn) -> None:
    with pytest.raises(UnreachableError, match=r"set TILED_API_KEY.*profile.*tiled login"), open_source(uri):
        pass
    with pytest.raises(InProcessClientError, match="remember_me"):
        TiledTarget.from_client(log_in("alice", remember=False))


def test_a_key_in_the_profile_is_used_never_shown_and_nobody_else_may_read_the_file(
    uri: str, home: Path, log_in: LogIn
) -> None:
    made = log_in("alice", remember=False).context.create_api_key(expires_in="1h")
    key = str(made["secret"] if isinstance(made, dict) else made.secret)
    file = home / "profile.toml"
    file.write_text(f'[tiled]\napi_key = "{key}"\n')
    file.chmod(0o640)
    with pytest.raises(BadProfileError, match="chmod 600"):
        Profile.load(file)
    file.chmod(0o600)
    profile = Profile.load(file)
    shown = [repr(profile), profile.model_dump_json(), *(str(field.value) for field in describe_fields(profile))]
    assert not any(key in text for text in shown)
    with open_source(uri, profile) as client:
        assert client.context.whoami()["identities"][0]["id"] == "alice"
        assert key not in repr(TiledTarget.from_client(client))
