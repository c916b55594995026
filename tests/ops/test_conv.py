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
from fp4jax.ops import gemm
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.recipe import ROLES
from tests.checks import Results, assert_close, relative_error, three_gemms
from tests.oracle import conv as oracle
from tests.samples import assert_same_bits, on_grid, sample

# float32 sums of at most a few hundred products
TOLERANCE = 3e-6
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
        key, width = gemm.role_key(KEY, role), specs[role].random_bits
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", fp4.recipes())
def test_equals_the_oracle(name, case):
    recipe = fp4.get_recipe(name)
    x, w, g = case.data()
    expected = case.oracle(x, w, g, recipe)
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    exact = case.oracle(x, w, g, BASELINE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        assert error > 0.01 if differs else error == 0


def run(case: Case, recipe, x, w, g) -> Results:
    return jax.jit(three_gemms(lambda x, w: case(x, w, recipe)))(x, w, g)


def affected(recipe) -> tuple[bool, bool, bool]:
    """Whether y, dx and dw differ from high precision."""
    quantizes = [specs != (None, None) for specs in (recipe.fprop, recipe.dgrad, recipe.wgrad)]
    if recipe.residuals == "quantized":
        quantizes[1] |= recipe.fprop[1] is not None
        quantizes[2] |= recipe.fprop[0] is not None
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


@pytest.mark.parametrize("case", ["2d_stride_2", "2d_transposed"])
@pytest.mark.parametrize("role", ROLES)
def test_one_operand_equals_the_oracle(role, case):
    """All but one of the six operands in high precision."""
    recipe = only(role, ONE_SPEC[role])
    case = CASES[case]
    x, w, g = case.data()
    expected, exact = (case.oracle(x, w, g, r) for r in (recipe, BASELINE))
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        assert error > 0.01 if differs else error == 0


@pytest.mark.parametrize("residuals", ["original", "quantized"])
@pytest.mark.parametrize("case", ["2d_stride_2", "2d_transposed", "1d_groups"])
def test_all_operands_stochastic_and_residuals(case, residuals):
    """Every operand draws its own bits; the backward pass sees the forward pass's Q(x), Q(w)."""
    spec = TensorSpec(rounding="stochastic_unbiased")
    pair = (spec, spec)
    recipe = fp4.Recipe(name="all", fprop=pair, dgrad=pair, wgrad=pair, residuals=residuals)
    case = CASES[case]
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), TOLERANCE)


ACCELERATOR = {
    "conv": Case((2, 7, 10, 19), (3, 4, 19, 21), (2, 3), ((1, 1), (1, 2)), (1, 2)),
    "conv_transpose": Case(
        (2, 4, 5, 19), (3, 4, 19, 21), (2, 3), ((1, 2), (2, 1)), (1, 2), transposed=True
    ),
}
accelerator_cases = pytest.mark.parametrize("case", ACCELERATOR.values(), ids=ACCELERATOR.keys())


def uncached(name: str, test: str):
    """A recipe that is used for one test only: JAX keeps what it traced for an equal one."""
    return dataclasses.replace(fp4.get_recipe(name), name=f"{name}, {test}")


@accelerator_cases
@pytest.mark.parametrize("name", ["chain_rule", "2d+rht+sr"])
def test_accelerator_path_equals_the_oracle(name, case, monkeypatch):
    """The algorithms of other back ends, on the CPU: dilated scatter, all taps at once."""
    monkeypatch.setattr(windows, "on_cpu", lambda: False)
    recipe = uncached(name, "algorithm")
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), TOLERANCE)


@accelerator_cases
@pytest.mark.parametrize("name", fp4.recipes())
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_accelerator_path_traces(dtype, name, case, monkeypatch):
    """With the dtypes of other back ends (bfloat16 products), under strict promotion."""
    x, w, g = (jax.ShapeDtypeStruct(a.shape, dtype) for a in case.data())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    f = three_gemms(lambda x, w: case(x, w, uncached(name, "dtypes")))
    results = jax.eval_shape(f, x, w, g)
    for result, expected in zip(results, (g, x, w), strict=True):
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


