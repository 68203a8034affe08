"""Alignment: causal template, batch refinement, and a stack aligned in one call."""

from __future__ import annotations

from txm_stream.alignment.align import Alignment, align_stack

__all__ = ["Alignment", "align_stack"]
