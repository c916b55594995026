"""fp4.attention: against the oracle, and the transformations that the contract has for products."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from tests.checks import relative_error
from tests.oracle import attention as oracle
from tests.samples import assert_same_bits

TOLERANCE = 3e-6
KEY = jax.random.key(5)
NAMES = ("o", "dq", "dk", "dv", "dbias")
#: Batch of 2, 5 queries, 4 heads over 2 of k, 18 keys, 24 channels of q and k, 20 of v.
B, M, H, KH, T, D, E = 2, 5, 4, 2, 18, 24, 20

ROWS = fp4.Recipe(
    name="rows",
    fprop=(fp4.TensorSpec(amax="example"), fp4.TensorSpec(amax="row")),
    residuals="quantized",
)
TILES = fp4.AttentionRecipe(name="tiles", qk="2d+rht", pv="2d+rht", row_sums="output")
RECIPES = {
    "baseline": fp4.AttentionRecipe(name="baseline"),
    **{name: fp4.get_attention_recipe(name) for name in fp4.attention_recipes()},
    "tiles": TILES,
    "rows": fp4.AttentionRecipe(name="rows", qk=ROWS, pv=ROWS),
    "qk_only": fp4.AttentionRecipe(name="qk_only", qk="full", logits="original"),
}


ORACLES = ("baseline", "attention_naive", "attention_qat", "attention_full", "tiles", "qk_only")
FAST = (("attention_qat", True), ("attention_naive", False))
slow = pytest.mark.slow


def data(seed=0, dtype=np.float32):
    """q, k, v, bias and do."""
    rng = np.random.default_rng(seed)
    shapes = ((B, M, H, D), (B, T, KH, D), (B, T, KH, E), (B, H, M, T), (B, M, H, E))
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def mask_and_factors():
    rng = np.random.default_rng(9)
    mask = rng.random((B, H, M, T)) < 0.8
    return mask, (rng.random((B, H, M, T)) < 0.9).astype(np.float32) / np.float32(0.9)


def run(q, k, v, bias, do, key=KEY, *, recipe, **options):
    """o, dq, dk, dv, dbias."""

    def attend(q, k, v, bias):
        return fp4.attention(q, k, v, bias, recipe=recipe, key=key, **options)

    o, back = jax.vjp(attend, q, k, v, bias)
    return (o, *back(do))


compiled = jax.jit(run, static_argnames=("recipe", "is_causal", "scale"))


def assert_all_close(actual, expected, tolerance=TOLERANCE):
    errors = {n: relative_error(a, b) for n, a, b in zip(NAMES, actual, expected, strict=True)}
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        pytest.param(name, masked, marks=[slow] * ((name, masked) not in FAST))
        for name in ORACLES
        for masked in (True, False)
    ],
)
def test_oracle(name, masked):
    """The result and all four gradients, with shared heads, a bias, a mask and dropout."""
    arguments = data()
    mask, factors = mask_and_factors() if masked else (None, None)
    options = {"mask": mask, "dropout": factors} if masked else {}
    *primals, bias, do = map(np.asarray, arguments)
    expected = oracle.attention(
        *primals, do, RECIPES[name], D**-0.5, bias, mask=mask, dropout=factors
    )
    assert_all_close(compiled(*arguments, recipe=RECIPES[name], **options), expected.values())


@slow
def test_it_is_the_derivative_of_what_was_computed():
    """Attn-QAT is autodiff of the fake-quantized formula; the naive rule is another one."""
    q, k, v, bias, do = data()
    spec = fp4.TensorSpec()
    k, v = (jnp.repeat(a, H // KH, 2) for a in (k, v))

    def formula(q, k, v, bias):
        q, k = fp4.fake_quantize(q, spec), fp4.fake_quantize(k, spec)
        z = jnp.einsum("bmhd,bthd->bhmt", q, k) * np.float32(D**-0.5) + bias
        p = fp4.fake_quantize(jax.nn.softmax(z), spec)
        return jnp.einsum("bhmt,bthe->bmhe", p, fp4.fake_quantize(v, spec, axis=1))

    o, back = jax.vjp(formula, q, k, v, bias)
    expected = (o, *back(do))
    assert_all_close(compiled(q, k, v, bias, do, recipe="attention_qat"), expected)
    naive = compiled(q, k, v, bias, do, recipe="attention_naive")
    assert relative_error(naive[0], o) < TOLERANCE
    assert all(relative_error(a, b) > 0.01 for a, b in zip(naive[1:], expected[1:], strict=True))


@slow
def test_high_precision_is_that_of_jax():
    q, k, v, bias, do = data()
    v, do = (jnp.pad(a, ((0, 0),) * 3 + ((0, D - E),)) for a in (v, do))

    def theirs(q, k, v, bias):
        return jax.nn.dot_product_attention(q, k, v, bias, is_causal=True)

    o, back = jax.vjp(theirs, q, k, v, bias)
    ours = compiled(q, k, v, bias, do, recipe=RECIPES["baseline"], is_causal=True)
    assert_all_close(ours, (o, *back(do)))
    primal = lambda q: fp4.attention(q, k, v, recipe=RECIPES["baseline"])  # noqa: E731
    assert jnp.isfinite(jax.jvp(primal, (q,), (q,))[1]).all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[slow] * (name != "attention_sr")) for name in RECIPES]
)
def test_transformations(name):
    """vmap, scan and remat change nothing; the key decides the bits of a stochastic recipe."""
    recipe = RECIPES[name]
    bound = functools.partial(run, recipe=recipe)
    keys = [KEY, jax.random.key(6)]
    # Both lanes hold other numbers and another key.
    lanes = [(*data(seed), key) for seed, key in enumerate(keys)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)
    batched = jax.jit(jax.vmap(bound))(*stacked)
    scanned = jax.jit(lambda xs: lax.scan(lambda c, x: (c, again(*x)), 0, xs)[1])

    def again(*arguments):
        *primals, do, key = arguments
        attend = functools.partial(fp4.attention, recipe=recipe)
        o, back = jax.vjp(lambda *p: jax.checkpoint(attend)(*p, key=key), *primals)
        return (o, *back(do))

    remade = scanned(stacked)
    for i, lane in enumerate(lanes):
        one = compiled(*lane, recipe=recipe)
        assert_all_close([a[i] for a in batched], one)
        assert_all_close([a[i] for a in remade], one)
    arguments = data()
    first, repeated, other = (
        compiled(*arguments, key, recipe=recipe) for key in (*keys[:1] * 2, keys[1])
    )
    for a, b, c in zip(first, repeated, other, strict=True):
        assert_same_bits(a, b)
        assert recipe.stochastic or (a == c).all()
    if recipe.stochastic:
        pairs = zip(first[1:], other[1:], strict=True)
        assert all(relative_error(c, a) > 0.001 for a, c in pairs)


@slow
@pytest.mark.parametrize("name", RECIPES)
def test_eager_is_jit(name):
    expected = compiled(*data(), recipe=RECIPES[name])
    assert_all_close(run(*data(), recipe=RECIPES[name]), expected)


@slow
def test_the_two_products_draw_different_bits():
    """q k^T and P v of one key: rounding noise of both, were it the same, would repeat."""
    spec = fp4.TensorSpec(rounding="stochastic")
    forward = fp4.Recipe(name="forward", fprop=(spec, None))
    only = {p: fp4.AttentionRecipe(name=p, **{p: forward}) for p in ("qk", "pv")}
    # q is what P is: every product rounds the same numbers.
    p = jax.nn.softmax(
        jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, 1, 16)), jnp.float32)
    )
    eye = jnp.eye(16)[None, :, None, :]
    logits = jnp.log(p)[:, :, 0][:, None]
    of_p = fp4.attention(p * 0, eye, eye, logits, recipe=only["pv"], key=KEY)
    q = fp4.dot_general(p[0, :, 0], jnp.eye(16), (((1,), (0,)), ((), ())), recipe=forward, key=KEY)
    assert (of_p[0, :, 0] != q).any()
    assert jnp.abs(of_p - p).max() < 0.3


SHARDED = (P("data"), P("data"), P("data"), P(), P("data"))


def sharded_data():
    """Its bias is shared by the examples: the gradient is summed over the shards."""
    arguments = data()
    arguments[3] = arguments[3][:1]
    return arguments


@pytest.mark.parametrize("name", ["attention_qat", pytest.param("attention_naive", marks=slow)])
def test_shard_map(name):
    """The batch on two devices, with amax of all shards: as the whole."""
    arguments, recipe = sharded_data(), RECIPES[name]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        functools.partial(run, key=None, recipe=recipe, axis_name="data"),
        mesh=mesh,
        in_specs=SHARDED,
        out_specs=SHARDED[:1] + SHARDED[:4],
    )
    assert_all_close(jax.jit(mapped)(*arguments), compiled(*arguments, recipe=recipe))


@slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["attention_qat", "attention_naive"])
def test_sharded_is_unsharded(name, axis_type):
    arguments, recipe = sharded_data(), RECIPES[name]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    placed = jax.device_put(arguments, [NamedSharding(mesh, spec) for spec in SHARDED])
    with jax.set_mesh(mesh):
        results = jax.jit(functools.partial(run, recipe=recipe))(*placed)
    assert_all_close(results, compiled(*arguments, recipe=recipe))
    assert results[0].sharding.is_equivalent_to(placed[0].sharding, 4)


@slow
def test_masked_keys_play_no_part():
    """Not even a value of 1e6: a masked key's weight and gradients are zeros."""
    q, k, v, bias, do = data()
    mask = jnp.arange(T) < T - 2
    loud = [k.at[:, -2:].mul(100), v]
    first = compiled(q, k, v, bias, do, recipe="attention_qat", mask=mask)
    assert not first[2][:, -2:].any()
    assert not first[3][:, -2:].any()
    assert not first[4][..., -2:].any()
    rows = fp4.AttentionRecipe(name="rows", qk=ROWS, pv="forward_only")
    quiet = compiled(q, k, v, bias, do, recipe=rows, mask=mask)
    assert_same_bits(compiled(q, *loud, bias, do, recipe=rows, mask=mask)[0], quiet[0])
    # A query without any key is finite.
    nothing = compiled(q, k, v, bias, do, recipe="attention_qat", mask=jnp.zeros((M, T), bool))
    assert all(jnp.isfinite(a).all() for a in nothing)


