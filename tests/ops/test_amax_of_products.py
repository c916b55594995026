"""What amax spans in products: results are those of the operands, quantized one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import fp4jax as fp4
from fp4jax.ops.recipe import ROLES
from tests.checks import relative_error, three_gemms
from tests.samples import assert_same_bits, sample

SPEC = fp4.TensorSpec()
ROW, EXAMPLE, STATIC = (fp4.TensorSpec(amax=a) for a in ("row", "example", "static"))
KEY = jax.random.key(5)
TOLERANCE = 2e-6
LAYOUT = ("NHWC", "HWIO", "NHWC")


def recipe_of(x, w, g, x_back=None, g_back=None, w_back=None) -> fp4.Recipe:
    return fp4.Recipe(
        name="mine",
        fprop=(x, w),
        dgrad=(g, w_back or w),
        wgrad=(x_back or SPEC, g_back or SPEC),
    )


def dot(x, w, **options):
    return fp4.dot_general(x, w, (((2,), (0,)), ((), ())), **options)


def conv(x, w, **options):
    return fp4.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=LAYOUT, **options)


def transposed(x, w, **options):
    return fp4.conv_transpose(x, w, (2, 1), "SAME", **options)


def rising(shape, seed: int = 0):
    """Samples whose examples are each twice as large as the one before."""
    return sample("normal", shape, seed) * jnp.exp2(jnp.arange(float(shape[0]))).reshape(
        -1, *(1,) * (len(shape) - 1)
    )


X = rising((8, 3, 40))
W = sample("normal", (40, 20)) * jnp.exp2(jnp.arange(20.0) / 4)[None]
# call, x, w
OPS = {
    "dot": (dot, X, W),
    "conv": (conv, rising((8, 4, 3, 18)), sample("normal", (3, 2, 18, 20))),
    "grouped": (
        functools.partial(conv, feature_group_count=2),
        rising((8, 4, 3, 18)),
        sample("normal", (3, 2, 9, 20)),
    ),
    "transposed": (transposed, rising((8, 2, 3, 18)), sample("normal", (4, 2, 18, 20))),
}
_SLOW = ("grouped", "transposed")
ops = pytest.mark.parametrize(
    "op",
    [
        pytest.param(op, id=name, marks=[pytest.mark.slow] * (name in _SLOW))
        for name, op in OPS.items()
    ],
)


def results(op, recipe, x=None, g=None, **options):
    call, x0, w = op
    x = x0 if x is None else x
    run = lambda x, w: call(x, w, recipe=recipe, key=KEY, **options)  # noqa: E731
    if g is None:
        g = rising(jax.eval_shape(run, x, w).shape, 1)
    return jax.jit(lambda x, w, g: three_gemms(run)(x, w, g))(x, w, g)


def test_rows_of_a_dot():
    """y = Q(x) Q(w) and so on, with every row of each GEMM a tensor."""
    rows = recipe_of(ROW, ROW, ROW, ROW, ROW)
    y, dx, dw = results(OPS["dot"], rows, g=(g := sample("normal", (8, 3, 20))))
    flat, q = X.reshape(24, 40), functools.partial(fp4.fake_quantize, spec=ROW)
    expected = q(flat) @ q(W, axis=0)
    np.testing.assert_allclose(y.reshape(24, 20), expected, atol=1e-5 * np.abs(expected).max())
    g = g.reshape(24, 20)
    expected = q(g) @ q(W, axis=1).T
    np.testing.assert_allclose(dx.reshape(24, 40), expected, atol=1e-5 * np.abs(expected).max())
    expected = q(flat, axis=0).T @ q(g, axis=0)
    np.testing.assert_allclose(dw, expected, atol=1e-5 * np.abs(expected).max())


@ops
def test_an_example_is_alone(op):
    """Outputs and input gradients of an example are those of a batch of it alone."""
    recipe = recipe_of(EXAMPLE, SPEC, EXAMPLE)
    call, x, w = op
    y, dx, _ = results(op, recipe)
    g = rising(y.shape, 1)
    alone = recipe_of(SPEC, SPEC, SPEC)
    for i in (0, 5):
        one = results((call, x[i : i + 1], w), alone, g=g[i : i + 1])
        assert relative_error(y[i], one.y[0]) < TOLERANCE
        assert relative_error(dx[i], one.dx[0]) < TOLERANCE


@ops
@pytest.mark.parametrize("spec", [EXAMPLE, STATIC], ids=lambda s: s.amax)
def test_an_outlier_changes_no_other_output(op, spec):
    _, x, _ = op
    options = {"amax": {"fprop.x": 300.0}} if spec is STATIC else {}
    recipe = fp4.Recipe(name="mine", fprop=(spec, SPEC))
    run = jax.jit(lambda x: op[0](x, op[2], recipe=recipe, **options))
    plain, outlier = run(x), run(x.at[3].multiply(1e4))
    others = np.arange(8) != 3
    assert_same_bits(plain[others], outlier[others])
    assert (plain[3] != outlier[3]).any()


@ops
def test_rows_of_kernels_and_of_wgrad(op):
    """A channel that is 2**9 times as large has the same codes: the result times 2**9."""
    call, x, w = op
    recipe = recipe_of(SPEC, ROW, SPEC, ROW, ROW)
    plain = call(x, w, recipe=recipe)
    last = (*(1,) * (w.ndim - 1), -1)
    scale = jnp.where(jnp.arange(w.shape[-1]) == 4, 512.0, 1.0).reshape(last)
    of_y = scale.reshape(*(1,) * (plain.ndim - 1), -1)
    assert_same_bits(call(x, w * scale, recipe=recipe), plain * of_y)
    tensor = recipe_of(SPEC, SPEC, SPEC)
    assert (call(x, w * scale, recipe=tensor) != call(x, w, recipe=tensor) * of_y).any()
    dw = lambda g: jax.vjp(lambda w: call(x, w, recipe=recipe), w)[1](g)[0]  # noqa: E731
    g = sample("normal", plain.shape)
    np.testing.assert_allclose(dw(g * of_y), dw(g) * scale, rtol=1e-6)


@ops
@pytest.mark.parametrize("recipe", ["full", "2d+rht+sr", "chain_rule"])
def test_static_is_dynamic_with_the_same_amax(op, recipe):
    recipe = fp4.get_recipe(recipe)
    fprop = tuple(dataclasses.replace(spec, amax="static") for spec in recipe.fprop if spec)
    static = dataclasses.replace(recipe, fprop=fprop)
    amax = {"fprop.x": jnp.abs(op[1]).max(), "fprop.w": jnp.abs(op[2]).max()}
    for a, b in zip(results(op, recipe), results(op, static, amax=amax), strict=True):
        assert_same_bits(a, b)


def test_static_amax_of_all_six():
    amax = {role: 2.0 + i for i, role in enumerate(ROLES)}
    recipe = recipe_of(STATIC, STATIC, STATIC, STATIC, STATIC)
    g = sample("normal", (8, 3, 20))
    y, dx, dw = results(OPS["dot"], recipe, g=g, amax=amax)
    flat, flat_g = X.reshape(24, 40), g.reshape(24, 20)
    q = lambda a, role, axis=-1: fp4.fake_quantize(a, STATIC, axis, amax=amax[role])  # noqa: E731
    expected = (
        q(flat, "fprop.x") @ q(W, "fprop.w", 0),
        q(flat_g, "dgrad.g") @ q(W, "dgrad.w", 1).T,
        q(flat, "wgrad.x", 0).T @ q(flat_g, "wgrad.g", 0),
    )
    for a, b in zip((y, dx, dw), expected, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, atol=1e-5 * np.abs(b).max())
    gradient = jax.grad(lambda a: dot(X, W, recipe=recipe, amax=amax | {"fprop.x": a}).sum())(2.0)
    assert gradient == 0


@ops
@pytest.mark.parametrize("recipe", ["full", "2d+rht+sr"])
@pytest.mark.parametrize("by", ["vmap", "shard_map"])
def test_shards_have_the_amax_of_the_whole(op, recipe, by):
    """Forward and input gradient are those of the whole batch; with SR up to its own bits."""
    call, x, w = op
    whole = results(op, recipe)
    g = rising(whole.y.shape, 1)

    def run(x, g):
        layer = lambda x: call(x, w, recipe=recipe, key=KEY, axis_name="i")  # noqa: E731
        y, pull = jax.vjp(layer, x)
        return y, *pull(g)

    if by == "vmap":
        add, drop = (lambda a: a[:, None]), (lambda a: a[:, 0])
        y, dx = map(drop, jax.vmap(run, axis_name="i")(add(x), add(g)))
    else:
        mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
        y, dx = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("i"), out_specs=P("i")))(x, g)
    assert relative_error(y, whole.y) < TOLERANCE
    limit = 0.4 if fp4.get_recipe(recipe).stochastic else TOLERANCE
    assert relative_error(dx, whole.dx) < limit
    if limit == 0.4:
        assert relative_error(dx, whole.dx) > TOLERANCE


def test_shards_draw_bits_of_their_own():
    recipe = fp4.Recipe(name="mine", fprop=(fp4.TensorSpec(rounding="stochastic"), SPEC))
    x = jnp.broadcast_to(X[:1], X.shape)
    run = functools.partial(dot, w=W, recipe=recipe, key=KEY)
    same = jax.vmap(lambda x: run(x[None]))(x)
    assert len(np.unique(same[:, 0, 0, 0])) == 1
    own = jax.vmap(lambda x: run(x[None], axis_name="i"), axis_name="i")(x)
    assert len(np.unique(own[:, 0, 0, 0])) > 4


def test_batch_dimensions():
    """Attention's products: examples are the leading batch dimension, rows those of each matrix."""
    q, k = sample("normal", (4, 2, 6, 16)), sample("normal", (4, 2, 5, 16))
    q = q * jnp.exp2(jnp.arange(4.0)).reshape(4, 1, 1, 1)
    dims = (((3,), (3,)), ((0, 1), (0, 1)))
    run = lambda x, spec: fp4.dot_general(  # noqa: E731
        x, k, dims, recipe=fp4.Recipe(name="mine", fprop=(spec, ROW))
    )
    for spec in (EXAMPLE, ROW):
        expected = jnp.einsum(
            "bhqc,bhkc->bhqk", fp4.fake_quantize(q, spec), fp4.fake_quantize(k, ROW)
        )
        np.testing.assert_allclose(run(q, spec), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(0, 3, 16), (2, 0, 16), (2, 3, 0)])
