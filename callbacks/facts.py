"""Facts in documents: the scan, the image's key, energies in eV, exposures in s."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from txm_stream.frames import Scan
from txm_stream.profile import Documents, Group

logger = logging.getLogger("txm_stream")

_KEV_BELOW = 100.0
"""No TXM works at 100 eV or less, none at 100 keV or more: a number on the wrong side has the other unit."""


def find_image_key(documents: Documents, start: Mapping[str, Any], descriptor: Mapping[str, Any]) -> str | None:
    """Return the data key of the image: the profile's, the first detector's ``…_image``, or the only 2-D key."""
    keys = descriptor["data_keys"]
    if documents.image_key is not None:
        return documents.image_key if documents.image_key in keys else None
    detectors = start.get("detectors") or ()
    for detector in detectors:
        if f"{detector}_image" in keys:
            return f"{detector}_image"
    images = [key for key, facts in keys.items() if len(facts.get("shape") or ()) >= 2]
    return images[0] if len(images) == 1 else None


def group_key(group: Group, start: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what names the scan that a run is one energy of, and the energy as its plan names it (may be "").

    ``None``: the run is a scan of its own, or none.
    """
    name = start.get(group.key)
    if start.get("plan_name") not in group.plans or not isinstance(name, str):
        return None
    name, found, energy = name.partition(group.until) if group.until else (name, name, "")
    return (f"{start['plan_name']}: {name}", energy.strip()) if found else None


class EnergyReader:
    """Read photon energies as eV and exposures as s; warn once where the unit is plainly not the declared one."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self._warned = False

    def to_eV(self, value: Any, *, unit: str) -> float | None:
        """Return the energy in eV, or ``None`` where the value is no positive number."""
        try:
            energy = float(value)
        except (TypeError, ValueError):
            return None
        if not math.isfinite(energy) or energy <= 0:
            return None
        actual = "keV" if energy < _KEV_BELOW else "eV"
        if actual != unit and not self._warned:
            self._warned = True
            logger.warning(
                "energy %g is declared as %s but can only be %s; taken as %s, correct the profile",
                *(energy, unit, actual, actual),
            )
        return energy * 1000.0 if actual == "keV" else energy

    def energy_eV(self, data: Mapping[str, Any], start: Mapping[str, Any]) -> float | None:
        """Return the energy of an event in eV: the event's, else the start document's, else ``XEng`` (keV)."""
        for where in (data, start):
            if self.documents.energy_key in where:
                return self.to_eV(where[self.documents.energy_key], unit=self.documents.energy_unit)
        for where in (data, start):
            if "XEng" in where:
                return self.to_eV(where["XEng"], unit="keV")
        return None

    def energies_eV(self, start: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the planned energies in eV; empty where the plan does not say."""
        for value in (start.get("eng_list"), (start.get("plan_args") or {}).get("eng_list")):
            if isinstance(value, str) or not isinstance(value, Iterable):
                continue
            energies = [self.to_eV(entry, unit=self.documents.energy_unit) for entry in value]
            if energies and None not in energies:
                return tuple(energy for energy in energies if energy is not None)
        return ()

    def exposure_s(
        self, data: Mapping[str, Any], descriptor: Mapping[str, Any], start: Mapping[str, Any]
    ) -> float | None:
        """Return the exposure in s: from the event, the descriptor's configuration, or the start document."""
        key = self.documents.exposure_key
        configured = (entry.get("data", {}) for entry in (descriptor.get("configuration") or {}).values())
        for where in (data, *configured, start):
            if key in where:
                try:
                    exposure = float(where[key])
                except (TypeError, ValueError):
                    continue
                if math.isfinite(exposure) and exposure > 0:
                    return exposure
        return None


def read_scan(start: Mapping[str, Any], energies: EnergyReader) -> Scan:
    """Return the facts of a scan from its start document."""
    sample = start.get("sample", start.get("sample_name", ""))
    if isinstance(sample, Mapping):
        sample = sample.get("name", "")
    scan_id, truth = start.get("scan_id"), start.get("truth")
    return Scan(
        uid=str(start["uid"]),
        scan_id=scan_id if isinstance(scan_id, int) else None,
        sample=str(sample),
        plan_name=str(start.get("plan_name", "")),
        planned_energies_eV=energies.energies_eV(start),
        truth=truth if isinstance(truth, str) else None,
        start=dict(start),
    )
