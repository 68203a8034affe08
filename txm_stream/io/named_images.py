"""The images of a result with the names and units under which pictures and files show them."""

from __future__ import annotations

from dataclasses import dataclass

from txm_stream.arrays import AnyArray
from txm_stream.results import Result


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image (y, x) with its name and unit ("" where it has none)."""

    name: str
    unit: str
    image: AnyArray


def state_names(result: Result) -> tuple[str, ...]:
    """Return the names of the states of the map, "state 1" … where the result does not name them."""
    count = 0 if result.phase_map is None else len(result.phase_map)
    return tuple(result.states[j] if j < len(result.states) else f"state {j + 1}" for j in range(count))


def stack_unit(result: Result) -> str:
    """Return what the values of the stacks are: "OD" (optical density), or "yield" for fluorescence."""
    return "yield" if result.provenance.get("signal") == "fluorescence" else "OD"


def map_images(result: Result) -> tuple[NamedImage, ...]:
    """Return the chemical map, one image per state; without states the edge-50 map; nothing where there is none."""
    if result.phase_map is not None:
        named = zip(state_names(result), result.phase_map, strict=True)
        return tuple(NamedImage(name, "abundance", image) for name, image in named)
    return () if result.edge50 is None else (NamedImage("edge-50", "eV", result.edge50),)


def sigma_images(result: Result) -> tuple[NamedImage, ...]:
    """Return the standard deviation of the map, one image per state."""
    if result.phase_sigma is None:
        return ()
    named = zip(state_names(result), result.phase_sigma, strict=True)
    return tuple(NamedImage(f"sigma {name}", "abundance", image) for name, image in named)


def other_images(result: Result) -> tuple[NamedImage, ...]:
    """Return what else is known per pixel: the edge jump and how well the fit explains the data."""
    found = (("edge jump", stack_unit(result), result.scale), ("reduced chi-square", "", result.fit))
    return tuple(NamedImage(name, unit, image) for name, unit, image in found if image is not None)
