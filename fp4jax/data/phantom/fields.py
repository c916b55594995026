"""Smooth random fields and the random streams they are drawn from.

A field is a cubic B-spline over a box around the head: random coefficients on a coarse control
grid, evaluated axis by axis. Four coefficients act at a point, so that a field of any resolution
costs four multiply-adds per axis, and the same coefficients give the same anatomy at every
resolution. There is no BLAS in it: the result does not depend on a number of threads.
"""

import zlib

import numpy as np

#: Box of all fields, mm, as (z, y, x): wide enough for every field of view.
LOW = (-90.0, -150.0, -130.0)
HIGH = (122.0, 120.0, 130.0)

# A B-spline of unit coefficients has this standard deviation, on average over a cell, per axis.
_AXIS_DEVIATION = (151 / 315) ** 0.5


def stream(seed: int, index: int, purpose: str) -> np.random.Generator:
    """The generator of one purpose of one patient, independent of all others.

    Every step of a patient draws from its own stream, so that neither the other patients nor the
    resolution, the contrasts asked for or another rater change anything else.

    Example:
        >>> a, b = stream(2026, 3, "tumour"), stream(2026, 3, "tumour")
        >>> bool(a.random() == b.random())
        True
    """
    return np.random.default_rng([seed, index, zlib.crc32(purpose.encode())])


def control_points(
    rng: np.random.Generator, shape: tuple[int, ...], deviation: float = 1.0
) -> np.ndarray:
    """Coefficients of a field: float32 normal numbers of the given standard deviation."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def evaluate(control: np.ndarray, points: tuple[np.ndarray, ...], unit: bool = False) -> np.ndarray:
    """The field of (n_z, n_y, n_x, ...) coefficients at the grid of the axes' points.

    Args:
        control: coefficients, at least four along each axis; two axes mean (y, x).
        points: coordinates of the grid along each axis, mm.
        unit: divide by the field's mean standard deviation for unit coefficients.
    """
    field, axes = control, len(points)
    low, high = LOW[-axes:], HIGH[-axes:]
    for axis in range(axes):
        field = _expand(field, axis, points[axis], low[axis], high[axis])
    return field / np.float32(_AXIS_DEVIATION**axes) if unit else field


def _expand(control, axis, points, low, high) -> np.ndarray:
    """One axis: out[p] = sum of w[p, k] control[cell[p] + k], k = 0..3."""
    cells = control.shape[axis] - 3
    position = (np.asarray(points, np.float64) - low) / (high - low) * cells
    cell = np.clip(np.floor(position).astype(int), 0, cells - 1)
    t = np.clip(position - cell, 0.0, 1.0)
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    shape = [1] * control.ndim
    shape[axis] = len(t)
    out = np.zeros((), np.float32)
    for k, weight in enumerate(weights):
        out = out + np.take(control, cell + k, axis) * (weight / 6).astype(np.float32).reshape(
            shape
        )
    return out
