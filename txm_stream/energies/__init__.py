"""Energies: which to measure for given references."""

from __future__ import annotations

from txm_stream.energies.design import Plan, predicted_rmse, select_energies

__all__ = ["Plan", "predicted_rmse", "select_energies"]
