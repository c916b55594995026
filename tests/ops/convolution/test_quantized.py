"""Convolutions with a recipe: against the oracle, and everything else against lax."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.core import rounding
from fp4jax.ops.recipe import ROLES
from tests.checks import (
    SUMS as TOLERANCE,
    Results,
    assert_close,
    assert_same_sums,
    diagonal,
    relative_error,
    three_gemms,
)
from tests.oracle import conv as oracle
from tests.samples import on_grid, sample

KEY = jax.random.key(3)
BASELINE = fp4.get_recipe("baseline")
BOTH = pytest.mark.parametrize("name", ["conv_general_dilated", "conv_transpose"])


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution, channels last; explicit padding."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def ndim(self) -> int:
        return len(self.strides)

    def __call__(self, x, w, recipe, **options):
        """y, by fp4jax; by lax if the recipe is None."""
        if recipe is not None:
            options |= {"recipe": recipe, "key": KEY}
        return self._function(recipe)(x, w, self.strides, self.padding, **self._options, **options)

    def _function(self, recipe):
        module = lax if recipe is None else fp4
        return module.conv_transpose if self.transposed else module.conv_general_dilated

    @property
    def _options(self) -> dict[str, Any]:
        options = {"rhs_dilation": self.dilation, "dimension_numbers": channels_last(self.ndim)}
        return options if self.transposed else {**options, "feature_group_count": self.groups}

    def oracle(self, x, w, g, recipe) -> dict:
        bits = oracle_bits(recipe, self.transposed)
        arguments = (x, w, g, self.strides, self.padding)
        if self.transposed:
            return oracle.conv_transpose(*arguments, self.dilation, recipe, bits)
        no_dilation = (1,) * self.ndim
        return oracle.conv(*arguments, no_dilation, self.dilation, self.groups, recipe, bits)

    def data(self, dtype=np.float32) -> tuple[Any, Any, Any]:
        """x, w and g. Rotations are exact on them."""
        x, w = (on_grid(sample("normal", s, i)) for i, s in enumerate((self.x, self.w)))
        g = on_grid(sample("normal", jax.eval_shape(lambda: self(x, w, None)).shape, 2))
        return tuple(np.asarray(jnp.asarray(a, dtype)) for a in (x, w, g))


def channels_last(ndim: int) -> tuple[str, str, str]:
    space = "DHW"[-ndim:]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def oracle_bits(recipe, transposed: bool):
    """The bits that fp4jax draws, as the oracle asks for them: (role, shape) -> bits.

    In wgrad the patches' bits come from one key per tap, in the window's order of taps.
    """
    specs = dict(zip(ROLES, recipe.operands, strict=True))
    patches = "wgrad.g" if transposed else "wgrad.x"

    def bits(role: str, shape: tuple[int, ...]) -> np.ndarray:
        key, width = jax.random.fold_in(KEY, ROLES.index(role)), specs[role].random_bits
        if role != patches:
            return np.asarray(rounding.random_bits(key, shape, width))
        positions, taps, *channels = shape
        keys = [jax.random.fold_in(key, t) for t in range(taps)]
        per_tap = [rounding.random_bits(k, (positions, *channels), width) for k in keys]
        return np.stack(per_tap[::-1] if transposed else per_tap, axis=1)

    return bits


CASES = {
    "2d": Case((2, 7, 6, 20), (3, 3, 20, 9), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "2d_stride_2": Case((2, 8, 9, 18), (4, 4, 18, 20), (2, 2), ((1, 1), (1, 2)), (1, 1)),
    "2d_transposed": Case(
        (2, 5, 6, 20), (4, 4, 20, 9), (2, 2), ((2, 2), (2, 2)), (1, 1), transposed=True
    ),
    "3d": Case((1, 5, 4, 6, 17), (2, 3, 2, 17, 5), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 2)),
    "1d_groups": Case((2, 23, 38), (3, 19, 42), (2,), ((1, 2),), (2,), groups=2),
    "3d_transposed": Case(
        (1, 3, 4, 3, 17),
        (2, 2, 3, 17, 5),
        (2, 1, 2),
        ((1, 1), (0, 1), (2, 1)),
        (1, 2, 1),
        transposed=True,
    ),
}


@pytest.mark.parametrize(("name", "case"), diagonal(fp4.recipes(), list(CASES)))
def test_equals_the_oracle(name, case):
    recipe, case = fp4.get_recipe(name), CASES[case]
    x, w, g = case.data()
    expected = case.oracle(x, w, g, recipe)
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    exact = case.oracle(x, w, g, BASELINE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        if differs is not None:
            assert error > 0.01 if differs else error == 0


def run(case: Case, recipe, x, w, g) -> Results:
    return jax.jit(three_gemms(lambda x, w: case(x, w, recipe)))(x, w, g)


def affected(recipe) -> tuple[bool | None, ...]:
    """Whether y, dx and dw differ from high precision; None: it depends on the data."""
    quantizes = [specs != (None, None) for specs in (recipe.fprop, recipe.dgrad, recipe.wgrad)]
    if recipe.residuals == "quantized":
        quantizes[1] |= recipe.fprop[1] is not None
        quantizes[2] |= recipe.fprop[0] is not None
    if recipe.fprop[0] is not None and recipe.fprop[0].clip != 1:
        # What is clipped has no gradient.
        return quantizes[0], None, quantizes[2]
    return tuple(quantizes)


ONE_SPEC = {
    "fprop.x": TensorSpec(),
    "fprop.w": TensorSpec(block=(16, 16), scaling="four_over_six"),
    "dgrad.g": TensorSpec(rounding="stochastic"),
    "dgrad.w": TensorSpec(block=(16, 16)),
    "wgrad.x": TensorSpec(rounding="stochastic_unbiased"),
    "wgrad.g": TensorSpec(rounding="stochastic"),
}


def only(role: str, spec: TensorSpec):
    """The baseline with one of its operands quantized."""
    field = role.split(".")[0]
    specs = tuple(spec if r == role else None for r in ROLES if r.startswith(field))
    recipe = dataclasses.replace(BASELINE, name=role, **{field: specs})
    assert [s is not None for s in recipe.operands] == [r == role for r in ROLES]
    return recipe


@pytest.mark.parametrize(("role", "case"), diagonal(ROLES, ["2d_stride_2", "2d_transposed"]))
def test_one_operand_equals_the_oracle(role, case):
    """All but one of the six operands in high precision."""
    recipe = only(role, ONE_SPEC[role])
    case = CASES[case]
    x, w, g = case.data()
    expected, exact = (case.oracle(x, w, g, r) for r in (recipe, BASELINE))
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        if differs is not None:
            assert error > 0.01 if differs else error == 0


@pytest.mark.parametrize(
    ("case", "residuals"),
    diagonal(["2d_stride_2", "2d_transposed", "1d_groups"], ["quantized", "original"]),
)
def test_all_operands_stochastic_and_residuals(case, residuals):
    """Every operand draws its own bits; the backward pass sees the forward pass's Q(x), Q(w)."""
    spec = TensorSpec(rounding="stochastic_unbiased")
    pair = (spec, spec)
    recipe = fp4.Recipe(name="all", fprop=pair, dgrad=pair, wgrad=pair, residuals=residuals)
    case = CASES[case]
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), TOLERANCE)


CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
LAYOUTS = [
    ("NCHW", "OIHW", "NCHW"),
    ("HWNC", "OHWI", "CHNW"),
    # spatial dimensions permuted; lhs and out name them in the kernel's order
    ("NWHC", "HWIO", "WCNH"),
    lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    None,
]


@pytest.mark.parametrize(("layout", "transposed"), diagonal(LAYOUTS, [False, True]))
def test_layouts(layout, transposed):
    """Every layout gives the channels-last result: the same codes."""
    x, w, g = map(jnp.asarray, layout_case(transposed).data())
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, CHANNELS_LAST)
    # lax.conv_transpose without numbers means channels last, conv_general_dilated NCHW
    spelled = (CHANNELS_LAST if transposed else LAYOUTS[0]) if layout is None else layout
    if not isinstance(spelled, lax.ConvDimensionNumbers):
        spelled = lax.ConvDimensionNumbers(*_positions(spelled))
    moves = [_permutation(a, b) for a, b in zip(numbers, spelled, strict=True)]
    back = [tuple(np.argsort(move)) for move in moves]
    moved = (x.transpose(moves[0]), w.transpose(moves[1]), g.transpose(moves[2]))
    actual = in_layout(transposed, layout, moved)
    expected = in_channels_last(transposed)
    for ours, theirs, axes in zip(actual, expected, (back[2], back[0], back[1]), strict=True):
        assert_same_sums(ours.transpose(axes), theirs)


def layout_case(transposed: bool) -> Case:
    return Case((2, 6, 5, 20), (3, 2, 20, 18), (2, 1), ((1, 0), (1, 1)), (1, 1), 1, transposed)


@functools.cache
def in_channels_last(transposed: bool) -> Results:
    return in_layout(transposed, CHANNELS_LAST, layout_case(transposed).data())


def in_layout(transposed: bool, layout, arrays) -> Results:
    case = layout_case(transposed)
    convolve = fp4.conv_transpose if transposed else fp4.conv_general_dilated
    options = {"dimension_numbers": layout, "recipe": "2d+rht+sr", "key": KEY}
    f = lambda x, w: convolve(x, w, case.strides, case.padding, **options)  # noqa: E731
    return jax.jit(three_gemms(f))(*arrays)


def _positions(layout: tuple[str, str, str]) -> list[tuple[int, ...]]:
    """Axes of batch, channel and space of x and y, and of output, input and taps of w."""
    space = [c for c in layout[1] if c not in "IO"]
    order = ["N", "C", *space], ["O", "I", *space], ["N", "C", *space]
    return [tuple(spec.index(c) for c in names) for spec, names in zip(layout, order, strict=True)]