LAYOUTS = [
    ("NHWC", "HWIO", "NHWC"),
    ("NCHW", "OIHW", "NCHW"),
    ("HWNC", "OHWI", "CHNW"),
    # spatial dimensions permuted; lhs and out name them in the kernel's order
    ("NWHC", "HWIO", "WCNH"),
    lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    None,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_layouts(layout, transposed):
    """Every layout gives the channels-last result, bit for bit, and lax's for the baseline."""
    case = Case((2, 6, 5, 20), (3, 2, 20, 18), (2, 1), ((1, 0), (1, 1)), (1, 1), 1, transposed)
    x, w, g = map(jnp.asarray, case.data())
    numbers = lax.conv_dimension_numbers(x.shape, w.shape, LAYOUTS[0])
    # lax.conv_transpose without numbers means channels last, conv_general_dilated NCHW
    spelled = (LAYOUTS[0] if transposed else LAYOUTS[1]) if layout is None else layout
    if not isinstance(spelled, lax.ConvDimensionNumbers):
        spelled = lax.ConvDimensionNumbers(*_positions(spelled))
    moves = [_permutation(a, b) for a, b in zip(numbers, spelled, strict=True)]
    back = [tuple(np.argsort(move)) for move in moves]

    def convolve(recipe, x, w, g, numbers):
        function = (fp4 if recipe else lax).__dict__[
            "conv_transpose" if transposed else "conv_general_dilated"
        ]
        options = {"recipe": recipe, "key": KEY} if recipe else {}
        f = lambda x, w: function(  # noqa: E731
            x, w, case.strides, case.padding, dimension_numbers=numbers, **options
        )
        return jax.jit(three_gemms(f))(x, w, g)

    moved = (x.transpose(moves[0]), w.transpose(moves[1]), g.transpose(moves[2]))
    expected = convolve("2d+rht+sr", x, w, g, LAYOUTS[0])
    actual = convolve("2d+rht+sr", *moved, layout)
    for ours, theirs, axes in zip(actual, expected, (back[2], back[0], back[1]), strict=True):
        assert_same_bits(ours.transpose(axes), theirs)
    assert_close(convolve("baseline", *moved, layout), convolve(None, *moved, layout), TOLERANCE)


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


@pytest.mark.parametrize(("name", "strides", "padding", "options"), OPTIONS)
def test_options(name, strides, padding, options):
    """Baseline against lax, "full" against the oracle, which is given what lax makes of them."""
    groups = options.get("feature_group_count", 1)
    x, w = sample("normal", (2, 9, 8, 18)), sample("normal", (3, 2, 18 // groups, 36), 1)

    def convolve(module, **recipe):
        function = getattr(module, name)
        numbers = {"dimension_numbers": channels_last(2)}
        return lambda x, w: function(x, w, strides, padding, **numbers, **options, **recipe)

    traced = jax.make_jaxpr(convolve(lax))(x, w)
    (resolved,) = (e.params for e in traced.eqns if e.primitive is lax.conv_general_dilated_p)
    g = np.random.default_rng(2).standard_normal(traced.out_avals[0].shape).astype(np.float32)
    theirs, baseline, full = (
        jax.jit(three_gemms(f))(x, w, g)
        for f in (convolve(lax), convolve(fp4, recipe="baseline"), convolve(fp4, recipe="full"))
    )
    if g.size == 0:
        for ours, expected in zip((*baseline, *full), (*theirs, *theirs), strict=True):
            np.testing.assert_array_equal(ours, expected, strict=True)
        return
    assert_close(baseline, theirs, TOLERANCE)
    recipe = fp4.get_recipe("full")
    if name == "conv_transpose":
        settings = strides, resolved["padding"], resolved["rhs_dilation"]
        expected = oracle.conv_transpose(x, w, g, *settings, recipe)
    else:
        names = ("padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
        expected = oracle.conv(x, w, g, strides, *(resolved[n] for n in names), recipe)
    assert_close(full, expected, TOLERANCE)
    assert relative_error(full.y, baseline.y) > 0.01


@pytest.mark.parametrize("recipe", [None, "baseline", "2d+rht+sr"])
@pytest.mark.parametrize("layout", [None, ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
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


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", ["2d_stride_2", "2d_transposed"])
@pytest.mark.parametrize("name", ["baseline", "chain_rule", "2d+rht+sr"])
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


@pytest.mark.parametrize("case", ["2d_stride_2", "2d_transposed"])
@pytest.mark.parametrize("name", ["baseline", "forward_only", "chain_rule", "2d+rht+sr"])
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


@pytest.mark.parametrize("recipe", ["baseline", "2d+rht+sr"])
@BOTH
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


@pytest.mark.parametrize("seed", range(42))
def test_baseline_equals_lax(seed):
    """Values and gradients, of the CPU's own paths."""
    name, x_shape, w_shape, options = random_configuration(seed)
    x, w = sample("normal", x_shape), sample("normal", w_shape, 1)
    theirs = lambda x, w: getattr(lax, name)(x, w, **options)  # noqa: E731
    ours = lambda x, w: getattr(fp4, name)(x, w, recipe="baseline", **options)  # noqa: E731
    g = sample("normal", jax.eval_shape(theirs, x, w).shape, 2)
    expected = jax.jit(three_gemms(theirs))(x, w, g)
    assert_close(jax.jit(three_gemms(ours))(x, w, g), expected, TOLERANCE)


@pytest.mark.parametrize("recipe", fp4.recipes()[:8])
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
