"""Array types used throughout; stacks are (energy, y, x) float32, masks are True where valid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Stack = NDArray[np.float32]
Mask = NDArray[np.bool_]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
AnyArray = NDArray[Any]
