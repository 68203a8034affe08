"""A published run with a known truth, visit by visit: through the real publisher into a real Tiled server."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from txm_stream.callbacks.publisher import Publisher
from txm_stream.callbacks.results_tree import ResultsTree
from txm_stream.callbacks.tiled_target import TiledTarget
from txm_stream.frames import Scan
from txm_stream.profile import Profile
from txm_stream.results import K_MAX, Result, Snapshot, VisitMetrics, VisitUpdate

SHAPE = (24, 32)
ENERGIES = 8300.0 + 10.0 * np.arange(8)
STATES = ("NiO", "Ni")
EDGE = 4
"""From this visit on there is a map."""


class Sample:
    """A published run: from left to right a stripe of every pure state; nothing is known of the upper rows."""

    def __init__(
        self,
        target: TiledTarget,
        uid: str,
        spool: Path,
        *,
        shape: tuple[int, int] = SHAPE,
        energies_eV: np.ndarray = ENERGIES,
        states: tuple[str, ...] = STATES,
        scan_id: int = 7,
        replay: bool = False,
    ) -> None:
        rng = np.random.default_rng(7)
        self.energies, self.states, n = energies_eV, states, len(states)
        stripe = np.broadcast_to(np.arange(shape[1]) * n // shape[1], shape)
        thin = np.arange(shape[0])[:, None] < shape[0] // 6
        self.phase_map = (stripe == np.arange(n)[:, None, None]).astype(np.float32)
        self.phase_map[:, thin[:, 0], :] = np.nan
        self.scale = np.where(thin, np.float32(np.nan), np.float32(0.5)) * np.ones(shape, np.float32)
        self.sigma = np.full((n, *shape), 0.03, dtype=np.float32)
        edges = 8333.0 + 6.0 * np.arange(n)
        self.references = 1 / (1 + np.exp(-(energies_eV[:, None] - edges) / 3)) + 0.05 * np.arange(n)
        self.components = np.zeros((K_MAX, *shape), dtype=np.float32)
        self.components[:n] = np.nan_to_num(self.phase_map * self.scale)
        self.components[n] = 0.2 + 0.01 * rng.standard_normal(shape)
        self.loadings = np.zeros((len(energies_eV), K_MAX), dtype=np.float32)
        self.loadings[:, :n] = self.references
        self.loadings[:, n] = 1
        self.noise = rng.normal(0, 0.05, (4, *shape)).astype(np.float32)
        self.publisher = Publisher(target, spool_dir=spool)
        scan = Scan(uid=uid, scan_id=scan_id, sample="cathode", planned_energies_eV=tuple(energies_eV))
        self.tree = ResultsTree(self.publisher, Profile(), scan, replay=replay)
        self.tree.begin(states)
        self._told = 0

    def denoised_at(self, index: int) -> np.ndarray:
        """Return a frame (y, x) of the model."""
        return np.tensordot(self.loadings[index], self.components, axes=1)

    def noisy_at(self, index: int) -> np.ndarray:
        """Return a frame (y, x) as measured."""
        return self.denoised_at(index) + self.noise[index % len(self.noise)]

    @property
    def denoised(self) -> np.ndarray:
        """Return all frames of the model."""
        return np.stack([self.denoised_at(index) for index in range(len(self.energies))])

    @property
    def noisy(self) -> np.ndarray:
        """Return all frames as measured."""
        return np.stack([self.noisy_at(index) for index in range(len(self.energies))])

    def rows(self, count: int) -> tuple[VisitMetrics, ...]:
        """Return the rows of the metrics table."""
        now = time.time()
        return tuple(
            VisitMetrics(
                n + 1,
                float(self.energies[n]),
                shift_y_px=0.5,
                shift_x_px=-0.5,
                sigma=0.05,
                rank=2,
                map_rmse=0.1 / (n + 1) if n + 1 >= EDGE else float("nan"),
                next_energy_eV=8346.5,
                basis_version=n + 1,
                map_version=max(n + 2 - EDGE, 0),
                latency_s=0.25,
                time=now - 2.0 * (count - n - 1),
            )
            for n in range(count)
        )

    def visit(self, count: int, advice: pd.DataFrame | None = None) -> None:
        """Publish everything up to a number of visits, and wait until Tiled has it."""
        maps = {"phase_map": self.phase_map, "phase_sigma": self.sigma, "scale": self.scale, "fit": self.scale}
        snapshot = Snapshot(
            rows=self.rows(count),
            loadings=self.loadings[:count],
            components=self.components,
            preview=self.denoised_at(count - 1),
            states=self.states,
            **(maps if count >= EDGE else {}),
        )
        table = pd.DataFrame([asdict(row) for row in snapshot.rows])
        news, self._told = range(self._told, count), count
        self.tree.frames([VisitUpdate(n, float(self.energies[n]), self.noisy_at(n), True) for n in news])
        self.tree.visit(snapshot, table, advice=advice)
        assert self.publisher.flush(30)

    def finish(self) -> None:
        """Publish the final result: the same arrays once more."""
        count = len(self.energies)
        result = Result(
            energies_eV=self.energies, noisy=self.noisy, denoised=self.denoised, mask=np.isfinite(self.scale),
            shifts_px=np.full((count, 2), 1.5), shift_sigma_px=np.full(count, 0.1), loadings=self.loadings,
            components=self.components, sigma=0.05, rank=2, risk=1e-4, metrics=self.rows(count), states=self.states,
            references=self.references, phase_map=self.phase_map, phase_sigma=self.sigma, fit=self.scale,
            scale=self.scale, predicted_rmse=0.03, map_method="rum+", warnings=("frame 3 is dark",),
        )  # fmt: skip
        self.tree.finish(result)
        assert self.publisher.close().complete
