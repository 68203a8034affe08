"""Energies: which to measure, before a scan or while it runs, and when to stop."""

from __future__ import annotations

from txm_stream.energies.advice import Advice
from txm_stream.energies.advisor import Advisor
from txm_stream.energies.design import Plan, predicted_rmse, select_energies

__all__ = ["Advice", "Advisor", "Plan", "predicted_rmse", "select_energies"]
