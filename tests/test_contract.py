"""One contract for every recipe and every operation: what a new one gets tested for free.

Data are small integers: rotating 16 of them is exact, in bfloat16 too. So two ways to compute the
same thing find the same codes, and differ by the order of float32 sums only (TOLERANCE, of the
maximum), while a single code that is rounded the other way shows (test_key_decides_the_bits).

Slow are all pairs of an operation and a recipe but one for each of the paper's eight recipes; each
test still meets every operation, with at least two of them, every time.
"""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from tests.checks import Results, assert_close, relative_error, three_gemms
from tests.contracts import FURTHER, KEY, OPS, TOLERANCE, Contract, is_slow
from tests.samples import assert_same_bits


# The scope makes pytest run all tests of one contract together, so that they share its compilation.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param((op, recipe), id=f"{op}-{recipe}", marks=[pytest.mark.slow] * slow)
        for i, recipe in enumerate((*fp4.recipes(), *FURTHER))
        for j, op in enumerate(OPS)
        for slow in [is_slow(i, recipe, j, op)]
    ],
)
def contract(request) -> Contract:
    op, name = request.param
    recipe, options = FURTHER[name] if name in FURTHER else (fp4.get_recipe(name), {})
    return Contract(OPS[op], recipe, options)


def skip_unless_bilinear(contract: Contract) -> None:
    if not contract.op.bilinear:
        pytest.skip("of a softmax: ops/test_attention.py")


def stack(lanes):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)


def assert_all_close(stacked: Results, one_by_one: list[Results]) -> None:
    for lane, expected in enumerate(one_by_one):
        assert_close(Results(*(result[lane] for result in stacked)), expected, TOLERANCE)


def test_eager_is_jit(contract):
    arguments = contract.data()
    assert_close(contract.run(*arguments, KEY), contract(*arguments), TOLERANCE)


def test_gradients_are_finite_and_typed(contract):
    x, w, g = contract.data()
    for result, primal in zip(contract(x, w, g), (g, x, w), strict=True):
        assert (result.shape, result.dtype) == (primal.shape, primal.dtype)
        assert jnp.isfinite(result).all()
        assert result.any()


def test_bfloat16(contract):
    """Out comes what went in, and it is float32's result (which is exact in x, w, g) rounded."""
    narrow, exact = contract(*contract.data(dtype=jnp.bfloat16)), contract(*contract.data())
    for result, expected in zip(narrow, exact, strict=True):
        assert result.dtype == jnp.bfloat16
        error = np.abs(result.astype(np.float32) - expected)
        if not contract.op.bilinear:
            # P of products in high precision is rounded in between.
            assert (error <= 2**-6 * np.abs(expected).max()).all()
            continue
        assert (error <= 2**-8 * np.abs(expected) + TOLERANCE * np.abs(expected).max()).all()


def test_vmap_over_operands(contract):
    """Each lane has its own amax and its own key."""
    lanes = [(*contract.data(seed), jax.random.fold_in(KEY, seed)) for seed in range(2)]
    # One amax for both would show: powers of two but these change no code.
    lanes[1] = tuple(3 * a if i < 3 else a for i, a in enumerate(lanes[1]))
    batched = jax.jit(jax.vmap(contract.run))(*stack(lanes))
    assert_all_close(batched, [contract(*lane) for lane in lanes])


def test_vmap_over_keys(contract):
    """One batch of operands, several draws of random bits, as seeds of one study have."""
    if not contract.recipe.stochastic:
        pytest.skip("its bits do not depend on a key")
    keys = jax.random.split(KEY, 2)
    batched = jax.jit(jax.vmap(contract.run, in_axes=(None, None, None, 0)))
    arguments = contract.data()
    assert_all_close(batched(*arguments, keys), [contract(*arguments, key) for key in keys])


