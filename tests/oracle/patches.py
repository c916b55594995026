"""Patches of a channels-last array, and their adjoint.

In each spatial dimension row r reads through tap t the position

    p = (r * row_step + t * tap_step + offset) / divisor

of the array, or zero where p is no integer or lies outside. Taps of several dimensions are
flattened row-major.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Window:
    """One spatial dimension: rows x taps positions into an array of length size."""

    rows: int
    taps: int
    size: int
    row_step: int
    tap_step: int
    offset: int
    divisor: int = 1

    def positions(self, tap: int) -> np.ndarray:
        """Position read by each row through this tap; `size` (one past the end) stands for zero."""
        p = np.arange(self.rows) * self.row_step + tap * self.tap_step + self.offset
        inside = (
            (p % self.divisor == 0) & (p // self.divisor >= 0) & (p // self.divisor < self.size)
        )
        return np.where(inside, p // self.divisor, self.size)


def _indices(windows: list[Window]):
    """For each tap, row-major, the index of all rows' positions (spatial axes 1 .. n)."""
    for tap in np.ndindex(*(w.taps for w in windows)):
        yield np.ix_(*(w.positions(t) for w, t in zip(windows, tap, strict=True)))


def extract(x: np.ndarray, windows: list[Window]) -> np.ndarray:
    """(N, *size, ...) -> (N, *rows, taps, ...)."""
    n = len(windows)
    with_zero = np.pad(x, [(0, 0)] + [(0, 1)] * n + [(0, 0)] * (x.ndim - 1 - n))
    return np.stack([with_zero[(slice(None), *index)] for index in _indices(windows)], axis=1 + n)


def scatter(patches: np.ndarray, windows: list[Window]) -> np.ndarray:
    """The adjoint, (N, *rows, taps, ...) -> (N, *size, ...).

    Every patch element is added to where it was read.
    """
    n = len(windows)
    x = np.zeros(
        (patches.shape[0], *(w.size + 1 for w in windows), *patches.shape[n + 2 :]), patches.dtype
    )
    for t, index in enumerate(_indices(windows)):
        np.add.at(x, (slice(None), *index), np.take(patches, t, axis=1 + n))
    return x[(slice(None), *(slice(w.size) for w in windows))]
