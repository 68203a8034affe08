"""Gram matrix of a growing set of rows on the pixels that all kept rows have in common."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Vector

_BLOCK = 32
"""Rows that lie together in memory: one product with a block is several times faster than one per row."""


class CommonGram:
    """Exact after every addition, replacement and loss of pixels, at the cost of one row (T·P multiplications).

    Only where the common pixels become more (a row with a small mask was replaced or lost its weight) everything is
    computed again. Memory: one row of float32 and one of bool per visit, in blocks of 32.
    """

    def __init__(self) -> None:
        self._blocks: list[Image] = []
        self._masks: list[Mask] = []
        self._changed: set[int] = set()
        self._blind = np.zeros(0, dtype=np.uint16)
        self._counted = np.zeros(0, dtype=bool)
        self._common: Mask | None = None
        self._gram: Matrix = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self._masks)

    def put(self, index: int, row: Image, mask: Mask) -> None:
        """Add row ``index`` (P,) float32 (= number of rows so far) or replace it; ``mask`` is True where it counts."""
        if index == len(self):
            if index % _BLOCK == 0:
                self._blocks.append(np.zeros((_BLOCK, row.size), dtype=np.float32))
            if index == 0:
                self._blind = np.zeros(row.size, dtype=np.uint16)
            self._masks.append(mask)
            self._counted = np.append(self._counted, False)
        else:
            if self._counted[index]:
                self._blind -= ~self._masks[index]
            self._masks[index], self._counted[index] = mask, False
        self._row(index)[:] = row
        self._changed.add(index)

    def _row(self, index: int) -> Image:
        return np.asarray(self._blocks[index // _BLOCK][index % _BLOCK])

    def common(self, keep: Vector) -> Mask:
        """Return the pixels (P,) where every row with ``keep`` > 0 counts."""
        wanted = np.asarray(keep) > 0
        for t in np.flatnonzero(wanted & ~self._counted):
            self._blind += ~self._masks[t]
        for t in np.flatnonzero(self._counted & ~wanted):
            self._blind -= ~self._masks[t]
        self._counted = wanted
        return np.asarray(self._blind == 0)

    def matrix(self, keep: Vector) -> tuple[Matrix, int]:
        """Return the Gram matrix (T, T) of all rows on the pixels common to those with ``keep`` > 0; their number."""
        common = self.common(keep)
        count, known = len(self), len(self._gram)
        if self._common is None or (common & ~self._common).any() or len(self._changed) > count // 2:
            stack = np.concatenate([block[:, common] for block in self._blocks])[:count]
            self._gram = (stack @ stack.T).astype(np.float64)
        else:
            grown = np.zeros((count, count))
            grown[:known, :known] = self._gram
            self._gram = grown
            lost = np.flatnonzero(self._common & ~common)
            if lost.size:
                same = [t for t in range(known) if t not in self._changed]
                gone = np.concatenate([block[:, lost] for block in self._blocks])[same]
                self._gram[np.ix_(same, same)] -= gone @ gone.T
            for t in sorted(self._changed):
                masked = np.where(common, self._row(t), np.float32(0))
                self._gram[t] = self._gram[:, t] = np.concatenate([block @ masked for block in self._blocks])[:count]
        self._common, self._changed = common, set()
        return self._gram.copy(), int(common.sum())
