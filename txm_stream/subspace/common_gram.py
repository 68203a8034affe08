"""Gram matrix of a growing set of rows on the pixels that all kept rows have in common."""

from __future__ import annotations

import numpy as np

from txm_stream.arrays import Image, Mask, Matrix, Vector


class CommonGram:
    """Exact after every addition, replacement and loss of pixels, at the cost of one row (T·P multiplications).

    Only where the common pixels become more (a row with a small mask was replaced or lost its weight) everything is
    computed again. Memory: one row of float32 and one of bool per visit.
    """

    def __init__(self) -> None:
        self._rows: list[Image] = []
        self._masks: list[Mask] = []
        self._changed: set[int] = set()
        self._common: Mask | None = None
        self._gram: Matrix = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, index: int, row: Image, mask: Mask) -> None:
        """Add row ``index`` (P,) float32 (= number of rows so far) or replace it; ``mask`` is True where it counts."""
        if index == len(self):
            self._rows.append(row)
            self._masks.append(mask)
        else:
            self._rows[index], self._masks[index] = row, mask
        self._changed.add(index)

    def common(self, keep: Vector) -> Mask:
        """Return the pixels (P,) where every row with ``keep`` > 0 counts."""
        out = np.ones(self._rows[0].shape, dtype=bool)
        for mask, kept in zip(self._masks, keep, strict=True):
            if kept > 0:
                out &= mask
        return out

    def matrix(self, keep: Vector) -> tuple[Matrix, int]:
        """Return the Gram matrix (T, T) of all rows on the pixels common to those with ``keep`` > 0; their number."""
        common = self.common(keep)
        count, known = len(self), len(self._gram)
        if self._common is None or (common & ~self._common).any() or len(self._changed) > count // 2:
            stack = np.stack([row[common] for row in self._rows])
            self._gram = (stack @ stack.T).astype(np.float64)
        else:
            grown = np.zeros((count, count))
            grown[:known, :known] = self._gram
            self._gram = grown
            lost = np.flatnonzero(self._common & ~common)
            if lost.size:
                same = [t for t in range(known) if t not in self._changed]
                gone = np.stack([self._rows[t][lost] for t in same]) if same else np.zeros((0, lost.size))
                self._gram[np.ix_(same, same)] -= gone @ gone.T
            for t in sorted(self._changed):
                masked = np.where(common, self._rows[t], np.float32(0))
                self._gram[t] = self._gram[:, t] = [float(row @ masked) for row in self._rows]
        self._common, self._changed = common, set()
        return self._gram.copy(), int(common.sum())
