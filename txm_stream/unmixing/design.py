"""What the energies can say about the states: background projected out, channels with white noise.

With weights 1/σ_t and background N = [1, E], the part of the references outside the background is
A_s = (I − Q Qᵀ) A / σ, Q an orthonormal basis of N/σ. With A_s = H R (H orthonormal, R upper triangular) the L images
``white = Hᵀ Y/σ`` hold all the data say about the abundances and have white unit noise; A_sᵀ A_s = Rᵀ R.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from txm_stream.arrays import Matrix, Vector
from txm_stream.errors import BadReferenceError


@dataclass(frozen=True, eq=False)
class Design:
    """Linear design of one scan: ``channels`` H (T, L), ``triangle`` R (L, L), ``background`` Q (T, 0…2).

    Rows of visits without weight or outside the references are 0. ``n_used`` counts the others.
    """

    channels: Matrix
    triangle: Matrix
    background: Matrix
    n_used: int

    @property
    def n_states(self) -> int:
        """Number of states L."""
        return int(self.triangle.shape[0])

    def information(self) -> Matrix:
        """Return A_sᵀ A_s (L, L): information about scale·abundances per unit pixel noise."""
        return np.asarray(self.triangle.T @ self.triangle)

    def abundance_error(self) -> float:
        """Return the rms error of one abundance at unit scale and unit pixel noise, before denoising.

        √(tr((P G P)⁺)/(L − 1)·(L − 1)/L) with P = I − 11ᵀ/L: only directions on the simplex count.
        """
        n = self.n_states
        if n == 1:
            return 0.0
        centre = np.eye(n) - 1.0 / n
        return float(np.sqrt(np.trace(np.linalg.pinv(centre @ self.information() @ centre, rcond=1e-12)) / n))

    def abundance_weights(self) -> Matrix:
        """Return the weights (T, L) of whitened visits in sums whose noise is that of the abundances at unit scale.

        Their rms is :meth:`abundance_error`; with one state, which has no such error, that of the scale.
        """
        n = self.n_states
        centre = np.eye(n) - 1.0 / n if n > 1 else np.eye(1)
        return np.asarray(self.channels @ np.linalg.pinv(self.triangle @ centre, rcond=1e-6).T)


def background_basis(energies_eV: Vector, weights: Vector, kind: str) -> Matrix:
    """Return an orthonormal basis (T, 0…2) of the weighted background: "linear", "constant" or "none"."""
    if kind == "none":
        return np.zeros((len(weights), 0))
    columns = [weights]
    if kind == "linear":
        used = weights > 0
        energy = energies_eV - energies_eV[used].mean()
        columns.append(weights * energy / max(float(np.ptp(energies_eV[used])), 1e-9))
    basis = np.stack(columns, axis=1)
    left, singular, _ = np.linalg.svd(basis, full_matrices=False)
    return np.asarray(left[:, singular > 1e-9 * singular[0]])


def make_design(references: Matrix, energies_eV: Vector, sigma: Vector, *, background: str = "linear") -> Design:
    """Return the design for references (T, L) in edge-jump units at visits with noise ``sigma`` (T,) in OD.

    NaN rows (not covered by the references) and visits of infinite noise are left out.

    Raises
    ------
    BadReferenceError
        Fewer usable visits than unknowns, or states that these energies cannot tell apart.
    """
    covered = np.isfinite(references).all(axis=1) & np.isfinite(sigma)
    n_unknown = references.shape[1] + {"linear": 2, "constant": 1, "none": 0}[background]
    if covered.sum() < n_unknown:
        raise BadReferenceError(
            f"{int(covered.sum())} visits lie inside the references, at least {n_unknown} are needed for "
            f"{references.shape[1]} states with a {background} background; "
            "measure more energies or widen the references"
        )
    weights = np.where(covered, 1.0 / np.where(covered, sigma, 1.0), 0.0)
    basis = background_basis(energies_eV, weights, background)
    weighted = np.where(covered[:, None], references, 0.0) * weights[:, None]
    separate = weighted - basis @ (basis.T @ weighted)
    channels, triangle = np.linalg.qr(separate)
    sign = np.where(np.diag(triangle) < 0, -1.0, 1.0)
    singular = np.linalg.svd(separate, compute_uv=False)
    if singular[-1] < 1e-6 * np.linalg.norm(weighted):
        raise BadReferenceError(
            f"these {int(covered.sum())} energies cannot tell the {references.shape[1]} states apart from each other "
            f"and a {background} background; remove a state or measure energies where they differ"
        )
    channels = np.where(covered[:, None], channels * sign, 0.0)  # 1e-18 would still say that a visit counts
    return Design(channels, triangle * sign[:, None], np.where(covered[:, None], basis, 0.0), int(covered.sum()))
