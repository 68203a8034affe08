"""A result as the pipeline gives it, made from a phantom without the pipeline: for the tests of files and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from txm_stream.phantoms import make_phantom, nickel_energies
from txm_stream.results import K_MAX, Result, VisitMetrics

STATES = ("Ni²⁺", "Ni3+ <oxide>")
SHAPE = (48, 72)


def example_result(*, chemistry: str = "states", visits: int = 14, seed: int = 3) -> Result:
    """Return a result with a border of NaN, a repeated energy and one rejected visit.

    ``chemistry``: "states", "edge-50" or "none".
    """
    rng = np.random.default_rng(seed)
    phantom = make_phantom(SHAPE, seed=seed)
    energies = nickel_energies(visits)
    energies[-1] = energies[-3]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:-1, 1:-3] = True
    denoised = np.where(mask, phantom.stack(energies), np.nan).astype(np.float32)
    noisy = (denoised + 0.05 * rng.standard_normal(denoised.shape)).astype(np.float32)
    inside = phantom.inside & mask
    scale = np.where(inside, phantom.edge_jump, 0.0).astype(np.float32)
    maps: dict[str, Any] = {}
    if chemistry == "states":
        phase_map = np.where(inside, phantom.abundances, np.nan).astype(np.float32)
        spread = 0.01 + 0.03 * rng.random(SHAPE)
        maps = {
            "states": STATES,
            "references": phantom.spectra(energies),
            "phase_map": phase_map,
            "phase_sigma": np.where(inside, np.stack([spread, 1.2 * spread]), np.nan).astype(np.float32),
            "fit": np.where(inside, 1.0 + 0.1 * rng.standard_normal(SHAPE), np.nan).astype(np.float32),
            "scale": scale,
            "predicted_rmse": 0.021,
            "map_method": "rum+",
        }
    elif chemistry == "edge-50":
        edge = 8343.0 + 3.0 * phantom.abundances[1]
        maps = {"edge50": np.where(inside, edge, np.nan).astype(np.float32), "map_method": "edge-50"}
    rows = [
        VisitMetrics(n, float(e), *rng.normal(size=2), 0.05, 0.05, 2, 1e-4, time=1.7e9 + 3.0 * n)
        for n, e in enumerate(energies, start=1)
    ]
    return Result(
        energies_eV=energies,
        noisy=noisy,
        denoised=denoised,
        mask=mask,
        shifts_px=rng.normal(size=(visits, 2)),
        shift_sigma_px=np.full(visits, 0.05),
        loadings=rng.normal(size=(visits, K_MAX)).astype(np.float32),
        components=rng.normal(size=(K_MAX, *SHAPE)).astype(np.float32),
        sigma=0.05,
        rank=2,
        risk=1e-4,
        metrics=tuple(rows),
        provenance={"energy_shift_eV": 0.12, "visits_rejected": {"4": "all dark"}, "note": "</pre><script>"},
        warnings=("12 % of the pixels <inside> miss the fit",),
        **maps,
    )
