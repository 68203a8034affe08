"""What a watch keeps on disk to go on after it was stopped or killed: open runs, their documents, a lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from txm_stream.callbacks.document_log import DocumentLog, logged_documents
from txm_stream.errors import UnreachableError

logger = logging.getLogger("txm_stream")

_LATE_S = 86_400.0
"""Sources may offer a run again that began so long before the oldest open one."""


class WatchFolder:
    """The folder of the watch of one source for one target; one process at a time.

    Parameters
    ----------
    root
        Scratch folder; the watch's own folder is made in it.
    source, target
        What is watched, and where results go: another pair, another folder.
    keep_documents
        Whether documents are kept until their run is done, because the source cannot send them again.
    disk_bytes
        Documents of one run are kept up to this size.
    patience_s
        How long the worker of a watch that was killed is waited for.

    Attributes
    ----------
    lock
        File descriptor of the lock; a worker that inherits it holds the lock as long as it lives.
    since
        Unix time from which on runs are this watch's; ``resumed`` lists those that were left open, ``cut`` those of
        them whose results were finished before the run was.
    parts
        Runs that are done as energies of a scan of several and have no results of their own, with their times.

    Raises
    ------
    UnreachableError
        Another watch is at work in this folder.
    """

    def __init__(
        self,
        root: Path,
        source: str,
        target: str,
        *,
        keep_documents: bool,
        disk_bytes: float = float("inf"),
        patience_s: float = 60.0,
    ) -> None:
        name = hashlib.sha256(f"{source}\n{target}".encode()).hexdigest()[:12]
        self.path = root / f"watch-{name}"
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keep_documents = keep_documents
        self.disk_bytes = disk_bytes
        self._logs: dict[str, DocumentLog] = {}
        self.lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._take_lock(patience_s)
        state = self._read_state()
        self.since = float(state.get("since", time.time()))
        self.resumed: tuple[str, ...] = tuple(state.get("open", ()))
        self.cut = set(state.get("cut", ()))
        self.parts: dict[str, float] = dict(state.get("parts", {}))
        self._open: dict[str, float] = dict.fromkeys(self.resumed, self.since)
        self._clear_scratch()
        self._save()

    @property
    def scratch(self) -> Path:
        """Scratch folder of the watch's stream."""
        return self.path / "runs"

    def begin(self, start: Mapping[str, Any]) -> None:
        """Take note of a run that is being processed."""
        self._open[str(start["uid"])] = float(start.get("time", self.since))
        self._save()

    def settle(self, uid: str, begun: float) -> None:
        """Take note of a run that is done; ``begun`` is the time of its start document."""
        self._open.pop(uid, None)
        self.cut.discard(uid)
        self.since = min([max(self.since, begun), *self._open.values()])
        self.parts = {uid: at for uid, at in self.parts.items() if at >= self.since - _LATE_S}
        self._save()
        log = self._logs.pop(uid, None)
        if log is not None:
            log.close()
        self._document_file(uid).unlink(missing_ok=True)

    def settle_parts(self, parts: Mapping[str, float]) -> None:
        """Take note of the further runs of a scan that is done, with their times, before any of it is settled."""
        self.parts |= parts
        self._save()

    def cut_short(self, uids: Iterable[str]) -> None:
        """Take note of open runs that are about to be finished without their stop document."""
        self.cut.update(uids)
        self._save()

    def keep(self, uid: str, name: str, document: Mapping[str, Any]) -> None:
        """Append a document of an open run, where documents are kept; never raises."""
        if not self.keep_documents:
            return
        log = self._logs.setdefault(uid, DocumentLog(self._document_file(uid), disk_bytes=self.disk_bytes))
        try:
            log.append(name, document)
        except OSError as error:
            logger.warning("run %s: a document is not kept for a restart (%s)", uid[:8], error.strerror)

    def kept(self, uid: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents kept of a run; one that was cut short by a kill is cut off."""
        return logged_documents(self._document_file(uid))

    def close(self) -> None:
        """Release the folder."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        os.close(self.lock)

    def _take_lock(self, patience_s: float) -> None:
        deadline, told = time.monotonic() + patience_s, False
        while True:
            try:
                return fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if time.monotonic() > deadline:
                    os.close(self.lock)
                    raise UnreachableError(
                        f"another txm-stream watch follows this source for this target (it holds {self.path}); stop it"
                    ) from error
            if not told:
                logger.info("waiting for another watch of this source, or its worker, to end")
            told = True
            time.sleep(0.1)

    def _document_file(self, uid: str) -> Path:
        return self.path / "documents" / hashlib.sha256(uid.encode()).hexdigest()[:32]

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return state

    def _save(self) -> None:
        part = self.path / "state.part"
        state = {"since": self.since, "open": list(self._open), "cut": sorted(self.cut), "parts": self.parts}
        try:
            part.write_text(json.dumps(state), encoding="utf-8")
            part.rename(self.path / "state.json")
        except OSError as error:
            logger.warning("%s cannot be written (%s): a restart may do runs again", self.path, error.strerror)

    def _clear_scratch(self) -> None:
        """Remove what a killed worker left behind, but for results that wait for their server."""
        for folder in self.scratch.glob("*"):
            if not any(folder.rglob("*.batch")):
                shutil.rmtree(folder, ignore_errors=True)
