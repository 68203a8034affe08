"""Temporal subspace of a stack: smoothed Gram matrix, noise, rank, projection, risk, denoising."""

from __future__ import annotations

from txm_stream.subspace.counts import denoise_counts
from txm_stream.subspace.denoise import Denoised, denoise_stack
from txm_stream.subspace.incremental import IncrementalSVD

__all__ = ["Denoised", "IncrementalSVD", "denoise_counts", "denoise_stack"]