def test_scan_is_a_loop(contract):
    x, w, g = contract.data()

    @jax.jit
    def steps(x, w, g):
        def step(w, i):
            results = contract.run(x, w, g, jax.random.fold_in(KEY, i))
            return w + jnp.sign(results.dw), results

        return lax.scan(step, w, jnp.arange(3))[1]

    scanned, looped = steps(x, w, g), []
    for i in range(3):
        looped.append(contract(x, w, g, jax.random.fold_in(KEY, i)))
        w = w + jnp.sign(looped[-1].dw)
    assert_all_close(scanned, looped)


def test_remat_changes_nothing(contract):
    def run(x, w, g):
        options = {"recipe": contract.recipe, **contract.options}
        call = lambda x, w, key: contract.op.call(x, w, key=key, **options)  # noqa: E731
        return three_gemms(lambda x, w: jax.checkpoint(call)(x, w, KEY))(x, w, g)

    arguments = contract.data()
    assert_close(jax.jit(run)(*arguments), contract(*arguments), TOLERANCE)


def test_gradients_of_gradients(contract):
    """Rounding passes straight through there too: lax's, up to what quantization changes."""
    skip_unless_bilinear(contract)
    if contract.recipe.name not in ("baseline", "chain_rule", "2d+rht+sr"):
        pytest.skip("nothing that baseline, chain_rule and 2d+rht+sr do not have")
    x, w, g = contract.data()

    def penalty(recipe, x):
        run = lambda x: contract.op.call(x, w, recipe=recipe, key=KEY)  # noqa: E731
        return jnp.square(jax.grad(lambda x: (jnp.square(run(x)) * g).sum())(x)).sum()

    second = jax.grad(functools.partial(penalty, contract.recipe))(x)
    expected = jax.grad(functools.partial(penalty, "baseline"))(x)
    error = np.linalg.norm(second - expected) / np.linalg.norm(expected)
    # Four products of two operands, each of which is off by up to 0.1 of its norm, independently:
    # 0.1 * 8**0.5. Exact values are compared in ops/test_second_derivatives.py.
    assert error < 0.29 * contract.recipe.quantizes + TOLERANCE


def test_replicated_weights_in_shard_map(contract):
    """Shards of the batch, and one w for all: its gradient is the sum over the shards, as lax's.

    Of the other recipes in convolution/test_transforms.py.
    """
    if contract.recipe.stochastic:
        pytest.skip("each shard draws bits of its own: core/test_stochastic.py, nnx/test_calls.py")
    if contract.recipe.name not in ("full", "chain_rule", "2d+rht"):
        pytest.skip("nothing that those do not have")
    x, w, g = contract.data()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P("data"), P(), P("data"))
    sharded = jax.shard_map(
        lambda *arguments: tuple(contract.run(*arguments)),
        mesh=mesh,
        in_specs=(*specs, P()),
        out_specs=(P("data"), P("data"), P()),
    )
    results = jax.jit(sharded)(x, w, g, KEY)
    halves = [contract(x[half], w, g[half]) for half in (slice(4), slice(4, 8))]
    whole = (jnp.concatenate, jnp.concatenate, sum)
    expected = [of(parts) for of, parts in zip(whole, zip(*halves, strict=True), strict=True)]
    assert_close(Results(*results), Results(*expected), TOLERANCE)


def test_key_decides_the_bits(contract):
    """The same key gives the same bits, another one shows: if anything is drawn at all."""
    # Between the values of any grid.
    arguments = [x + jnp.sin(3 * x) / 4 for x in contract.data()]
    first, again, other = (contract(*arguments, key) for key in (KEY, KEY, jax.random.key(12)))
    drawn = [
        any(spec is not None and spec.stochastic for spec in specs)
        for specs in (contract.recipe.fprop, contract.recipe.dgrad, contract.recipe.wgrad)
    ]
    if not contract.op.bilinear:
        # One product's results are the other's operands.
        drawn = [any(drawn[: i + 1]) for i in range(3)]
    assert any(drawn) == contract.recipe.stochastic
    for a, b, c, stochastic in zip(first, again, other, drawn, strict=True):
        assert_same_bits(a, b)
        if stochastic:
            assert relative_error(c, a) > 1000 * TOLERANCE
        else:
            assert_same_bits(a, c)
    if not any(drawn):
        jax.eval_shape(lambda: contract.run(*arguments, None))


