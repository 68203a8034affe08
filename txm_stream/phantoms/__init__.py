"""Simulated samples with a known truth: spectra, particles, motion, and a camera with its noise.

Nothing in here imports an algorithm of txm_stream, so that the truth stays independent of what it judges.
"""

from __future__ import annotations

from txm_stream.phantoms.detector import Detector, draw_flicker, make_detector, suitable_gain
from txm_stream.phantoms.growing import GrowingScan, growing_scan, magnified_density
from txm_stream.phantoms.jitter import Jitter
from txm_stream.phantoms.make import make_phantom
from txm_stream.phantoms.phantom import Phantom, fourier_shift, inside
from txm_stream.phantoms.spectra import REFERENCE_ENERGY_EV, Spectra, State, nickel_energies, nickel_states
from txm_stream.phantoms.truth import Truth

__all__ = [
    "REFERENCE_ENERGY_EV",
    "Detector",
    "GrowingScan",
    "Jitter",
    "Phantom",
    "Spectra",
    "State",
    "Truth",
    "draw_flicker",
    "fourier_shift",
    "growing_scan",
    "inside",
    "magnified_density",
    "make_detector",
    "make_phantom",
    "nickel_energies",
    "nickel_states",
    "suitable_gain",
]
