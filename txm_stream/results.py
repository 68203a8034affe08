"""What leaves the pipeline: a :class:`Snapshot` after a visit, a :class:`Result` at the end.

Both are plain frozen containers; every stage below and every writer above agrees on them here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from txm_stream.arrays import Image, Mask, Stack, Vector

LayerData = tuple[Any, dict[str, Any], str]
"""What napari's reader plug-ins return: data, arguments of the layer, type of the layer."""
K_MAX = 8
"""Components kept and published; arrays are zero-padded to it so that their shape never changes."""
_COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red")


@dataclass(frozen=True)
class VisitMetrics:
    """One row of the metrics table. NaN where a figure is not known yet.

    ``seq`` counts visits from 1; ``sigma`` is the noise of the stack in optical density; ``risk`` the
    predicted mean squared error of the preview (OD²); ``map_rmse`` the predicted abundance RMSE inside
    the particles. ``basis_version`` / ``map_version`` say which images the row belongs to (0 = none yet).
    """

    seq: int
    energy_eV: float
    shift_y_px: float = float("nan")
    shift_x_px: float = float("nan")
    shift_sigma_px: float = float("nan")
    sigma: float = float("nan")
    rank: int = 0
    risk: float = float("nan")
    map_rmse: float = float("nan")
    next_energy_eV: float = float("nan")
    basis_version: int = 0
    map_version: int = 0
    previews_skipped: int = 0
    latency_s: float = float("nan")
    time: float = 0.0

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the columns, in the order in which they are published."""
        return tuple(entry.name for entry in fields(cls))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State of the running scan after a visit. Images are ``None`` until they say something.

    ``rows`` holds one row per visit so far. Shapes: ``noisy`` (y, x), the newest visit's registered optical
    density, NaN outside its field;
    ``loadings`` (n, K_MAX); ``components`` (K_MAX, y, x); ``preview`` (y, x), the newest visit denoised;
    ``phase_map`` and ``phase_sigma`` (state, y, x); ``fit`` (y, x), reduced chi-square;
    ``scale`` (y, x), edge jump in optical density; ``edge50`` (y, x) in eV where there are no references.
    ``misfit_share`` of the pixels inside the particles are missed by the fit; ``common_error``: rms error in edge
    jumps that all pixels of a visit share, NaN while unknown; ``shift_information``: what differences between
    pixels tell of the energy shift, in 1/eV².
    """

    rows: tuple[VisitMetrics, ...] = ()
    noisy: Image | None = None
    loadings: Image | None = None
    components: Image | None = None
    preview: Image | None = None
    phase_map: Image | None = None
    phase_sigma: Image | None = None
    fit: Image | None = None
    scale: Image | None = None
    edge50: Image | None = None
    states: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    misfit_share: float = float("nan")
    common_error: float = float("nan")
    shift_information: float = 0.0

    @property
    def n_visits(self) -> int:
        """Number of visits so far."""
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class VisitUpdate:
    """A visit that was normalised and registered for the first time, or again with a better flat or shift.

    ``index`` counts visits from 0; ``noisy`` is the registered optical density (y, x), NaN outside its field; ``sigma``
    its noise in OD, ``inf`` for a visit without weight.
    """

    index: int
    energy_eV: float
    noisy: Image
    first: bool
    sigma: float = float("nan")


@dataclass(frozen=True, eq=False)
class Result:
    """The final answer of a scan. Shapes as in :class:`Snapshot`, stacks (visit, y, x).

    ``noisy`` and ``denoised`` may be memory-mapped files. ``references`` is (visit, state) at the calibrated
    energies ``energies_eV``, in edge-jump units (NaN for visits that the references do not cover).
    ``predicted_rmse`` is the expected abundance RMSE inside the particles. ``map_method`` is "rum+",
    "edge-50" or "vca+rum+". ``provenance`` holds what is needed to get the same answer again.
    """

    energies_eV: Vector
    noisy: Stack
    denoised: Stack
    mask: Mask
    shifts_px: Vector
    shift_sigma_px: Vector
    loadings: Image
    components: Image
    sigma: float
    rank: int
    risk: float
    metrics: tuple[VisitMetrics, ...]
    states: tuple[str, ...] = ()
    references: Vector | None = None
    phase_map: Image | None = None
    phase_sigma: Image | None = None
    fit: Image | None = None
    scale: Image | None = None
    edge50: Image | None = None
    predicted_rmse: float = float("nan")
    map_method: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def images(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return every array that ``final/`` holds, by its published name."""
        named = {
            "noisy": self.noisy,
            "denoised": self.denoised,
            "mask": self.mask,
            "energies_eV": self.energies_eV,
            "shifts_px": self.shifts_px,
            "loadings": self.loadings,
            "components": self.components,
            "references": self.references,
            "phase_map": self.phase_map,
            "phase_sigma": self.phase_sigma,
            "fit": self.fit,
            "scale": self.scale,
            "edge50": self.edge50,
        }
        return {name: np.asanyarray(array) for name, array in named.items() if array is not None}

    def to_napari(self, *, pixel_nm: float | None = None) -> list[LayerData]:
        """Return the result as layers for napari, the lowest first: ``(data, arguments, "image")`` each.

        The denoised stack (energy, y, x), the edge jump, and one layer per state with its σ, hidden; or the edge-50
        map. ``metadata`` of a layer holds its energies in eV or its unit. With ``pixel_nm`` y and x are in nm.

        Examples
        --------
        >>> for layer in result.to_napari():  # doctest: +SKIP
        ...     viewer.add_layer(napari.layers.Layer.create(*layer))
        """
        pixel, length = pixel_nm or 1.0, "nm" if pixel_nm else "pixel"

        def layer(data: Any, name: str, unit: str, **more: Any) -> LayerData:
            about = {"unit": unit} | more.pop("metadata", {})
            before = np.ndim(data) - 2  # the axis of energies has no unit: its steps differ
            scale = (*[1.0] * before, pixel, pixel)
            units = (*["pixel"] * before, length, length)
            return data, {"name": name, "scale": scale, "units": units, "metadata": about} | more, "image"

        unit = "yield" if self.provenance.get("signal") == "fluorescence" else "OD"
        energies = {"energies_eV": [float(energy) for energy in self.energies_eV]}
        layers = [layer(self.denoised, "denoised", unit, colormap="gray", metadata=energies)]
        if self.scale is not None:
            layers.append(layer(self.scale, "edge jump", unit, colormap="gray", visible=False))
        if self.edge50 is not None and self.phase_map is None:
            layers.append(layer(self.edge50, "edge-50", "eV", colormap="viridis"))
        for j, image in enumerate(() if self.phase_map is None else self.phase_map):
            name = self.states[j] if j < len(self.states) else f"state {j + 1}"
            shown = {"colormap": _COLOURS[j % len(_COLOURS)], "blending": "additive", "contrast_limits": (0.0, 1.0)}
            layers.append(layer(image, name, "abundance", **shown))
            if self.phase_sigma is not None:
                layers.append(layer(self.phase_sigma[j], f"sigma {name}", "abundance", colormap="gray", visible=False))
        return layers
