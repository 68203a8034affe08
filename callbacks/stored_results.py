"""Results that are stored in Tiled: find the tree of a run, and read its final result back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from txm_stream.arrays import Stack
from txm_stream.errors import MissingFramesError, NoSuchRunError
from txm_stream.profile import Profile
from txm_stream.results import Result, VisitMetrics

_BLOCK_BYTES = 32_000_000
_STACKS = ("noisy", "denoised")
_FIGURES = ("sigma", "risk", "predicted_rmse")


def find_results(client: Any, which: str, *, results_path: tuple[str, ...] | None = None) -> Any:
    """Return the results tree of a run.

    Parameters
    ----------
    client
        Tiled container at which ``results_path`` begins; default: that of :class:`.Profile`.
    which
        ``"latest"``, a uid or the beginning of one, or a scan id; ``<uid>/position_<n>`` where a run has several.

    Raises
    ------
    NoSuchRunError
        There is no such tree; the message says what there is.
    """
    path = Profile().results_path if results_path is None else results_path
    try:
        root = client[path]
    except KeyError:
        raise NoSuchRunError(f"no results at {'/'.join(path)}; was anything processed into this Tiled?") from None
    name, _, position = which.partition("/")
    found = _found(root, name)
    if not found:
        there = [f"{key[:8]} (scan {run.metadata.get('scan_id')})" for key, run in root.items().head(5)]
        listed = (
            f"there {'is' if len(root) == 1 else 'are'} {len(root)}: {', '.join(there)}" if there else "there are none"
        )
        listed += ", …" if len(root) > len(there) else ""
        raise NoSuchRunError(f"no results of a run {name!r} at {'/'.join(path)}; {listed}")
    if len(found) > 1:
        raise NoSuchRunError(f"{len(found)} runs begin with {name!r}: {', '.join(sorted(found)[:5])}; give more of it")
    ((_, tree),) = found.items()
    if any(spec.name == "TXMStream" for spec in tree.specs):
        return tree
    positions = list(tree)
    if position in positions or len(positions) == 1:
        return tree[position or positions[0]]
    uid = tree.path_parts[-1]
    raise NoSuchRunError(f"run {uid[:8]} has {len(positions)} positions; name one: {uid[:8]}/{positions[0]}")


def read_final(tree: Any, *, progress: Callable[[int, int], None] | None = None) -> Result:
    """Read the final result of a results tree.

    Parameters
    ----------
    progress
        Called with (done, total) frames read.

    Raises
    ------
    MissingFramesError
        There is no final result: the run is live, or failed.

    Notes
    -----
    The two stacks are read block by block into files without a name, which end with the arrays: memory is that of
    the maps and one block.
    """
    about, uid = tree.metadata, str(tree.metadata.get("raw_uid", ""))[:8]
    if "final" not in tree or about.get("status") == "live":
        if about.get("status") == "live":
            raise MissingFramesError(f"run {uid} is live and has no final result yet; export it when it has ended")
        raise MissingFramesError(f"run {uid} has no final result, it {about.get('status')}: {about.get('reason')}")
    final = tree["final"]
    attrs = dict(final.metadata["attrs"])
    names = set(final)
    total = sum(final[name].shape[0] for name in _STACKS)
    done = 0

    def count(frames: int) -> None:
        nonlocal done
        done += frames
        if progress is not None:
            progress(done, total)

    values: dict[str, Any] = {name: np.asarray(final[name].read()) for name in names - set(_STACKS)}
    values |= {name: _read_stack(final[name], count) for name in _STACKS}
    for name in _FIGURES:
        values[name] = float("nan") if attrs.get(name) is None else float(attrs[name])
    warnings = tuple(attrs.get("warnings", ()))
    if about.get("status") == "failed":
        warnings = (f"the run {about['status']}: {about.get('reason')}", *warnings)
    return Result(
        **values,
        shift_sigma_px=np.array([np.nan if s is None else s for s in attrs["shift_sigma_px"]], dtype=np.float64),
        rank=int(attrs["rank"]),
        map_method=str(attrs["map_method"]),
        states=tuple(attrs.get("states", ())),
        provenance=dict(attrs.get("provenance", {})),
        warnings=warnings,
        metrics=_rows(tree),
    )


def _found(root: Any, name: str) -> dict[str, Any]:
    """Return the runs of that name, by uid: all that begin with it, or the latest with that scan id."""
    from tiled.queries import Key

    if name in root:
        return {name: root[name]}
    if name == "latest" or (name.isdecimal() and len(name) < 8):
        runs = root if name == "latest" else root.search(Key("scan_id") == int(name))
        return dict(runs.sort(("", -1)).items().head(1))
    return {key: root[key] for key in root if key.startswith(name)}


def _read_stack(node: Any, count: Callable[[int], None]) -> Stack:
    shape = node.shape
    with tempfile.TemporaryFile() as file:
        stack = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    step = max(1, _BLOCK_BYTES // (4 * shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        stack[start:stop] = node[start:stop]
        count(stop - start)
    return stack


def _rows(tree: Any) -> tuple[VisitMetrics, ...]:
    """Return the rows of ``live/metrics``; none where the table is not there."""
    try:
        table = tree["live", "metrics"].read()
    except KeyError:
        return ()
    columns = [name for name in VisitMetrics.columns() if name in table]
    return tuple(
        VisitMetrics(**{name: value.item() for name, value in zip(columns, row, strict=True)})
        for row in zip(*(table[name].to_numpy() for name in columns), strict=True)
    )
