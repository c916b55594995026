"""What the tests of operations share: y, dx and dw of a call, compared by their maximum."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Results(NamedTuple):
    """The outputs of a layer's three GEMMs."""

    y: Any
    dx: Any
    dw: Any


def three_gemms(f: Callable) -> Callable[..., Results]:
    """``(x, w, g, *args) -> (y, dx, dw)`` of ``y = f(x, w, *args)`` for the cotangent g."""

    def run(x, w, g, *args) -> Results:
        y, vjp = jax.vjp(lambda x, w: f(x, w, *args), x, w)
        return Results(y, *vjp(g))

    return run


def relative_error(actual: Any, expected: Any) -> float:
    """Largest difference in units of the largest expected magnitude; infinite if one is NaN."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert expected.any(), "comparing with nothing but zeros"
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    return np.inf if np.isnan(error) else float(error)


def assert_close(actual: Results, expected: Results | dict, tolerance: float) -> None:
    """Asserts that y, dx and dw are all within the tolerance."""
    expected = expected if isinstance(expected, dict) else expected._asdict()
    errors = {
        name: relative_error(value, expected[name]) for name, value in actual._asdict().items()
    }
    assert all(error <= tolerance for error in errors.values()), errors
