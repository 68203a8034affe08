"""What enters the pipeline: one frame with its role, and the facts of the scan it belongs to.

A *visit* is one stay at one energy and the unit of everything: index n counts visits, a repeated
energy is a new visit. One sample :class:`Frame` makes one visit; flats and darks refer to visits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["sample", "flat", "dark"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One detector read-out with its role in the scan.

    Attributes
    ----------
    role
        ``"sample"`` opens a new visit, ``"flat"`` and ``"dark"`` serve the normalisation.
    image
        Counts (ADU) as delivered, shape ``(y, x)`` or ``(repeats, y, x)``; repeats are averaged. For
        ``signal="optical-density"``, ``"transmission"`` (already divided) or ``"fluorescence"`` the value itself.
    energy_eV
        Photon energy in eV; ``None`` where it has no meaning (darks).
    seq
        Sequence number inside its stream, from 1; the number of the run where every energy is one.
    exposure_s
        Exposure time of one repeat in s; ``None`` where the scan does not say (then 1 is assumed for all).
    time
        UNIX time at which the frame was complete, in s.
    position
        Sample position, counted from 0.
    """

    role: Role
    image: NDArray[Any]
    energy_eV: float | None
    seq: int
    exposure_s: float | None = None
    time: float = 0.0
    position: int = 0


@dataclass(frozen=True)
class Scan:
    """Facts of one scan, read from its start document or its file.

    ``planned_energies_eV`` is empty where the plan does not say. ``truth`` is the path of a simulated
    scan's truth file (see :mod:`txm_stream.phantoms`), ``None`` for a measured one. ``start`` keeps the
    whole start document. ``projections``: the frames of each run that are positions of their own, where every energy
    is a run of many frames (3-D XANES).
    """

    uid: str
    scan_id: int | None = None
    sample: str = ""
    plan_name: str = ""
    planned_energies_eV: tuple[float, ...] = ()
    truth: str | None = None
    start: dict[str, Any] = field(default_factory=dict)
    projections: tuple[int, ...] = ()

    @property
    def n_positions(self) -> int:
        """How many sample positions, or projections, take turns in the stream of sample frames."""
        count = len(self.projections) or self.start.get("num_pos")
        return count if isinstance(count, int) and count > 1 else 1


def mean_of_repeats(image: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """Average repeats; return the mean image ``(y, x)`` float32 and the number of repeats averaged."""
    if image.ndim == 2:
        return np.asarray(image, dtype=np.float32), 1
    return image.mean(axis=0, dtype=np.float32), int(image.shape[0])
