"""How time grows: the power of a size, fitted on log axes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Power:
    """time = c * size**exponent.

    Attributes:
        exponent: by least squares of log(time) on log(size).
        error: its standard error; NaN for two sizes, which any power fits.
        last: the exponent between the two largest sizes, where constant costs count least.
    """

    exponent: float
    error: float
    last: float


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Power:
    """The power that fits best.

    Raises:
        ValueError: for less than two different sizes, or numbers that are not positive.

    Example:
        >>> power = fit([1, 2, 4], [3.0, 12.0, 48.0])
        >>> round(power.exponent, 6), round(power.last, 6)
        (2.0, 2.0)
    """
    if len(sizes) != len(seconds) or len(set(sizes)) < 2 or min(*sizes, *seconds) <= 0:
        raise ValueError(
            f"sizes {list(sizes)} and seconds {list(seconds)} cannot be fitted: give two different "
            "positive sizes at least, and a positive time for each."
        )
    x, y = np.log(sizes), np.log(seconds)
    line: Any = stats.linregress(x, y)
    before, largest = np.argsort(x)[-2:]
    last = (y[largest] - y[before]) / (x[largest] - x[before])
    error = float(line.stderr) if len(sizes) > 2 else math.nan
    return Power(float(line.slope), error, float(last))
