"""TensorSpec: validation, and what it says about bits and bounds."""

import dataclasses

import numpy as np
import pytest

from fp4jax import TensorSpec
from tests.samples import SPECS, spec_id


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("block", (16, 1), r"\(1, 16\), \(16, 16\)"),
        ("block", (1, 32), r"\(1, 16\), \(16, 16\)"),
        ("rounding", "up", "'nearest', 'stochastic', 'stochastic_unbiased'"),
        ("scaling", "max", "'amax', 'four_over_six'"),
        ("four_over_six_error", "rmse", "'mse', 'mae'"),
        ("four_over_six_bound", 255, "256, 448"),
        ("amax", "rows", "'tensor', 'example', 'row', 'static', 'learned'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_bad_field_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=rf"TensorSpec\.{field} is .*; allowed: {allowed}\."):
        TensorSpec(**{field: value})


def test_hadamard_needs_1x16():
    with pytest.raises(ValueError, match=r"use block=\(1, 16\)"):
        TensorSpec(block=(16, 16), hadamard=True)


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic_unbiased"])
def test_four_over_six_needs_nearest(rounding):
    with pytest.raises(ValueError, match="use rounding='nearest'"):
        TensorSpec(scaling="four_over_six", rounding=rounding)


def test_equal_specs_are_one_value():
    assert len(set(SPECS)) == len({spec_id(spec) for spec in SPECS}) == 21
    for spec in SPECS:
        copy = TensorSpec(**dataclasses.asdict(spec))
        assert (copy, hash(copy)) == (spec, hash(spec))


@pytest.mark.usefixtures("unchecked_types")
def test_a_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TensorSpec().hadamard = True
    with pytest.raises(ValueError, match="rounding is 'up'"):
        dataclasses.replace(TensorSpec(), rounding="up")


def test_bits_and_bounds():
    table = {  # rounding, scaling, bound: stochastic, random bits, amax / tensor scale
        ("nearest", "amax", 256): (False, 0, np.float32(2688)),
        ("stochastic", "amax", 256): (True, 8, np.float32(2688)),
        ("stochastic_unbiased", "amax", 256): (True, 24, np.float32(2688 * 16 / 17)),
        ("nearest", "four_over_six", 256): (False, 0, np.float32(1536)),
        ("nearest", "four_over_six", 448): (False, 0, np.float32(2688)),
    }
    for (rounding, scaling, bound), expected in table.items():
        spec = TensorSpec(rounding=rounding, scaling=scaling, four_over_six_bound=bound)
        assert (spec.stochastic, spec.random_bits, spec.bound) == expected
        assert spec.bound.dtype == np.float32
