"""An operator's order from the command line: to a run that is measured here, or kept with the results of a past one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from txm_stream.errors import BadOrderError
from txm_stream.profile import Profile


def give_order(
    which: str,
    action: str,
    *,
    region: str | None = None,
    energies: str | None = None,
    source: str | None = None,
    profile: Path | None = None,
    **about: Any,
) -> str:
    """Give the order and return what was done in one line.

    Parameters
    ----------
    which
        ``"latest"`` or the beginning of a uid.
    region
        ``"y0:y1,x0:x1"`` in pixels, ends excluded.
    energies
        In eV, with commas.
    source
        Address or folder of the Tiled server with the results of a run that is over; ``None``: a run that is measured,
        processed on this machine.
    profile
        Says where the scratch folder and the results are; default: as usual.
    about
        ``visit``, ``position``, ``reason``, see :class:`.Order`.

    Raises
    ------
    BadOrderError
        Not an order, or no such run.
    """
    from txm_stream.callbacks.orders import OrderFiles, make_order, record_order
    from txm_stream.callbacks.scratch import scratch_root
    from txm_stream.callbacks.sources import find_scan, open_source

    rules = Profile() if profile is None else Profile.load(profile)
    order = make_order(action=action, region=_region(region), energies_eV=_energies(energies), **about)
    if source is None:
        uid = OrderFiles(scratch_root(rules)).leave(which, order)
        return f"run {uid[:8]} is told: {order}"
    with open_source(source, rules) as client:
        uid = str(find_scan(client, which, rules)[0].start["uid"])
        record_order(client, rules.results_path, uid, order)
    return f"kept with the results of run {uid[:8]}: {order}; txm-stream replay {uid[:8]} --from {source} obeys it"


def _region(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        y0, y1, x0, x1 = (int(number) for axis in text.split(",") for number in axis.split(":"))
    except ValueError:
        raise BadOrderError(f"region is {text!r}, expected y0:y1,x0:x1 in pixels") from None
    return y0, y1, x0, x1


def _energies(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise BadOrderError(f"energies are {text!r}, expected numbers in eV with commas between them") from None