def _permutation(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Axes for transpose, from an array whose dimensions lie at a to one where they lie at b."""
    return tuple(a[b.index(axis)] for axis in range(len(a)))


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


@pytest.mark.parametrize(
    ("layout", "recipe"),
    diagonal([None, CHANNELS_LAST, LAYOUTS[0]], [None, "baseline", "2d+rht+sr"]),
)
def test_transpose_kernel(layout, recipe):
    """The kernel is flipped and its channels are swapped: in lax, and here."""
    case = Case((2, 5, 4, 18), (4, 3, 18, 20), (2, 1), "SAME", (1, 1), transposed=True)
    x, w, _ = case.data()
    # channels last by default, unlike lax.conv_general_dilated
    taps, channels = (0, 1), (2, 3)
    if layout == ("NCHW", "OIHW", "NCHW"):
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
        taps, channels = (2, 3), (0, 1)
    function = (fp4 if recipe else lax).conv_transpose
    options = {"recipe": recipe, "key": KEY} if recipe else {}

    def convolve(w, **more):
        return function(x, w, case.strides, "SAME", dimension_numbers=layout, **more, **options)

    @jax.jit
    def both(w):
        flip = lambda w: jnp.flip(w, taps).swapaxes(*channels)  # noqa: E731
        y, vjp = jax.vjp(convolve, w)
        transposed, transposed_vjp = jax.vjp(lambda w: convolve(w, transpose_kernel=True), flip(w))
        return (y, transposed), (vjp(y)[0], flip(transposed_vjp(y)[0]))

    for ours, theirs in both(w):
        assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "case", "dtype"),
    diagonal(
        ["baseline", "chain_rule", "2d+rht+sr"],
        ["2d_stride_2", "2d_transposed"],
        [jnp.bfloat16, jnp.float16],
    ),
)
def test_half_precision(name, case, dtype):
    """Sums in float32, rounded once to the inputs' dtype."""
    case, recipe = CASES[case], fp4.get_recipe(name)
    x, w, g = case.data(dtype)
    # all values of a float16 or bfloat16 are float32 values; rotations round to bfloat16 only
    as_oracle = (lambda a: a) if dtype == jnp.bfloat16 else (lambda a: a.astype(np.float32))
    expected = case.oracle(*map(as_oracle, (x, w, g)), recipe)
    results = run(case, recipe, x, w, g)
    for name, result in results._asdict().items():
        assert result.dtype == dtype
        assert_half_precision(result, expected[name])


def assert_half_precision(actual, expected):
    """One rounding of a sum in float32."""
    error = np.abs(np.asarray(actual, np.float64) - expected)
    rounding = float(jnp.finfo(actual.dtype).eps) / 2 * np.abs(expected)
    assert expected.any()
    assert (error <= rounding * 1.01 + TOLERANCE * np.abs(expected).max()).all()


@pytest.mark.parametrize(
    ("name", "case"),
    diagonal(
        ["baseline", "forward_only", "chain_rule", "2d+rht+sr"], ["2d_stride_2", "2d_transposed"]
    ),
)
def test_preferred_element_type(name, case):
    """It is y's dtype; gradients keep their primals'."""
    case, recipe = CASES[case], fp4.get_recipe(name)
    x, w, _ = case.data(jnp.bfloat16)
    g = case.data()[2]
    f = three_gemms(lambda x, w: case(x, w, recipe, preferred_element_type=jnp.float32))
    results = jax.jit(f)(x, w, g)
    assert [a.dtype for a in results] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    expected = case.oracle(x, w, g, recipe)
    assert relative_error(results.y, expected["y"]) < TOLERANCE
    assert_half_precision(results.dx, expected["dx"])
    assert_half_precision(results.dw, expected["dw"])


@pytest.mark.parametrize(
    ("name", "recipe"),
    diagonal(["conv_general_dilated", "conv_transpose"], ["baseline", "2d+rht+sr"]),
)
def test_out_sharding(name, recipe):
    """Kernels sharded over output channels; lax refuses these without being told y's sharding."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    x, w = (on_grid(sample("normal", s)) for s in ((2, 6, 18), (3, 18, 20)))
    g = on_grid(sample("normal", (2, 6, 20), 1))

    def run(x, w, g, **options):
        function = functools.partial(getattr(fp4, name), dimension_numbers=channels_last(1))
        f = lambda x, w: function(x, w, (1,), "SAME", recipe=recipe, key=KEY, **options)  # noqa: E731
        return jax.jit(three_gemms(f))(x, w, g)

    specs = P("data"), P(None, None, "model"), P("data", None, "model")
    with jax.set_mesh(mesh):
        sharded = jax.device_put([x, w, g], [NamedSharding(mesh, spec) for spec in specs])
        results = run(*sharded, out_sharding=specs[2])
    for result, spec in zip(results, (specs[2], specs[0], specs[1]), strict=True):
        assert result.sharding.is_equivalent_to(NamedSharding(mesh, spec), result.ndim)
    assert_close(results, run(x, w, g), TOLERANCE)


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
