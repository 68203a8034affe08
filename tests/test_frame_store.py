"""Frames on disk: what comes back is what went in, and memory is given back without losing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from txm_stream.errors import MissingFramesError
from txm_stream.frame_store import FrameStore, release_pages


def test_images_come_back_as_they_went_in_and_are_replaced(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "frames")
    images = np.random.default_rng(0).standard_normal((5, 40, 30)).astype(np.float32)
    for index in (3, 0, 4, 1, 2):
        store.put("raw", index, images[index])
    store.put("raw", 3, 2 * images[3])
    np.testing.assert_array_equal(store.get("raw", 3), 2 * images[3])
    np.testing.assert_array_equal(store.get("raw", 4), images[4])
    np.testing.assert_array_equal(store.get("raw", 4, rows=(7, 19)), images[4, 7:19])
    with pytest.raises(MissingFramesError, match="no flat image 0"):
        store.get("flat", 0)
    store.close()
    assert not (tmp_path / "frames").exists()


def test_released_pages_leave_memory_and_keep_their_content(tmp_path: Path) -> None:
    stack = FrameStore(tmp_path / "frames").new_stack("noisy", (32, 512, 512))
    values = np.arange(32, dtype=np.float32)
    stack[:] = values[:, None, None]
    process = psutil.Process()
    before = process.memory_info().rss
    release_pages(stack[7])
    assert before - process.memory_info().rss > 0.8 * stack.nbytes
    np.testing.assert_array_equal(stack[:, 100, 100], values)
    release_pages(np.zeros(3))
