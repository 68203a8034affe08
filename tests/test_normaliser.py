"""The normaliser: what it keeps of frames."""

from __future__ import annotations

import numpy as np

from txm_stream import Profile
from txm_stream.frame_store import FrameStore
from txm_stream.frames import Frame
from txm_stream.normaliser import Normaliser


def test_frames_that_lack_the_same_pixels_share_their_mask(tmp_path):
    """Masks of 2160 × 2560 frames would fill a gigabyte in a hundred energies."""
    store = FrameStore(tmp_path / "store")
    normaliser = Normaliser(Profile(), store)
    image = np.full((32, 40), 900, dtype=np.uint16)
    spoilt = image.copy()
    spoilt[3, 4] = 65535
    for t, counts in enumerate((image, image, spoilt, spoilt, image)):
        normaliser.add(Frame("flat", image, 8300.0, 2 * t, 1.0, 2.0 * t))
        normaliser.add(Frame("sample", counts, 8300.0 + t, 2 * t + 1, 1.0, 2.0 * t + 1))
    store.close()
    first, second, third, fourth, last = (visit.invalid for visit in normaliser.visits)
    assert first is second
    assert third is fourth
    assert [mask.sum() for mask in (first, third, last)] == [0, 1, 0]
    assert third[3, 4]