def test_empty(shape):
    recipe = recipe_of(EXAMPLE, ROW, EXAMPLE, ROW, ROW)
    w = jnp.ones((shape[-1], 4))
    y, dx, dw = three_gemms(lambda x, w: dot(x, w, recipe=recipe))(
        jnp.ones(shape), w, jnp.ones((*shape[:-1], 4))
    )
    assert (y.shape, dx.shape, dw.shape) == ((*shape[:-1], 4), shape, w.shape)


@ops
def test_quantized_residuals_with_several_scales(op):
    call, x, w = op
    recipe = fp4.Recipe(name="mine", fprop=(EXAMPLE, ROW), residuals="quantized")
    y, dx, dw = results(op, recipe)
    if call is not dot and call is not conv:
        assert jnp.isfinite(dx).all()
        return
    quantized = fp4.fake_quantize(x, EXAMPLE)
    _, pull = jax.vjp(lambda w: call(quantized, w, recipe="baseline"), w)
    assert relative_error(dw, pull(rising(y.shape, 1))[0]) < TOLERANCE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dot(X, W, recipe=recipe_of(STATIC, SPEC, SPEC)),
            r"recipe 'mine' needs amax of fprop.x: pass dot_general\(amax=\{\"fprop.x\": ...\}\)",
        ),
        (
            lambda: dot(X, W, recipe="full", amax={"fprop.x": 1.0}),
            "amax is given for fprop.x, which recipe 'full' does not quantize with",
        ),
        (
            lambda: dot(X, W, recipe=recipe_of(STATIC, SPEC, SPEC), amax=1.0),
            r"amax is 1.0; give a mapping of roles \(fprop.x, fprop.w, .*\) to numbers",
        ),
        (
            lambda: dot(X, W, recipe=recipe_of(STATIC, SPEC, SPEC), amax={"fprop.x": jnp.ones(2)}),
            r"the amax of fprop.x has shape \(2,\)",
        ),
        (
            lambda: fp4.dot_general(
                X.T, W.T, (((0,), (1,)), ((), ())), recipe=recipe_of(EXAMPLE, SPEC, SPEC)
            ),
            "amax='example' needs a leading axis that is not contracted",
        ),
        (
            lambda: conv(OPS["conv"][1], OPS["conv"][2], recipe=recipe_of(ROW, SPEC, SPEC)),
            "amax='row' gives every pixel a scale of its own",
        ),
        (lambda: recipe_of(SPEC, EXAMPLE, SPEC), "fprop.w has amax='example', but w has no exam"),
        (
            lambda: recipe_of(SPEC, SPEC, SPEC, EXAMPLE),
            "wgrad.x has amax='example', but wgrad sums over the examples",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_second_derivatives_pass_straight_through():
    recipe = recipe_of(EXAMPLE, ROW, EXAMPLE, ROW, ROW)
    w = W / 40

    def penalty(x, recipe):
        y_of = lambda x: dot(x, w, recipe=recipe)  # noqa: E731
        return jnp.square(jax.grad(lambda x: jnp.square(y_of(x)).sum())(x)).sum()

    error = relative_error(jax.grad(penalty)(X, recipe), jax.grad(penalty)(X, "baseline"))
    assert error < 0.3
