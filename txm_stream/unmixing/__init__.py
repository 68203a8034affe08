"""Unmixing: reference spectra, edge-50, linear combination fitting, RUM, RUM+ and vertex component analysis."""

from __future__ import annotations

from txm_stream.unmixing.choose_references import Choice, choose_references
from txm_stream.unmixing.edge50 import edge50_map
from txm_stream.unmixing.references import References, load_references
from txm_stream.unmixing.region import RegionFit, fit_region
from txm_stream.unmixing.rum import Rum, rum_pnp, rum_tv
from txm_stream.unmixing.unmix import PhaseMap, unmix_stack
from txm_stream.unmixing.vca import vca, vca_references
from txm_stream.unmixing.vtv import Vtv, vtv
from txm_stream.unmixing.white_line import WhiteLine, white_line_map

__all__ = [
    "Choice",
    "PhaseMap",
    "References",
    "RegionFit",
    "Rum",
    "Vtv",
    "WhiteLine",
    "choose_references",
    "edge50_map",
    "fit_region",
    "load_references",
    "rum_pnp",
    "rum_tv",
    "unmix_stack",
    "vca",
    "vca_references",
    "vtv",
    "white_line_map",
]
