"""Convolutions: signatures, and arguments that are refused."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from jax import lax

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.ops.recipe import ROLES
from tests.checks import assert_close, three_gemms
from tests.ops.convolution.cases import BASELINE, channels_last
from tests.samples import sample

BOTH = pytest.mark.parametrize("name", ["conv_general_dilated", "conv_transpose"])


@pytest.mark.parametrize("name", ["conv_general_dilated", "conv_transpose"])
def test_signature_is_that_of_lax(name):
    """In order, kinds and defaults; ours adds keywords only."""
    ours = inspect.signature(getattr(fp4, name)).parameters
    theirs = inspect.signature(getattr(lax, name)).parameters
    common, added = list(ours)[: len(theirs)], list(ours)[len(theirs) :]
    assert common == list(theirs)
    for parameter in common:
        assert ours[parameter].default == theirs[parameter].default
        assert ours[parameter].kind == theirs[parameter].kind
    allowed = {"out_sharding", "recipe", "key", "amax", "axis_name", "switches"}
    assert {"recipe", "key"} <= set(added) <= allowed
    assert all(ours[parameter].kind == inspect.Parameter.KEYWORD_ONLY for parameter in added)


@pytest.mark.parametrize("recipe", [0, "baseline", BASELINE])
def test_batch_groups(recipe):
    """They are for the baseline only."""
    x, w = sample("normal", (4, 6, 3)), sample("normal", (3, 3, 8), 1)
    options = {"dimension_numbers": channels_last(1), "batch_group_count": 2}
    ours = lambda x, w: fp4.conv_general_dilated(x, w, (1,), "SAME", recipe=recipe, **options)  # noqa: E731
    theirs = lambda x, w: lax.conv_general_dilated(x, w, (1,), "SAME", **options)  # noqa: E731
    g = sample("normal", (2, 6, 8), 2)
    assert_close(three_gemms(ours)(x, w, g), three_gemms(theirs)(x, w, g), 0)


X, W = np.ones((2, 6, 6, 4), np.float32), np.ones((3, 3, 4, 8), np.float32)


def call(name="conv_general_dilated", x=X, w=W, strides=(1, 1), padding="SAME", **options):
    options = {"recipe": "full", "dimension_numbers": channels_last(2), **options}
    return getattr(fp4, name)(x, w, strides, padding, **options)


def test_batch_groups_are_refused():
    with pytest.raises(ValueError, match=r"batch_group_count is 2; .* take 1"):
        call(batch_group_count=2)


@BOTH
@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.uint8])
def test_integers_are_refused(name, dtype):
    with pytest.raises(ValueError, match=f"lhs has dtype {dtype.__name__.strip('_')}"):
        call(name, x=X.astype(dtype))
    with pytest.raises(ValueError, match="rhs has dtype"):
        call(name, w=W.astype(dtype))


@BOTH
def test_missing_key_is_refused(name):
    with pytest.raises(ValueError, match=rf"'sr' rounds .* key=jax.random.key\(seed\) to {name}"):
        call(name, recipe="sr")


@BOTH
def test_unknown_recipe_is_refused(name):
    with pytest.raises(ValueError, match="no recipe 'nvfp4'; known names: baseline, full"):
        call(name, recipe="nvfp4")


@BOTH
@pytest.mark.parametrize("role", [role for role in ROLES if not role.endswith("w")])
def test_tiles_are_for_kernels(name, role):
    """x and g take no 16x16 tiles, in none of the three products."""
    field = role.split(".")[0]
    specs = tuple(
        TensorSpec(block=(16, 16)) if r == role else None for r in ROLES if r.startswith(field)
    )
    recipe = dataclasses.replace(BASELINE, name=role, **{field: specs})
    with pytest.raises(ValueError, match=r"block=\(16, 16\) is for weights"):
        jax.grad(lambda w: call(name, w=w, recipe=recipe).sum())(W)


# The last of them are messages of XLA in lax, not of lax itself.
WRONG = [
    {"x": X[..., :3]},
    {"x": X[0]},
    {"w": W[0]},
    {"strides": (1,)},
    {"padding": ((1, 1),)},
    {"padding": "NONE"},
    {"dimension_numbers": ("NHWC", "HWIO", "NHW")},
    {"rhs_dilation": (0, 1)},
    {"x": X.astype(np.float16)},
    {"rhs_dilation": (1,)},
]
WRONG_CONV = [
    {"feature_group_count": 3},
    {"feature_group_count": 0},
    {"strides": (0, 1)},
    {"lhs_dilation": (1, 1, 1)},
]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("conv_general_dilated", arguments) for arguments in WRONG + WRONG_CONV]
    + [("conv_transpose", arguments) for arguments in WRONG],
)
@pytest.mark.parametrize("recipe", ["baseline", "full"])
def test_errors_are_those_of_lax(name, arguments, recipe):
    """Arguments that lax refuses are refused, and with the same words if they are its own."""
    options = {"x": X, "w": W, "strides": (1, 1), "padding": "SAME"} | arguments
    options.setdefault("dimension_numbers", channels_last(2))
    arguments = tuple(options.pop(n) for n in ("x", "w", "strides", "padding"))
    theirs = error_of(lambda: getattr(lax, name)(*arguments, **options))
    ours = error_of(lambda: getattr(fp4, name)(*arguments, **options, recipe=recipe))
    assert type(ours) is type(theirs)
    assert "verifier" in str(theirs) or str(ours) == str(theirs)


def error_of(f) -> Exception:
    """What f raises."""
    try:
        f()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")