@slow
def test_nan_and_zeros():
    q, k, v, bias, do = data()
    zeros = compiled(q * 0, k * 0, v * 0, bias * 0, do, recipe="attention_full")
    assert all(jnp.isfinite(a).all() for a in zeros)
    assert not zeros[0].any()
    assert zeros[3].any()
    assert jnp.isnan(
        compiled(q.at[0, 0, 0, 0].set(np.nan), k, v, bias, do, recipe="attention_qat")[0]
    ).all()


@slow
def test_bfloat16():
    """Out comes what went in, near float32's result of the same numbers."""
    narrow = data(dtype=jnp.bfloat16)
    results = compiled(*narrow, recipe="attention_qat")
    exact = compiled(*(a.astype(np.float32) for a in narrow), recipe="attention_qat")
    for a, b in zip(results, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        assert relative_error(a.astype(np.float32), b) < 2**-7


@slow
def test_static_amax():
    static = fp4.Recipe(name="static", fprop=(fp4.TensorSpec(amax="static"), fp4.TensorSpec()))
    recipe = fp4.AttentionRecipe(name="static", qk=static, pv=static)
    q, k, v, _, _ = data()
    dynamic = fp4.AttentionRecipe(name="dynamic", qk="forward_only", pv="forward_only")
    p = fp4.attention(
        q,
        k,
        jnp.broadcast_to(jnp.eye(T)[:, None], (B, T, KH, T)),
        recipe=fp4.AttentionRecipe(name="p", qk="forward_only"),
    )
    amax = {"qk.fprop.x": jnp.abs(q).max(), "pv.fprop.x": jnp.abs(p).max()}
    given = fp4.attention(q, k, v, recipe=recipe, amax=amax)
    assert relative_error(given, fp4.attention(q, k, v, recipe=dynamic)) < TOLERANCE
    with pytest.raises(ValueError, match=r"needs amax of pv\.fprop\.x"):
        fp4.attention(q, k, v, recipe=recipe, amax={"qk.fprop.x": 1.0})
    with pytest.raises(ValueError, match="roles begin with"):
        fp4.attention(q, k, v, recipe=recipe, amax={"fprop.x": 1.0})


@slow
def test_gradients_of_gradients():
    """Straight through the rounding, near those in high precision."""
    q, k, v, _, _ = data()

    def penalty(recipe, q):
        return jnp.square(
            jax.grad(lambda q: jnp.sin(fp4.attention(q, k, v, recipe=recipe)).sum())(q)
        ).sum()

    second, exact = (
        jax.grad(functools.partial(penalty, RECIPES[n]))(q) for n in ("attention_qat", "baseline")
    )
    assert np.linalg.norm(second - exact) / np.linalg.norm(exact) < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": "full"},
            "no attention recipe 'full'; known names: attention_naive.*no softmax",
        ),
        ({"recipe": "attention_sr"}, "rounds stochastically but key is None"),
        ({"q": jnp.ones((B, M, 3, D))}, "k's heads, at least one, must divide q's"),
        ({name: jnp.ones((B, 4, 0, D)) for name in "qkv"}, "k.s heads, at least one, must divide"),
        ({"q": jnp.ones((B, M, H, 7))}, "the same channels"),
        ({"q": jnp.ones((M, H, D))}, "of one rank"),
        ({"v": jnp.ones((B, 3, KH, E))}, "tokens and heads of k and v must agree"),
        ({"q": jnp.ones((B, M, H, D), int)}, "q is an array of int32|q .*int32"),
        ({"bias": jnp.ones((M, T - 1))}, r"bias has shape \(5, 17\), which is not broadcast"),
    ],
)
def test_mistakes(change, message):
    q, k, v, bias, _ = data()
    arguments = {"q": q, "k": k, "v": v, "bias": bias, "recipe": "attention_qat", **change}
    with pytest.raises(ValueError, match=message):
        fp4.attention(**arguments)


