"""What a scan without references shows of its chemistry: where its images change, and spectra found in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.energies.gaps import image_changes
from txm_stream.errors import BadReferenceError, BadStackError
from txm_stream.resampling import bin_image
from txm_stream.results import Snapshot
from txm_stream.unmixing.references import References
from txm_stream.unmixing.vca import vca_references

_PIXELS = 128 * 128
_LEAST_VISITS = 8


@dataclass(frozen=True, eq=False)
class Endmembers:
    """``energies_eV`` (n,) of the visits in use; ``change`` (n, n) rms differences between their denoised images;
    ``references`` found by VCA, ``None`` while there are none."""

    energies_eV: Vector
    change: Matrix
    references: References | None


def find_endmembers(snapshot: Snapshot, *, rng: np.random.Generator) -> Endmembers | None:
    """Read a snapshot's subspace, on binned components; ``None`` before there is one. Some 10 ms."""
    if snapshot.components is None or snapshot.loadings is None:
        return None
    used = np.isfinite([row.sigma for row in snapshot.rows]) & (np.abs(snapshot.loadings).sum(axis=1) > 0)
    factor = max(1, round(float(np.sqrt(snapshot.components[0].size / _PIXELS))))
    components = np.stack([bin_image(image, factor) for image in snapshot.components])
    loads = snapshot.loadings[used]
    energies = np.array([row.energy_eV for row in snapshot.rows])[used]
    references = None
    if used.sum() >= _LEAST_VISITS:
        stack = np.tensordot(loads, components, axes=1)
        try:
            references = vca_references(stack, energies, mask=np.ones(stack.shape[1:], dtype=bool), rng=rng)
        except (BadStackError, BadReferenceError):
            references = None
    return Endmembers(energies, image_changes(loads, components), references)
