"""A result against the truth of a simulated scan: the figures that the demo and a replay of it print."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from txm_stream.arrays import AnyArray, Image, Vector
from txm_stream.errors import BadStackError
from txm_stream.metrics import abundance_rmse, map_correlation, shift_rmse_px

if TYPE_CHECKING:
    from txm_stream.phantoms import Truth

_SAME_ENERGY_EV = 1.5


class Judged(Protocol):
    """What is judged; :class:`~txm_stream.results.Result` is one, and so is :class:`StoredResult`."""

    @property
    def energies_eV(self) -> Vector:
        """Energies of the visits (T,)."""

    @property
    def shifts_px(self) -> Vector:
        """Shifts applied to register (T, 2)."""

    @property
    def phase_map(self) -> Image | None:
        """Abundances (state, y, x), NaN where there is no map."""

    @property
    def sigma(self) -> float:
        """Noise of the stack in OD."""

    @property
    def predicted_rmse(self) -> float:
        """Expected abundance RMSE inside the particles."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What was done; which visits were rejected, how many flats are in a flat."""


@dataclass(frozen=True, eq=False)
class StoredResult:
    """What is judged of a result that was read back from Tiled."""

    energies_eV: Vector
    shifts_px: Vector
    phase_map: Image | None
    sigma: float
    predicted_rmse: float
    states: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_tiled(cls, final: Any) -> StoredResult:
        """Read it from the container ``final/`` of a results tree."""
        attrs = final.metadata["attrs"]
        missing = float("nan")
        sigma, predicted = attrs.get("sigma"), attrs.get("predicted_rmse")
        return cls(
            energies_eV=np.asarray(final["energies_eV"].read()),
            shifts_px=np.asarray(final["shifts_px"].read()),
            phase_map=np.asarray(final["phase_map"].read()) if "phase_map" in final else None,
            sigma=missing if sigma is None else float(sigma),
            predicted_rmse=missing if predicted is None else float(predicted),
            states=tuple(attrs.get("states", ())),
            provenance=dict(attrs.get("provenance", {})),
        )


@dataclass(frozen=True)
class Judgement:
    """Errors against the truth inside the particles; the names are those of the printed JSON.

    ``map_correlation`` and ``abundance_rmse`` count every pixel inside the particles, 1/L where there is no map;
    ``map_coverage`` is the share of them that have one, ``mapped_rmse`` the error of those alone: what
    ``predicted_rmse`` predicts. ``sigma_ratio`` is the measured noise over the true one of all
    good pixels, with as many flats in a flat as the result says. Rejected visits do not count.
    """

    map_correlation: float
    abundance_rmse: float
    predicted_rmse: float
    shift_rmse_px: float
    sigma_ratio: float
    map_coverage: float
    mapped_rmse: float

    def figures(self) -> dict[str, float]:
        """Return the five figures of the printed JSON."""
        names = ("map_correlation", "abundance_rmse", "predicted_rmse", "shift_rmse_px", "sigma_ratio")
        return {name: getattr(self, name) for name in names}


def load_truth(path: str | Path) -> Truth:
    """Read a truth file.

    Raises
    ------
    BadStackError
        It is not there, or no truth file.
    """
    from txm_stream.phantoms import Truth

    try:
        return Truth.load(path)
    except (OSError, KeyError, ValueError) as error:
        raise BadStackError(
            f"the truth file {path} cannot be read ({error}); it belongs to the simulated run"
        ) from error


def judge(result: Judged, truth: Truth) -> Judgement:
    """Compare a result with the truth, the truth moved by the offset that all registered images have in common."""
    from txm_stream.phantoms import inside
    from txm_stream.resampling import shift_image

    visits = same_visits(result.energies_eV, truth.energies_eV)
    rejected = result.provenance.get("visits_rejected") or {}
    used = np.array([str(n + 1) not in rejected for n in range(len(visits))])
    motion_px, applied_px = truth.shifts_px[visits][used], np.asarray(result.shifts_px)[used]
    offset_px = np.mean(applied_px + motion_px, axis=0)
    particles = inside(shift_image(truth.edge_jump, offset_px))
    flats = float(result.provenance.get("flat_visits") or 1.0)
    true_sigma = truth.noise_sigma(~truth.bad_pixels, flat_visits=flats)[visits][used]
    noise = float(np.sqrt(np.mean(true_sigma**2)))
    correlation = rmse = rmse_of_mapped = float("nan")
    coverage = 0.0
    found = in_order_of_truth(result, truth)
    if found is not None:
        abundances = np.stack([shift_image(image, offset_px) for image in truth.abundances])
        mapped = np.isfinite(found).all(axis=0)
        coverage = float((mapped & particles).sum() / particles.sum())
        if coverage:
            rmse_of_mapped = abundance_rmse(found, abundances, mapped & particles)
        counted = np.where(mapped, found, 1.0 / len(found))
        correlation = map_correlation(counted, abundances, particles)
        rmse = abundance_rmse(counted, abundances, particles)
    return Judgement(
        map_correlation=correlation,
        abundance_rmse=rmse,
        predicted_rmse=float(result.predicted_rmse),
        shift_rmse_px=shift_rmse_px(applied_px, motion_px),
        sigma_ratio=float(result.sigma) / noise,
        map_coverage=coverage,
        mapped_rmse=rmse_of_mapped,
    )


def in_order_of_truth(result: Judged, truth: Truth) -> AnyArray | None:
    """Return the maps (state, y, x), in the truth's order of states where both name them; ``None``: not comparable."""
    found = result.phase_map
    names = tuple(result.states)
    if found is None or len(found) != len(truth.names):
        return None
    if sorted(names) == sorted(truth.names):
        return np.asarray(found)[[names.index(name) for name in truth.names]]
    return np.asarray(found)


def same_visits(energies_eV: AnyArray, true_eV: AnyArray) -> list[int]:
    """Return which of the true visits are in the result, in order; rejected ones are not.

    Raises
    ------
    BadStackError
        The energies of the result are not those of the truth.
    """
    found: list[int] = []
    place = 0
    for energy in energies_eV:
        while place < len(true_eV) and abs(true_eV[place] - energy) > _SAME_ENERGY_EV:
            place += 1
        if place == len(true_eV):
            raise BadStackError(
                f"the result has {len(energies_eV)} energies that are not those of the truth ({len(true_eV)}); "
                "give the truth file of this run"
            )
        found.append(place)
        place += 1
    return found
