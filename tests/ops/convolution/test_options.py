"""Strides, padding, dilations and groups: against the oracle, and the baseline against lax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fp4jax as fp4
from tests.checks import SUMS as TOLERANCE, assert_close, assert_same_sums, three_gemms
from tests.ops.convolution.cases import channels_last
from tests.oracle import conv as oracle
from tests.samples import sample

# Strides, padding and further keyword arguments, for x (2, 9, 8, 18) and kernels (3, 2).
CONV_OPTIONS = [
    ((1, 1), "SAME", {}),
    ((1, 1), "VALID", {}),
    ((1, 1), "SAME_LOWER", {}),
    ((2, 3), "SAME", {}),
    ((1, 1), ((2, 0), (0, 3)), {}),
    ((2, 1), ((-1, 2), (-2, -1)), {}),
    ((1, 1), ((0, 0), (0, 0)), {"lhs_dilation": (2, 3)}),
    ((2, 2), ((3, -2), (1, 1)), {"lhs_dilation": (3, 1)}),
    ((1, 1), "SAME", {"rhs_dilation": (2, 3)}),
    ((1, 2), "SAME", {"feature_group_count": 2}),
    # depthwise
    ((1, 1), "SAME", {"feature_group_count": 18}),
    # stride beyond the kernel
    ((4, 3), "VALID", {}),
    # no window fits: y is empty
    ((1, 1), "VALID", {"rhs_dilation": (5, 1)}),
]
TRANSPOSE_OPTIONS = [
    ((1, 1), "SAME", {}),
    ((1, 1), "VALID", {}),
    ((2, 3), "SAME", {}),
    ((4, 3), "VALID", {}),
    ((2, 1), ((2, 0), (0, 3)), {}),
    ((2, 2), ((-1, 1), (0, -2)), {}),
    ((2, 2), "SAME", {"rhs_dilation": (2, 3)}),
    ((3, 2), ((1, 2), (0, 1)), {"use_consistent_padding": True}),
    ((3, 2), "SAME", {"use_consistent_padding": True}),
]
OPTIONS = [("conv_general_dilated", *o) for o in CONV_OPTIONS] + [
    ("conv_transpose", *o) for o in TRANSPOSE_OPTIONS
]


# Every geometry with one of the two: the recipe, or the baseline, which is faster.
@pytest.mark.parametrize(
    ("name", "strides", "padding", "options"),
    [pytest.param(*o, marks=[pytest.mark.slow] * bool(i % 3)) for i, o in enumerate(OPTIONS)],
)
def test_options(name, strides, padding, options):
    """Against the oracle, which is given what lax makes of them."""
    groups = options.get("feature_group_count", 1)
    x, w = sample("normal", (2, 9, 8, 18)), sample("normal", (3, 2, 18 // groups, 36), 1)

    def convolve(module, **recipe):
        function = getattr(module, name)
        numbers = {"dimension_numbers": channels_last(2)}
        return lambda x, w: function(x, w, strides, padding, **numbers, **options, **recipe)

    traced = jax.make_jaxpr(convolve(lax))(x, w)
    (resolved,) = (e.params for e in traced.eqns if e.primitive is lax.conv_general_dilated_p)
    g = np.random.default_rng(2).standard_normal(traced.out_avals[0].shape).astype(np.float32)
    full = jax.jit(three_gemms(convolve(fp4, recipe="full")))(x, w, g)
    if g.size == 0:
        for result, primal in zip(full, (g, x, w), strict=True):
            np.testing.assert_array_equal(result, np.zeros_like(primal), strict=True)
        return
    recipe = fp4.get_recipe("full")
    if name == "conv_transpose":
        settings = strides, resolved["padding"], resolved["rhs_dilation"]
        expected = oracle.conv_transpose(x, w, g, *settings, recipe)
    else:
        names = ("padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
        expected = oracle.conv(x, w, g, strides, *(resolved[n] for n in names), recipe)
    assert_close(full, expected, TOLERANCE)


@pytest.mark.parametrize(
    ("name", "strides", "padding", "options"),
    [pytest.param(*o, marks=[pytest.mark.slow] * (i % 3 == 0)) for i, o in enumerate(OPTIONS)],
)
def test_options_of_the_baseline(name, strides, padding, options):
    groups = options.get("feature_group_count", 1)
    x, w = sample("normal", (2, 9, 8, 18)), sample("normal", (3, 2, 18 // groups, 36), 1)
    assert_baseline_is_lax(
        name, x, w, padding=padding, dimension_numbers=channels_last(2), **options,
        **{"strides" if name == "conv_transpose" else "window_strides": strides},
    )  # fmt: skip


def random_configuration(seed: int):
    """(name, x's shape, w's shape, keyword arguments of lax) of a convolution of 1D to 3D."""
    rng = np.random.default_rng(seed)
    ndim = 1 + seed % 3
    ints = lambda low, high: tuple(int(v) for v in rng.integers(low, high, ndim))  # noqa: E731
    transposed = seed % 2 == 1
    groups = 1 if transposed else int(rng.choice([1, 1, 2]))
    space = "DHW"[-ndim:]
    first = bool(rng.random() < 0.4)
    layout = (f"NC{space}", f"OI{space}", f"NC{space}") if first else channels_last(ndim)
    options = {
        "padding": tuple((int(a), int(b)) for a, b in rng.integers(-1, 4, (ndim, 2))),
        "rhs_dilation": ints(1, 3),
        "dimension_numbers": layout,
        "strides" if transposed else "window_strides": ints(1, 4),
    }
    if transposed:
        options["padding"] = [options["padding"], "SAME", "VALID"][int(rng.integers(3))]
        options["transpose_kernel"] = bool(rng.random() < 0.3)
    else:
        options["feature_group_count"] = groups
        options["lhs_dilation"] = ints(1, 3) if rng.random() < 0.3 else (1,) * ndim
    taps, size = ints(1, 5), ints(8, 11)
    # few channels of the image, or many of the grid, take paths of their own on CPU
    i, o = [(2, 3), (1, 48), (2, 132)][int(rng.integers(3))]
    o *= groups
    if options.get("transpose_kernel"):
        i, o = o, i
    w = (o, i, *taps) if first else (*taps, i, o)
    c = (o if options.get("transpose_kernel") else i) * groups
    x = (2, c, *size) if first else (2, *size, c)
    return "conv_transpose" if transposed else "conv_general_dilated", x, w, options


# Of each six, one with every number of axes, transposed and not.
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[pytest.mark.slow] * (s >= 6)) for s in range(42)]
)
def test_baseline_equals_lax(seed):
    """Values and gradients, of the CPU's own paths."""
    name, x_shape, w_shape, options = random_configuration(seed)
    x, w = sample("normal", x_shape), sample("normal", w_shape, 1)
    assert_baseline_is_lax(name, x, w, **options)


