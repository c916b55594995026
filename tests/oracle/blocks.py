"""Blocks of 16 along one axis, or 16x16 tiles over two, in the array's own axis order."""

import numpy as np


def padded_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """shape with every axis in axes rounded up to a multiple of 16."""
    axes = [a % len(shape) for a in axes]
    return tuple(-(-n // 16) * 16 if a in axes else n for a, n in enumerate(shape))


def pad(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """x with zeros appended so that every axis in axes is a multiple of 16; the dtype stays."""
    out = np.zeros(padded_shape(x.shape, axes), x.dtype)
    out[tuple(slice(n) for n in x.shape)] = x
    return out


def split(x: np.ndarray, axis: int) -> np.ndarray:
    """Axis of length 16 n becomes two axes (n, 16) at axis, axis + 1 (axis >= 0)."""
    return x.reshape(*x.shape[:axis], x.shape[axis] // 16, 16, *x.shape[axis + 1 :])


def block_max(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Maximum over each block: every axis in axes shrinks by 16. NaN wins."""
    for axis in axes:
        x = split(x, axis).max(axis=axis + 1)
    return x


def expand(per_block: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The opposite of shrinking: each block's value repeated on its 16 (or 16x16) elements."""
    for axis in axes:
        per_block = np.repeat(per_block, 16, axis=axis)
    return per_block


def block_sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """float32 sum over each block in TransformerEngine's order (numerics.md 1.3).

    The 16 elements along the last axis of axes are summed one after the other. For a tile the
    16 row sums along the first axis then meet in a tree: rows 0-7 + rows 8-15, then 4 + 4, 2 + 2,
    1 + 1.
    """
    elements = np.moveaxis(split(x, axes[-1]), axes[-1] + 1, 0)
    total = elements[0]
    for element in elements[1:]:
        total = total + element
    if len(axes) == 2:
        rows = np.moveaxis(split(total, axes[0]), axes[0] + 1, 0)
        while len(rows) > 1:
            half = len(rows) // 2
            rows = rows[:half] + rows[half:]
        total = rows[0]
    return total
