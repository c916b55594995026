"""The rules of the six runtimes, product by product."""

import pytest

from fp4jax import deploy
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy import Case

NV, RHT, TILE = TensorSpec(), TensorSpec(hadamard=True), TensorSpec(block=(16, 16))
FOUR_OVER_SIX, FP8 = TensorSpec(scaling="four_over_six"), TensorSpec(format="fp8")

CASES = {
    "linear": Case("linear", NV, TILE, matrix=True, channels=64, calibrated=True),
    "rotated": Case("linear", RHT, RHT, matrix=True, channels=64, calibrated=True),
    "padded": Case("linear", NV, NV, matrix=True, channels=20, calibrated=True),
    "uncalibrated": Case("linear", NV, NV, matrix=True, channels=64),
    "4/6": Case("linear", FOUR_OVER_SIX, NV, matrix=True, channels=64, calibrated=True),
    "pointwise": Case(
        "convolution", NV, NV, matrix=True, spatial_dims=3, channels=64, calibrated=True
    ),
    "conv": Case("convolution", NV, NV, spatial_dims=2, channels=64, calibrated=True),
    "conv to fp8": Case(
        "convolution", NV, NV, spatial_dims=2, channels=64, calibrated=True, fp8=True
    ),
    "conv 3D": Case("convolution", NV, NV, spatial_dims=3, channels=64, calibrated=True),
    "fp8 linear": Case("linear", FP8, FP8, matrix=True, channels=64, calibrated=True),
    "fp8 conv": Case("convolution", FP8, FP8, spatial_dims=2, channels=64, calibrated=True),
    "weights": Case("linear", None, NV, matrix=True, channels=64),
    "kept": Case("convolution", spatial_dims=2, channels=3),
    "attention": Case("attention", NV, NV),
    "einsum": Case("einsum", NV, NV, calibrated=True),
    "mxfp4": Case("linear", TensorSpec(format="mxfp4"), TensorSpec(format="mxfp4"), matrix=True),
}
WEIGHTS, VALUES, FLOATS = (
    "16 bits with FP4 weights",
    "16 bits with FP4 values",
    "float32 with FP4 values",
)
#: tensorrt, tensorrt-rtx, cudnn, fp4jax
EXPECTED = {
    "linear": ("FP4", "FP4", "FP4", "FP4"),
    "rotated": ("FP4", "FP4", "FP4", "FP4"),
    "padded": ("FP4", "FP4", "FP4", "FP4"),
    "uncalibrated": (WEIGHTS, WEIGHTS, "FP4", "FP4"),
    "4/6": (WEIGHTS, WEIGHTS, "FP4", "FP4"),
    "pointwise": ("FP4", "FP4", "FP4", VALUES),
    "conv": (WEIGHTS, WEIGHTS, WEIGHTS, VALUES),
    "conv to fp8": ("FP8", WEIGHTS, "FP8", VALUES),
    "conv 3D": (WEIGHTS, WEIGHTS, WEIGHTS, VALUES),
    "fp8 linear": ("FP8", "FP8", "FP8", FLOATS),
    "fp8 conv": ("FP8", FLOATS, "FP8", FLOATS),
    "weights": (WEIGHTS, WEIGHTS, WEIGHTS, "float32 with FP4 weights"),
    "kept": ("float32", "float32", "float32", "float32"),
    "attention": (FLOATS, FLOATS, VALUES, VALUES),
    "einsum": (FLOATS, FLOATS, VALUES, VALUES),
    "mxfp4": (FLOATS, FLOATS, VALUES, FLOATS),
}


@pytest.mark.parametrize("case", CASES)
def test_on_gpus(case):
    found = tuple(
        str(deploy.get_runtime(name).rule(CASES[case]).mode)
        for name in ("tensorrt", "tensorrt-rtx", "cudnn", "fp4jax")
    )
    assert found == EXPECTED[case]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_on_cpus_all_is_float32(name):
    runtime = deploy.get_runtime(name)
    assert {str(runtime.rule(case).mode) for case in CASES.values()} == {"float32", FLOATS}
    assert not runtime.multiplies_fp4


@pytest.mark.parametrize("name", deploy.runtime_names())
def test_every_rule_says_why_and_where_it_is_from(name):
    for rule in deploy.get_runtime(name).rules:
        assert rule.why
        assert rule.sources
        assert all(source.startswith(("https://", "fp4jax/")) for source in rule.sources)


@pytest.mark.parametrize("name", deploy.runtime_names())
def test_no_rule_hides_another(name):
    """A rule whose conditions are a part of a later one's would leave that without a product."""
    rules = deploy.get_runtime(name).rules
    for i, later in enumerate(rules):
        for earlier in rules[:i]:
            assert not _covers(earlier, later), (earlier.why, later.why)


def _covers(earlier, later) -> bool:
    for field, own in vars(earlier).items():
        if field in ("mode", "why", "sources") or own is None:
            continue
        other = getattr(later, field)
        if other is None or not (
            set(other) <= set(own) if isinstance(own, tuple) else other == own
        ):
            return False
    return True
