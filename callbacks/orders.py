"""The operator's hand: orders about a run, from Python or the command line, kept with its results.

An order travels as one more document of its run, after those that came before it: a worker that begins again hears it
at the same place. From another process it comes through a file of the scratch folder that the feeder looks at; of a
run that is over it is kept in the metadata of its results, and the next replay obeys it.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from txm_stream.errors import BadOrderError

DOCUMENT = "order"
"""Name under which an order travels among the documents of its run."""
METADATA = "orders"
"""Key of the orders in the metadata of the results."""
Action = Literal["reject", "accept", "region", "freeze", "release", "measure"]
_SUFFIX = ".orders"
_NEEDS = {"reject": "visit", "accept": "visit", "region": "region", "measure": "energies_eV"}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


class Order(BaseModel):
    """One order.

    ``reject`` a visit, ``accept`` it again; refit the mean spectrum of a ``region``; ``freeze`` the advice (the planned
    list goes on), ``measure`` energies next, ``release`` the advice again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    visit: int | None = Field(default=None, ge=1)
    """Number of the visit, from 1, as ``seq`` in the metrics."""
    region: tuple[int, int, int, int] | None = None
    """y0, y1, x0, x1 in pixels, ends excluded."""
    energies_eV: tuple[float, ...] | None = Field(default=None, min_length=1)
    position: int = Field(default=0, ge=0)
    """Sample position, from 0."""
    reason: str = ""
    by: str = Field(default_factory=_user)
    time: float = Field(default_factory=time.time)
    refused: str = ""
    """Why it could not be obeyed."""

    @model_validator(mode="after")
    def _complete(self) -> Order:
        needed = _NEEDS.get(self.action)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"{self.action} needs {needed}")
        if self.region is not None:
            y0, y1, x0, x1 = self.region
            if not (0 <= y0 < y1 and 0 <= x0 < x1):
                raise ValueError(f"region is {self.region}, expected y0 < y1 and x0 < x1 from 0 on")
        return self

    def document(self, run_uid: str) -> dict[str, Any]:
        """Return it as a document of a run."""
        return {"run_start": run_uid, **self.model_dump(mode="json", exclude_none=True)}

    def __str__(self) -> str:
        what = self.visit or self.region or self.energies_eV or ""
        return " ".join(filter(None, [self.action, str(what), self.reason and f"({self.reason})"]))


def make_order(**fields: Any) -> Order:
    """Return a checked order.

    Raises
    ------
    BadOrderError
        An action that does not exist, or one that lacks what it is about.
    """
    try:
        return Order(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise BadOrderError(f"order {fields.get('action')!r}: {where + ': ' if where else ''}{message}") from error


def read_order(document: Mapping[str, Any]) -> Order:
    """Return the order in a document; see :func:`make_order`."""
    return make_order(**{key: value for key, value in document.items() if key != "run_start"})


def recorded_orders(metadata: Mapping[str, Any]) -> list[Order]:
    """Return the orders in the metadata of results that were obeyed; what cannot be read is left out."""
    orders = []
    for entry in metadata.get(METADATA) or ():
        try:
            order = read_order(entry)
        except (BadOrderError, TypeError):
            continue
        if not order.refused:
            orders.append(order)
    return orders


def orders_of(client: Any, results_path: Sequence[str], run_uid: str) -> list[Order]:
    """Return the orders kept with the results of a run below ``results_path`` of a Tiled client."""
    node = _results(client, results_path, run_uid)
    return [] if node is None else recorded_orders(node.metadata)


def record_order(client: Any, results_path: Sequence[str], run_uid: str, order: Order) -> None:
    """Keep an order with the results of a run that is over: its next replay obeys it.

    Raises
    ------
    BadOrderError
        There are no results of this run, or it is still measured.
    """
    node = _results(client, results_path, run_uid)
    where = "/".join((*results_path, run_uid))
    if node is None:
        raise BadOrderError(f"there are no results in {where}; replay the run first")
    if node.metadata.get("status") == "live":
        raise BadOrderError(f"the run of {where} is still measured: give the order on the machine that processes it")
    kept = [*(node.metadata.get(METADATA) or ()), order.model_dump(mode="json", exclude_none=True)]
    node.update_metadata({METADATA: kept}, drop_revision=True)


def _results(client: Any, results_path: Sequence[str], run_uid: str) -> Any:
    """Return the node of a run's results, that of its first position where there are several, or ``None``."""
    try:
        node = client["/".join((*results_path, run_uid))]
    except KeyError:
        return None
    return node.get("position_0", node)


class OrderFiles:
    """Orders that other processes leave for the open runs, one file in the folder of each run.

    Parameters
    ----------
    root
        Scratch folder that holds one folder per run.

    Notes
    -----
    A run takes orders as long as the process that began it lives: that process holds a lock on the file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, IO[bytes]] = {}

    def open(self, run_uid: str, folder: Path) -> None:
        """Say that a run takes orders; ``folder`` is the run's own in the scratch folder."""
        file = (folder / f"{run_uid}{_SUFFIX}").open("a+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        self._open[run_uid] = file

    def close(self, run_uid: str) -> None:
        """Say that it takes no more."""
        file = self._open.pop(run_uid, None)
        if file is not None:
            Path(file.name).unlink(missing_ok=True)
            file.close()

    def leave(self, which: str, order: Order) -> str:
        """Write an order where the feeder of a run finds it; return the run's uid.

        Parameters
        ----------
        which
            ``"latest"``: the run begun, or given an order, last; or the beginning of a uid.

        Raises
        ------
        BadOrderError
            No run takes orders, or more than one is meant.
        """
        files = sorted(self.root.glob(f"*/*{_SUFFIX}"), key=lambda path: path.stat().st_ctime)
        taking = [path for path in files if _is_locked(path)]
        found = taking[-1:] if which == "latest" else [path for path in taking if path.stem.startswith(which)]
        if len(found) != 1:
            listed = ", ".join(path.stem[:8] for path in taking) or "none"
            raise BadOrderError(
                f"{'several runs begin' if found else 'no run begins'} with {which!r} among those that take orders in "
                f"{self.root} ({listed}); for a run that is over name its results with --from"
            )
        with found[0].open("ab", buffering=0) as file:
            file.write((order.model_dump_json(exclude_none=True) + "\n").encode())
            os.fsync(file.fileno())
        return found[0].stem

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is new, as documents with the uid of their run."""
        new: list[tuple[str, dict[str, Any]]] = []
        for uid, file in self._open.items():
            begin = file.tell()
            whole = file.read().rpartition(b"\n")[0]
            file.seek(begin + len(whole) + bool(whole))
            new += [(uid, {"run_start": uid, **json.loads(line)}) for line in whole.splitlines() if line.strip()]
        return new


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
