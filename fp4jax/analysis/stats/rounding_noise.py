"""Rounding noise is no difference."""

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Values that differ by less than this share of the largest are equal: metrics are sums in float32,
#: whose last digit is 1.2e-7 of them, and means over seeds depend on their order by 1e-16.
TOLERANCE = 1e-6


def rounded(values: Any, scale: float | None = None) -> Any:
    """Values as multiples of ``TOLERANCE`` times the scale: those that are equal but for noise tie.

    Args:
        values: an array or a frame.
        scale: the largest magnitude of what is compared; None for that of the values.

    Example:
        >>> rounded(np.array([0.3 - 0.2 - 0.1, 0.8 - 0.7]), scale=0.8).round(9).tolist()
        [0.0, 0.1]
    """
    step = TOLERANCE * (magnitude([np.asarray(values)]) if scale is None else scale)
    return values if step == 0 else np.round(values / step) * step + 0.0


def magnitude(values: Sequence[np.ndarray]) -> float:
    """The largest magnitude of arrays that are not all empty, NaN left out; 0 of none.

    Example:
        >>> magnitude([np.array([0.5, -2.0]), np.array([np.nan])])
        2.0
    """
    return max((float(np.nanmax(np.abs(v))) for v in values if np.isfinite(v).any()), default=0.0)


def steady(d: np.ndarray, scale: float) -> np.ndarray:
    """Differences that vary by noise alone as constant ones, all others as they are.

    Example:
        >>> steady(np.array([0.3 - 0.2 - 0.1, 0.0]), scale=0.3).tolist()
        [0.0, 0.0]
    """
    coarse = rounded(d, scale)
    if not len(d) or np.ptp(coarse):
        return d
    return np.full(len(d), d.mean() if coarse[0] else 0.0)
