"""Powers of data whose powers are known."""

import math

import numpy as np
import pytest

from benchmarks.power_fit import fit


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_a_power_is_found(exponent):
    sizes = np.array([8, 1, 2, 4])
    found = fit(sizes.tolist(), (3e-3 * sizes**exponent).tolist())
    assert found.exponent == pytest.approx(exponent)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.last == pytest.approx(exponent)


def test_a_constant_cost_shows():
    """1 + x: the slope is below 1, and nearer to it between the largest sizes."""
    found = fit([1, 4, 16, 64], [2, 5, 17, 65])
    assert found.exponent + found.error < found.last < 1
    assert found.error > 0


def test_the_error_is_that_of_least_squares():
    """By hand: residuals' variance with n - 2 degrees of freedom over the spread of log sizes."""
    x, noise = np.log([1.0, 2, 4, 8, 16]), np.array([0.1, -0.2, 0.05, 0.15, -0.1])
    found = fit(np.exp(x).tolist(), np.exp(1.5 * x + noise).tolist())
    slope, offset = np.polyfit(x, 1.5 * x + noise, 1)
    residuals = 1.5 * x + noise - slope * x - offset
    variance = (residuals**2).sum() / 3 / ((x - x.mean()) ** 2).sum()
    assert found.exponent == pytest.approx(slope)
    assert found.error == pytest.approx(math.sqrt(variance))


def test_two_sizes_have_no_error():
    assert math.isnan(fit([1, 2], [1, 4]).error)


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([2, 2], [1, 1]), ([1, 2], [0, 1]), ([1, 2, 3], [1, 2])]
)
def test_what_cannot_be_fitted(sizes, seconds):
    with pytest.raises(ValueError, match="two different"):
        fit(sizes, seconds)
