"""Writes batches into a Tiled container; every write may be repeated without harm."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.callbacks.batch import Batch, Variable
from txm_stream.callbacks.tiled_target import Target
from txm_stream.errors import BadFrameError
from txm_stream.frame_store import release_pages

logger = logging.getLogger("txm_stream")

_CONFLICT = 409
_AT_ONCE = 3
"""Requests on their way together: the server prepares one while another is being sent."""
_Path = tuple[str, ...]


class TreeWriter:
    """Writes the parts of batches into a Tiled container. Every write may be repeated without harm.

    There must be one writer per tree: Tiled loses frames silently where two extend one array.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tags = list(getattr(target, "access_tags", ())) or None
        self._containers: dict[_Path, Any] = {}
        self._made: set[_Path] = set()
        """Containers made here: they hold what is in ``_nodes`` and nothing else."""
        self._nodes: dict[tuple[_Path, str], Any] = {}
        self._waiting: dict[tuple[_Path, str], dict[int, AnyArray]] = {}

    def write(self, kind: str, part: Batch) -> None:
        """Write one part of a batch (see :meth:`Batch.parts`)."""
        if kind == "open":
            self._open(part)
        elif kind == "append":
            (name, index), *_ = part.appends
            self._append(part, name, index, np.stack(list(part.appends.values())))
            for frame in part.appends.values():
                release_pages(frame)
        elif kind == "overwrite":
            self._overwrite_all(part)
        elif kind == "metadata":
            self._container(part.path).refresh().update_metadata(part.metadata, drop_revision=True)
        else:
            container = self._container(part.path)
            for child in container.values():
                if str(child.item["attributes"]["structure_family"]) != "container":
                    child.close_stream()
            container.close_stream()

    def close(self) -> None:
        """Close the connection; the next write opens another one."""
        root = self._containers.get(())
        self._forget(())
        if root is not None:
            self._target.release(root)

    def frames_waiting(self) -> list[Batch]:
        """Return the frames that wait for an earlier one which never came."""
        return [
            Batch(path, appends={(name, index): frame for index, frame in frames.items()}, count=0)
            for (path, name), frames in self._waiting.items()
            if frames
        ]

    def _container(self, path: _Path) -> Any:
        if path not in self._containers:
            if not path:
                self._containers[path] = self._target.connect()
            else:
                self._open(Batch(path))
        return self._containers[path]

    def _open(self, part: Batch) -> None:
        from tiled.structures.core import Spec

        path = part.path
        if path in self._containers and not part.replace_finished:
            return
        if not path:
            self._container(path)
            return
        parent = self._container(path[:-1])
        specs = [Spec(spec) for spec in part.specs]
        for _ in range(2):
            try:
                self._containers[path] = parent.create_container(
                    key=path[-1], metadata=part.metadata or {}, specs=specs, access_tags=self._tags
                )
                self._made.add(path)
                return
            except Exception as error:
                if status_code(error) != _CONFLICT:
                    raise
            existing = parent[path[-1]]
            if not (part.replace_finished and existing.metadata.get("status") in ("final", "failed")):
                self._containers[path] = existing
                return
            parent.delete_contents(path[-1], recursive=True, external_only=False)
            self._forget(path)

    def _forget(self, path: _Path) -> None:
        for container in [known for known in self._containers if known[: len(path)] == path]:
            del self._containers[container]
            self._made.discard(container)
        for node in [known for known in self._nodes if known[0][: len(path)] == path]:
            del self._nodes[node]

    def _node(self, path: _Path, name: str) -> Any | None:
        node = self._nodes.get((path, name))
        if node is None:
            container = self._container(path)
            if path in self._made:
                return None
            try:
                node = self._nodes[path, name] = container[name]
            except KeyError:
                return None
        return node

    def _create(self, part: Batch, name: str, item: Any) -> None:
        container = self._container(part.path)
        try:
            if hasattr(item, "columns"):
                node = container.write_table(item, key=name, access_tags=self._tags)
            else:
                about = part.variables.get(name, Variable())
                node = container.write_array(
                    item,
                    key=name,
                    dims=about.dims or None,
                    specs=[about.spec] if about.spec else [],
                    metadata={"attrs": about.attrs},
                    access_tags=self._tags,
                )
        except Exception:
            self._made.discard(part.path)  # it may be there all the same
            raise
        self._nodes[part.path, name] = node

    def _delete(self, part: Batch, name: str) -> None:
        logger.warning("results %s/%s have another shape than before and are replaced", "/".join(part.path), name)
        self._container(part.path).delete_contents(name, external_only=False)
        del self._nodes[part.path, name]

    def _append(self, part: Batch, name: str, index: int, frames: AnyArray) -> None:
        """Put consecutive frames (n, …) from ``index`` on, or keep them until the earlier ones are there."""
        _check(name, frames)
        node = self._node(part.path, name)
        if node is not None and index == 0 and (node.shape[1:] != frames.shape[1:] or node.dtype != frames.dtype):
            self._delete(part, name)
            node = None
        waiting = self._waiting.setdefault((part.path, name), {})
        if index > (0 if node is None else node.shape[0]):
            waiting |= {index + number: frame for number, frame in enumerate(frames)}
            return
        self._put(part, name, index, frames)
        while (following := self._nodes[part.path, name].shape[0]) in waiting:
            self._put(part, name, following, waiting[following][None])
            del waiting[following]

    def _put(self, part: Batch, name: str, index: int, frames: AnyArray) -> None:
        node = self._nodes.get((part.path, name))
        if node is None:
            self._create(part, name, frames[:1])  # one frame is one chunk
            if len(frames) > 1:
                self._put(part, name, 1, frames[1:])
            return
        if node.shape[1:] != frames.shape[1:] or node.dtype != frames.dtype:
            raise BadFrameError(
                f"frame {index} of {name} is {frames.dtype} {frames.shape[1:]}, expected {node.dtype} "
                f"{node.shape[1:]}; publish every frame of a stack with one shape and type"
            )
        node.patch(frames, offset=(index,), extend=True)

    def _overwrite_all(self, part: Batch) -> None:
        """Replace images and tables, several at a time; what is written leaves ``part``."""
        self._container(part.path)
        items = part.overwrites | part.tables
        if len(items) == 1:
            self._overwrite(part, *next(iter(items.items())))
            return
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="txm-publisher") as pool:
            written = {name: pool.submit(self._overwrite, part, name, item) for name, item in items.items()}
        for name, future in written.items():
            if future.exception() is None:
                part.overwrites.pop(name, None)
                part.tables.pop(name, None)
        for future in written.values():
            future.result()

    def _overwrite(self, part: Batch, name: str, item: Any) -> None:
        node = self._node(part.path, name)
        if hasattr(item, "columns"):
            item = item.reset_index(drop=True)
            if node is not None and list(node.columns) != list(item.columns):
                self._delete(part, name)
                node = None
            if node is not None:
                node.write_partition(0, item)
        else:
            item = np.ascontiguousarray(item)
            _check(name, item)
            if node is not None and not _fits(node, item):
                self._delete(part, name)
                node = None
            if node is not None and node.shape == item.shape:
                node.write(item)
            elif node is not None:
                node.patch(item, offset=(0,) * item.ndim, extend=True)
        if node is None:
            self._create(part, name, item)


def _fits(node: Any, array: AnyArray) -> bool:
    """Whether an array can hold another one as it is, or by growing along its first axis."""
    shape = node.shape
    grows = len(shape) == array.ndim and shape[1:] == array.shape[1:] and shape[:1] <= array.shape[:1]
    return bool(node.dtype == array.dtype and grows)


def _check(name: str, array: AnyArray) -> None:
    if array.dtype.kind not in "fiubU" or array.size == 0:
        raise BadFrameError(
            f"{name} is {array.dtype} {array.shape}; an array of numbers with at least one element can be published"
        )


def status_code(error: BaseException) -> int | None:
    """Return the HTTP status that an error stands for, ``None`` where there was no answer."""
    if type(error).__name__ == "Conflicts":
        return _CONFLICT
    code = getattr(getattr(error, "response", None), "status_code", None)
    return int(code) if code is not None else None
