"""Modes, rules and runtimes as values."""

import dataclasses
from typing import Any

import pytest

from fp4jax import deploy
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy import Case, Mode, Rule, Runtime
from fp4jax.deploy.runtimes import mode

NV, RHT, TILE = TensorSpec(), TensorSpec(hadamard=True), TensorSpec(block=(16, 16))
ANY = Rule(mode=mode.FLOAT, why="all", sources=("https://example.org",))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("FP2", "recipe"), "Mode.units is 'FP2'; allowed: 'FP4'"),
        (("FP4", "all"), "Mode.operands is 'all'"),
        (("FP4", "weights"), "give 'recipe', or 'fp8' for FP8"),
    ],
)
def test_modes_that_are_none(values: Any, message):
    with pytest.raises(ValueError, match=message):
        Mode(*values)


@pytest.mark.parametrize(
    ("condition", "case", "fits"),
    [
        ({"kinds": ("linear",)}, Case("linear"), True),
        ({"kinds": ("linear",)}, Case("convolution"), False),
        ({"operands": ("nvfp4",)}, Case("linear", NV, NV), True),
        ({"operands": ("nvfp4",)}, Case("linear", NV, TensorSpec(format="fp8")), False),
        ({"operands": ("weights",)}, Case("linear", None, NV), True),
        ({"operands": ("activations",)}, Case("linear", NV, None), True),
        ({"rotated": True}, Case("linear", RHT, RHT), True),
        ({"rotated": False}, Case("linear", RHT, RHT), False),
        ({"tiles": True}, Case("linear", NV, TILE), True),
        ({"whole_blocks": False}, Case("linear", channels=20), True),
        ({"whole_blocks": False}, Case("linear", channels=32), False),
        ({"spatial_dims": (3,)}, Case("convolution", spatial_dims=2), False),
        ({"scaling": "four_over_six"}, Case("linear", NV, NV), False),
        ({"calibrated": True, "matrix": True}, Case("linear", matrix=True), False),
        ({"fp8": True}, Case("linear", fp8=True), True),
    ],
)
def test_conditions(condition, case, fits):
    assert dataclasses.replace(ANY, **condition).fits(case) is fits


def test_the_first_rule_that_fits_decides():
    linear = dataclasses.replace(ANY, why="linear", kinds=("linear",))
    own = Runtime("mine", "a runtime", (linear, ANY))
    assert [own.rule(Case(kind)).why for kind in ("linear", "einsum")] == ["linear", "all"]
    for rules in ((), (linear,)):
        with pytest.raises(ValueError, match="end with a Rule"):
            Runtime("mine", "a runtime", rules)


@pytest.mark.usefixtures("unchecked_types")
def test_another_16_bit_type():
    own = Runtime("mine", "a runtime", (ANY,))
    with pytest.raises(ValueError, match=r"Runtime.half is 'half'; allowed: 'bfloat16'"):
        dataclasses.replace(own, half="half")  # type: ignore[arg-type]


def test_names():
    assert deploy.get_runtime("cudnn").name == "cudnn"
    with pytest.raises(ValueError, match="no target 'trt'; known names: tensorrt, tensorrt-rtx"):
        deploy.get_runtime("trt")
