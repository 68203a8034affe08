"""What is shown while a scan runs: registration by one template, running subspace, preview, map and its errors.

``view`` takes visits and drives the others: ``placing`` registers a visit, ``chemistry`` makes the map, ``spread`` its
errors, ``forecast`` says how good the final map will be, ``endmembers`` what there is to see without references.
"""

from __future__ import annotations

from txm_stream.live.endmembers import Endmembers, find_endmembers
from txm_stream.live.view import LiveView

__all__ = ["Endmembers", "LiveView", "find_endmembers"]