def test_equal_recipe_is_not_compiled_again(contract, caplog):
    arguments = contract.data()
    contract(*arguments)
    traces = contract.traces
    equal = dataclasses.replace(contract.recipe)
    assert equal is not contract.recipe
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        contract.compiled(*arguments, KEY, recipe=equal)
    assert contract.traces == traces
    assert not caplog.records
    contract.compiled.trace(*arguments, KEY, recipe=dataclasses.replace(equal, name="other"))
    assert contract.traces == traces + 1


def test_compilation_is_logged(caplog):
    """What the test above relies on."""
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        jax.jit(lambda x: x + 1)(1.0)
    assert "Compiling" in caplog.text


def test_zeros_stay_zeros(contract):
    """Zero operands make zero products, and none of them is NaN."""
    skip_unless_bilinear(contract)
    for zeros in ([0], [1], [2], [0, 1, 2]):
        arguments = contract.data()
        for i in zeros:
            arguments[i] = jnp.zeros_like(arguments[i])
        x, w, g = (bool(a.any()) for a in arguments)
        for result, nonzero in zip(contract(*arguments), (x and w, g and w, x and g), strict=True):
            assert jnp.isfinite(result).all()
            assert bool(result.any()) == nonzero


def test_nan_is_not_hidden(contract):
    """A NaN reaches the two products its tensor enters, and not the third.

    All of a product if its tensor is quantized there as one, since a NaN tensor has no scale.
    """
    skip_unless_bilinear(contract)
    x, w, gd, wd, xw, gw = (
        spec is not None and spec.has_tensor_scale and spec.amax == "tensor"
        for spec in contract.recipe.operands
    )
    if contract.recipe.residuals == "quantized":
        wd, xw = wd or w, xw or x
    everywhere = ((x, False, xw), (w, wd, False), (False, gd, gw))
    for operand, reached in enumerate(((1, 0, 1), (1, 1, 0), (0, 1, 1))):
        arguments = contract.data()
        position = tuple(n // 2 for n in arguments[operand].shape)
        arguments[operand] = arguments[operand].at[position].set(np.nan)
        results = contract(*arguments)
        assert [bool(jnp.isnan(result).any()) for result in results] == [bool(r) for r in reached]
        for result, all_of_it in zip(results, everywhere[operand], strict=True):
            assert jnp.isnan(result).all() or not all_of_it


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
def test_sharded_is_unsharded(contract, axis_type):
    """x, y and their gradients sharded over the batch, w replicated, on eight devices."""
    arguments = contract.data()
    expected = contract(*arguments)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    shardings = [NamedSharding(mesh, spec) for spec in (P("data"), P(), P("data"))]
    x, w, g = jax.device_put(arguments, shardings)
    with jax.set_mesh(mesh):
        results = jax.jit(contract.run)(x, w, g, KEY)
    assert_close(results, expected, TOLERANCE)
    for result, primal in zip(results, (g, x, w), strict=True):
        assert len(result.devices()) == 8
        if axis_type == AxisType.Explicit:
            assert jax.typeof(result).sharding == jax.typeof(primal).sharding
            assert result.sharding.is_equivalent_to(primal.sharding, result.ndim)


def test_arrays_made_before_the_explicit_mesh(contract):
    """Parameters, or all operands, may be on no mesh yet: they count as replicated."""
    x, w, g = contract.data()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    sharded = (jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, g))
    with jax.set_mesh(mesh):
        for first, last in (sharded, (x, g)):
            # All that can fail is found by tracing; test_nnx.py runs a model.
            results = jax.eval_shape(contract.run, first, w, last, KEY)
            assert [result.shape for result in results] == [g.shape, x.shape, w.shape]
