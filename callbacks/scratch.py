"""The scratch folder: one folder per run, held by the processes at work on it, taken over when they are gone.

A run's folder has its frames (the journal), its documents (the log), working files, and results that wait for their
server (the spools). Whoever works on it holds a shared lock on the folder; who gets an exclusive one takes it over.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from txm_stream.callbacks.document_log import DocumentLog, logged_documents
from txm_stream.profile import Profile

logger = logging.getLogger("txm_stream")

FRAMES = "frames.bin"
CUT = "the acquisition ended without a stop document"
RunKind = Literal["measured", "left", "results"]
"""What a run is: it goes on, or a process that is gone left it, or left nothing but results to deliver."""
_LOG = "documents"
_HEAD = "run"
_BYTES_PER_PIXEL = 50
"""Raw frames, flats, and working stacks of the final pass, per pixel and energy, measured."""


def scratch_root(profile: Profile) -> Path:
    """Return the folder that holds one folder per run."""
    if profile.scratch_dir is not None:
        return profile.scratch_dir
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "user"
    return Path(tempfile.gettempdir()) / f"txm-stream-{user}"


def make_folder(root: Path, uid: str) -> Path:
    """Return a new folder for a run; where the scratch folder cannot be written, in the temporary directory."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Path(tempfile.mkdtemp(prefix=f"{uid[:8]}-", dir=root))
    except OSError as error:
        logger.warning("no scratch folder in %s (%s); going on in the temporary directory", root, error.strerror)
    try:
        return Path(tempfile.mkdtemp(prefix=f"txm-stream-{uid[:8]}-"))
    except OSError as error:
        logger.warning("no folder in the temporary directory either: %s", error.strerror)
        return root / uid


def room_problem(folder: Path, shape: tuple[int, ...], visits: int, *, limit_gb: float) -> str:
    """Return what is wrong with the room for a scan of so many energies and images ``(…, y, x)``; ``""``: nothing."""
    while not folder.exists():
        folder = folder.parent
    need_gb = visits * shape[-2] * shape[-1] * _BYTES_PER_PIXEL / 1e9
    free_gb = shutil.disk_usage(folder).free / 1e9
    if need_gb <= min(free_gb, limit_gb):
        return ""
    scan = f"a scan of {visits} energies of {shape[-2]} × {shape[-1]} pixels needs about {need_gb:.0f} GB of scratch"
    if free_gb < need_gb:
        return f"{scan}, and {folder} has {free_gb:.0f}: free some, or set scratch_dir to a larger disk"
    return f"{scan}, and limits.scratch_gb allows {limit_gb:g}"


class Hold:
    """A shared lock on a run's folder, as long as this process lives or until ``release``; ``held`` says whether."""

    def __init__(self, folder: Path) -> None:
        self._file: int | None = None
        with suppress(OSError):
            self._file = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        self.release()

    @property
    def held(self) -> bool:
        """Whether the folder is held; if not, another process has taken it over, or it is gone."""
        return self._file is not None

    def take_over(self) -> bool:
        """Whether nobody else holds the folder; nobody else can then take it over."""
        if self._file is None:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let others take it over."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def begin_log(folder: Path, target: str, profile: Profile) -> DocumentLog:
    """Begin the log of a run's documents; its head says where results go, and with which profile.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    log = DocumentLog(folder / _LOG)
    try:
        log.append(_HEAD, {"target": target, "profile": profile.model_dump(mode="json")})
    except OSError:
        log.close()
        raise
    return log


def unheard_documents(folder: Path, heard: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the logged documents of a run after the first ``heard``."""
    return islice(logged_documents(folder / _LOG), 1 + heard, None)


def keep_results_only(folder: Path) -> None:
    """Forget the documents and frames of a run that is done; results that wait for their server stay."""
    with suppress(OSError):
        for _, head in islice(logged_documents(folder / _LOG), 1):
            (folder / _LOG).unlink()
            log = DocumentLog(folder / _LOG)
            try:
                log.append(_HEAD, head)
            finally:
                log.close()
        (folder / FRAMES).unlink(missing_ok=True)


@dataclass(frozen=True)
class LeftRun:
    """What a process that is gone left of a run: documents to go on from, or results to deliver."""

    folder: Path
    hold: Hold
    profile: Profile = field(default_factory=Profile)
    documents: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def uid(self) -> str:
        """The run's uid; of mere results the name of their folder."""
        return str(self.documents[0][1]["uid"]) if self.documents else self.folder.name

    @property
    def end_reason(self) -> str | None:
        """Why the run ended, where it has no stop document."""
        ended = self.documents and self.documents[-1][0] == "stop"
        return None if ended else CUT


def left_runs(folders: Iterable[Path], target: str, *, keep_days: float) -> Iterator[LeftRun]:
    """Take over what processes that are gone left for ``target``; remove what is older than ``keep_days``."""
    for folder in sorted(folders):
        hold = Hold(folder)
        if _is_runs(folder) and hold.take_over():
            left = None
            if time.time() - _last_change(folder) > keep_days * 86400:
                logger.warning("%s, %g days old, is removed", folder, keep_days)
                shutil.rmtree(folder, ignore_errors=True)
            else:
                left = _left_run(folder, hold, target)
            if left is not None:
                yield left
                continue
        hold.release()


def _is_runs(folder: Path) -> bool:
    """Whether it is the folder of a run."""
    return folder.is_dir() and any((folder / name).exists() for name in (_LOG, FRAMES, "position-0-0", "failure"))


def _last_change(folder: Path) -> float:
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _left_run(folder: Path, hold: Hold, target: str) -> LeftRun | None:
    logged = list(logged_documents(folder / _LOG))
    if not logged or logged[0][1].get("target") != target:
        return None
    (_, head), *documents = logged
    if not documents:
        return LeftRun(folder, hold) if any(folder.rglob("*.batch")) else None
    try:
        profile = Profile.model_validate(head["profile"])
    except (KeyError, ValidationError) as error:
        logger.warning("%s cannot be taken up again: its profile is not valid any more (%s)", folder, error)
        return None
    for unfinished in [path for path in folder.iterdir() if path.is_dir()]:  # made again from the documents
        shutil.rmtree(unfinished, ignore_errors=True)
    return LeftRun(folder, hold, profile, tuple(documents))