def test_recipes():
    recipe = fp4.get_attention_recipe("attention_qat")
    assert recipe == fp4.get_attention_recipe(recipe)
    assert fp4.AttentionRecipe.from_json(recipe.to_json()) == recipe
    assert hash(recipe) == hash(dataclasses.replace(recipe))
    with pytest.raises(ValueError, match="no recipe 'x'; known"):
        fp4.AttentionRecipe(name="y", qk="x")
    with pytest.raises(ValueError, match="has no heads; it has"):
        fp4.AttentionRecipe.from_json({"name": "y", "heads": 2})
    with pytest.raises(ValueError, match=r"has neither qk nor pv: .*; a registered one"):
        fp4.AttentionRecipe.from_json({"name": "attention_qat"})
    with pytest.raises(ValueError, match="there is another attention recipe"):
        fp4.register_attention_recipe(dataclasses.replace(recipe, row_sums="output"))


def test_static_amaxes_that_are_missing_are_named():
    spec = fp4.TensorSpec(amax="static")
    static = fp4.AttentionRecipe(name="mine", pv=fp4.Recipe(name="static", fprop=(spec, spec)))
    q, k, v, *_ = data()
    message = r"'mine' needs amax of pv.fprop.w: pass attention\(amax=\{\"pv.fprop.w\": ...\}\)"
    with pytest.raises(ValueError, match=message):
        fp4.attention(q, k, v, recipe=static, amax={"pv.fprop.x": 1.0})
