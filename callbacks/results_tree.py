"""The tree of results in Tiled: what is published under which name, with which axes, when."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from txm_stream.arrays import AnyArray
from txm_stream.callbacks.batch import Batch, Variable
from txm_stream.callbacks.spool import plain
from txm_stream.callbacks.steering import START_KEY
from txm_stream.frames import Scan
from txm_stream.profile import Profile
from txm_stream.results import K_MAX, Result, Snapshot, VisitUpdate

if TYPE_CHECKING:
    import pandas as pd

_COSTLY_PIXELS = 512 * 512
_COSTLY_EVERY = 5
_IMAGE = ("y", "x")
_AXES: dict[str, tuple[str, ...]] = {
    "noisy": ("energy", *_IMAGE),
    "denoised": ("energy", *_IMAGE),
    "mask": _IMAGE,
    "energies_eV": ("energy",),
    "shifts_px": ("energy", "axis"),
    "loadings": ("energy", "component"),
    "components": ("component", *_IMAGE),
    "references": ("energy", "state"),
    "preview": _IMAGE,
    "phase_map": ("state", *_IMAGE),
    "phase_sigma": ("state", *_IMAGE),
    "fit": _IMAGE,
    "scale": _IMAGE,
    "edge50": _IMAGE,
}
_UNITS = {
    "noisy": "optical density",
    "denoised": "optical density",
    "preview": "optical density",
    "scale": "optical density",
    "loadings": "optical density",
    "components": "1",
    "energies_eV": "eV",
    "edge50": "eV",
    "shifts_px": "px",
    "mask": "1",
    "references": "edge jumps",
    "phase_map": "1",
    "phase_sigma": "1",
    "fit": "reduced chi-square",
}
_MAPS = ("preview", "phase_map", "phase_sigma", "fit", "scale", "edge50")


class TakesBatches(Protocol):
    """A publisher, as far as the tree is concerned."""

    def publish(self, batch: Batch) -> None:
        """Take a batch over; never block, never raise."""


class ResultsTree:
    """Publishes one run: ``<results_path>/<raw uid>/live`` while it runs, ``…/final`` at its end.

    Parameters
    ----------
    publisher
        Takes the batches.
    profile, scan
        Where the tree stands, and what its metadata say.
    position
        With several sample positions: the position's number; its tree is ``<raw uid>/position_<n>``.
    replay
        Whether a stored run is processed again: its metadata say so.

    Notes
    -----
    A tree whose ``status`` is "final" or "failed" belongs to an earlier pass over the same run: it is deleted when a
    new pass begins. A tree that is still "live" was left by a worker that died: it is continued, frame by frame.

    Every row of ``metrics`` keeps the ``basis_version`` and ``map_version`` with which it was first published: the
    versions of the components and maps that are in Tiled with it, not of newer ones that were never published.
    """

    def __init__(
        self,
        publisher: TakesBatches,
        profile: Profile,
        scan: Scan,
        *,
        position: int | None = None,
        replay: bool = False,
    ) -> None:
        self._publisher = publisher
        self._profile = profile
        self._scan = scan
        below = () if position is None else (f"position_{position}",)
        self.path = (*profile.results_path, scan.uid, *below)
        self._replay = replay
        self._projection = scan.projections[position or 0] if scan.projections else None
        self._states: tuple[str, ...] = ()
        self._binning = 0
        self._versions: dict[int, tuple[int, int]] = {}
        self._basis_version = 0
        self._map_version = 0
        self._visits_with_basis = 0

    def begin(self, states: tuple[str, ...]) -> None:
        """Make the tree, with status "live"."""
        self._states = tuple(states)
        metadata = run_metadata(self._profile, self._scan) | {"status": "live", "reason": ""}
        metadata |= {"states": list(states), "replay": self._replay}
        if self._projection is not None:
            metadata["projection"] = self._projection
        specs = ("TXMStream", *self._profile.tiled.specs)
        self._publisher.publish(Batch(self.path, metadata=metadata, specs=specs, replace_finished=True))
        self._publisher.publish(Batch((*self.path, "live")))

    def frames(self, updates: Sequence[VisitUpdate]) -> None:
        """Publish new and better frames; they count with the next :meth:`visit`."""
        if not updates:
            return
        if not self._binning:
            self._binning = live_binning(updates[0].noisy.shape, self._profile.limits.live_pixels)
            self._publisher.publish(Batch(self.path, metadata={"live_binning": self._binning}))
        batch = Batch((*self.path, "live"), live=True, variables={"noisy": self._described("noisy")})
        for update in updates:
            batch.appends["noisy", update.index] = live_image(update.noisy, self._binning)
        self._publisher.publish(batch)

    def visit(self, snapshot: Snapshot | None, rows: pd.DataFrame, *, advice: pd.DataFrame | None = None) -> None:
        """Publish the images of a snapshot, if there is one, the advice and the metrics up to now."""
        if snapshot is not None and snapshot.states and snapshot.states != self._states:
            self._states = snapshot.states
            self._publisher.publish(Batch(self.path, metadata={"states": list(snapshot.states)}))
        factor = self._binning or 1
        batch = Batch((*self.path, "live"), live=True)
        if snapshot is not None:
            self._add_images(batch, snapshot, rows, factor)
        if advice is not None:
            batch.overwrites["advice"] = advice
        batch.tables["metrics"] = self._rows_with_published_versions(rows)
        batch.variables = {name: self._described(name) for name in batch.overwrites if name in _AXES}
        self._publisher.publish(batch)

    def orders(self, orders: Sequence[dict[str, Any]]) -> None:
        """Say what the operator ordered so far."""
        self._publisher.publish(Batch(self.path, metadata={"orders": list(orders)}))

    def runs(self, uids: Sequence[str]) -> None:
        """Say which runs the scan consists of, where every energy is one."""
        self._publisher.publish(Batch(self.path, metadata={"raw_uids": list(uids)}))

    def note(self, words: str) -> None:
        """Say what a live run is at, where it is not the next energy."""
        self._publisher.publish(Batch(self.path, metadata={"reason": words}))

    def finish(self, result: Result, *, status: str = "final", reason: str = "") -> None:
        """Publish the final result, end the live streams, and say last how complete it is."""
        self._publisher.publish(final_batch((*self.path, "final"), result))
        self._publisher.publish(Batch((*self.path, "live"), close=True))
        words = {"status": status, "reason": reason, "states": list(result.states)}
        self._publisher.publish(Batch(self.path, metadata=words, close=True))

    def fail(self, reason: str) -> None:
        """End the streams and say "failed", with the reason."""
        self._publisher.publish(Batch((*self.path, "live"), close=True))
        self._publisher.publish(Batch(self.path, metadata={"status": "failed", "reason": reason}, close=True))

    def _add_images(self, batch: Batch, snapshot: Snapshot, rows: pd.DataFrame, factor: int) -> None:
        for name in _MAPS:
            image = getattr(snapshot, name)
            if image is not None:
                batch.overwrites[name] = live_image(image, factor)
        basis, maps = (int(rows[name].iloc[-1]) if len(rows) else 0 for name in ("basis_version", "map_version"))
        self._map_version = max(self._map_version, maps)
        if snapshot.components is None or snapshot.loadings is None or basis <= self._basis_version:
            return
        components = padded(live_image(snapshot.components, factor))
        costly = components[0].size > _COSTLY_PIXELS
        if costly and self._basis_version and len(rows) - self._visits_with_basis < _COSTLY_EVERY:
            return
        batch.overwrites["components"] = components
        batch.overwrites["loadings"] = np.asarray(snapshot.loadings, dtype=np.float32)
        self._basis_version, self._visits_with_basis = basis, len(rows)

    def _described(self, name: str) -> Variable:
        return describe(name, _AXES[name], fluorescence=self._profile.signal == "fluorescence")

    def _rows_with_published_versions(self, rows: pd.DataFrame) -> pd.DataFrame:
        published = (self._basis_version, self._map_version)
        versions = [self._versions.setdefault(int(seq), published) for seq in rows["seq"]]
        kinds = {name: np.int64 if kind.kind in "iu" else np.float64 for name, kind in rows.dtypes.items()}
        table = rows.astype(kinds).reset_index(drop=True)
        table["basis_version"] = np.array([basis for basis, _ in versions], dtype=np.int64)
        table["map_version"] = np.array([maps for _, maps in versions], dtype=np.int64)
        return table


def run_metadata(profile: Profile, scan: Scan) -> dict[str, Any]:
    """Return what a results tree says about its run."""
    return {
        "raw_uid": scan.uid,
        "scan_id": scan.scan_id,
        "sample": scan.sample,
        "plan_name": scan.plan_name,
        "planned_visits": 0 if START_KEY in scan.start else len(scan.planned_energies_eV),  # a steered scan is open
        "profile": profile.name,
        "versions": {"python": platform.python_version()} | _versions("txm-stream", "numpy", "scipy", "torch", "tiled"),
    }


def final_batch(path: tuple[str, ...], result: Result) -> Batch:
    """Return the batch of ``final/``: an xarray Dataset; stacks go frame by frame and are not copied."""
    batch = Batch(path, specs=("xarray_dataset",), close=True)
    fluorescence = result.provenance.get("signal") == "fluorescence"
    for name, array in result.images().items():
        axes = ("energy", *_IMAGE) if array.ndim == 3 and name == "mask" else _AXES[name]
        spec = "xarray_coord" if name == "energies_eV" else "xarray_data_var"
        batch.variables[name] = describe(name, axes, spec, fluorescence=fluorescence, states=result.states)
        if array.ndim == 3 and axes[0] == "energy":
            batch.appends |= {(name, index): frame for index, frame in enumerate(array)}
        else:
            batch.overwrites[name] = array
    attrs = {name: getattr(result, name) for name in ("sigma", "rank", "risk", "predicted_rmse", "map_method")}
    attrs |= {"states": result.states, "shift_sigma_px": result.shift_sigma_px}
    attrs |= {"warnings": result.warnings, "provenance": result.provenance}
    batch.metadata = {"attrs": json.loads(json.dumps(attrs, default=plain))}
    return batch


def describe(
    name: str,
    axes: tuple[str, ...],
    spec: str | None = None,
    *,
    fluorescence: bool = False,
    states: tuple[str, ...] = (),
) -> Variable:
    """Return how an array is described in Tiled: its axes, its units, and the names along its axis of states."""
    unit = _UNITS[name]
    attrs: dict[str, Any] = {"units": "yield" if fluorescence and unit == "optical density" else unit}
    if states and "state" in axes:
        attrs["states"] = list(states)
    return Variable(axes, spec, attrs)


def live_binning(shape: tuple[int, ...], limit: int) -> int:
    """Return the smallest block size that brings an image ``(y, x)`` below a number of pixels."""
    factor = 1
    while -(-shape[0] // factor) * -(-shape[1] // factor) > limit:
        factor += 1
    return factor


def live_image(image: AnyArray, factor: int) -> AnyArray:
    """Return an image ``(…, y, x)`` as float32, averaged over blocks of ``factor``² pixels; NaN pixels do not count.

    A block without a valid pixel is NaN; blocks at the lower and right border may be incomplete.
    """
    image = np.asarray(image, dtype=np.float32)
    if factor == 1:
        return image
    rows, columns = image.shape[-2:]
    pad = [(0, 0)] * (image.ndim - 2) + [(0, -rows % factor), (0, -columns % factor)]
    valid = np.isfinite(image)
    blocks = (*image.shape[:-2], -(-rows // factor), factor, -(-columns // factor), factor)
    total = np.pad(np.where(valid, image, 0), pad).reshape(blocks).sum(axis=(-3, -1))
    count = np.pad(valid, pad).reshape(blocks).sum(axis=(-3, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count, dtype=np.float32)


def padded(components: AnyArray) -> AnyArray:
    """Return components ``(k, y, x)`` padded with zeros to ``K_MAX``, so that their shape never changes."""
    missing = K_MAX - len(components)
    return np.pad(components, [(0, missing), (0, 0), (0, 0)]) if missing > 0 else components


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
