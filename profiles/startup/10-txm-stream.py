"""Start-up for IPython and queueserver: the simulated microscope, a stream subscribed to RE, and the two plans.

At a beamline replace ``txm`` by a ``ScanDevices`` of your own devices; the rest stays. Environment variables:
``TXM_STREAM_PROFILE`` a TOML profile, ``TXM_STREAM_TILED`` the address of a Tiled server (key in ``TILED_API_KEY``).
With queueserver: ``start-re-manager --startup-dir profiles/startup --keep-re``.
"""

import os

from bluesky import RunEngine

from txm_stream.callbacks import XanesStream
from txm_stream.callbacks import adaptive_plan as _adaptive_plan
from txm_stream.callbacks import plans as _plans
from txm_stream.phantoms import nickel_energies as _nickel_energies
from txm_stream.profile import Profile
from txm_stream.simulated_devices import SimulatedTXM

_profile = Profile.load(os.environ["TXM_STREAM_PROFILE"]) if os.environ.get("TXM_STREAM_PROFILE") else Profile()
_tiled = None
if os.environ.get("TXM_STREAM_TILED"):
    from tiled.client import from_uri as _from_uri

    _tiled = _from_uri(os.environ["TXM_STREAM_TILED"])

PLANNED_EV = [round(float(_energy), 3) for _energy in _nickel_energies(60)]

if "RE" not in globals():
    RE = RunEngine({})
txm = SimulatedTXM((128, 128))
energy, camera, sample_x, shutter = txm.energy, txm.camera, txm.sample_x, txm.shutter
xanes_stream = XanesStream(_profile, tiled=_tiled)
RE.subscribe(xanes_stream)


def xanes_scan(energies_eV: list[float] | None = None, sample: str = "", n_darks: int = 1):
    """Scan the energies in eV; default: the planned list."""
    return (yield from _plans.xanes_scan(txm, energies_eV or PLANNED_EV, sample=sample, n_darks=n_darks))


def adaptive_xanes(
    energies_eV: list[float] | None = None,
    target_rmse: float | None = None,
    most_visits: int | None = None,
    most_s: float | None = None,
    sample: str = "",
    n_darks: int = 1,
):
    """Scan what is advised until the map is good to ``target_rmse``; without advice the energies given are measured."""
    rules = {"target_rmse": target_rmse, "most_visits": most_visits, "most_s": most_s}
    steering = _profile.steering.model_copy(update={name: value for name, value in rules.items() if value is not None})
    planned = energies_eV or PLANNED_EV
    plan = _adaptive_plan.adaptive_xanes(txm, xanes_stream, planned, steering=steering, sample=sample, n_darks=n_darks)
    return (yield from plan)