def assert_baseline_is_lax(name, x, w, **options) -> None:
    theirs = lambda x, w: getattr(lax, name)(x, w, **options)  # noqa: E731
    ours = lambda x, w: getattr(fp4, name)(x, w, recipe="baseline", **options)  # noqa: E731
    g = np.random.default_rng(2).standard_normal(jax.eval_shape(theirs, x, w).shape, np.float32)
    both = jax.jit(lambda *arrays: [three_gemms(f)(*arrays) for f in (ours, theirs)])
    for actual, expected in zip(*both(x, w, g), strict=True):
        assert_same_sums(actual, expected)


@pytest.mark.parametrize("recipe", ["baseline", "chain_rule", "2d+rht+sr"])
def test_without_spatial_dimensions(recipe):
    """A convolution of points is a product, the rows of which are the batch."""
    x, w = jnp.asarray(sample("normal", (20, 18))), jnp.asarray(sample("normal", (18, 17)))
    key = jax.random.key(0)
    layout = ("NC", "IO", "NC")
    conv = lambda x, w: fp4.conv_general_dilated(  # noqa: E731
        x, w, (), (), dimension_numbers=layout, recipe=recipe, key=key
    )
    dims = (((1,), (0,)), ((), ()))
    dot = lambda x, w: fp4.dot_general(x, w, dims, recipe=recipe, key=key)  # noqa: E731
    g = jnp.asarray(sample("normal", (20, 17)))
    results, expected = three_gemms(conv)(x, w, g), three_gemms(dot)(x, w, g)
    if fp4.get_recipe(recipe).stochastic:
        # other bits in wgrad, where each tap has its own key
        results, expected = results._replace(dw=g), expected._replace(dw=g)
    assert_close(results, expected, 1e-5)
