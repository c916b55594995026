"""What the tests of operations share: y, dx and dw of a call, and how results are compared."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Of sums of a few hundred products in float32, in units of the largest of them.
SUMS = 3e-6


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


def assert_same_sums(actual: Any, expected: Any, what: str = "") -> None:
    """Asserts that two results are the same sums of products, whatever order they were added in.

    Codes, scales and quantized operands are compared bit for bit (``assert_same_bits``): every
    operation on them is rounded as IEEE says. Sums are not: XLA chooses their order by the
    processor's vector length, by the library it multiplies with, and by what a product is fused
    with, so that two programs, or one on two machines, differ in last bits. Allowed is ``SUMS`` of
    the largest magnitude, and in narrower dtypes the neighbouring value, where a sum lies close to
    the middle of two. A single code that is rounded the other way is a hundred times as much.
    """
    actual, expected = jnp.asarray(actual), jnp.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    exact = np.asarray(expected, np.float64)
    neighbour = float(jnp.finfo(actual.dtype).eps) if actual.dtype.itemsize < 4 else 0
    allowed = neighbour * np.abs(exact) + SUMS * np.abs(exact).max(initial=0)
    error = np.abs(np.asarray(actual, np.float64) - exact)
    assert (error <= allowed).all(), (what, error.max(initial=0), np.abs(exact).max(initial=0))


def diagonal(first: Sequence[Any], *others: Sequence[Any]) -> list[Any]:
    """Parameters of all combinations, slow but for a diagonal of them.

    The diagonal has every value of the first axis and every combination of the others.
    """
    rest = list(itertools.product(*others))
    fast = {(t % len(first), t % len(rest)) for t in range(max(len(first), len(rest)))}
    return [
        pytest.param(value, *more, marks=[] if (i, j) in fast else [pytest.mark.slow])
        for i, value in enumerate(first)
        for j, more in enumerate(rest)
    ]
