"""Learned and clipped amaxes in products: their gradients, against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fp4jax as fp4
from fp4jax.ops import hooks
from fp4jax.ops.recipe import get_recipe
from tests.checks import assert_close, three_gemms
from tests.oracle import nvfp4
from tests.samples import sample

DIMS = (((2,), (0,)), ((), ()))
LAYOUT = ("NHWC", "HWIO", "NHWC")
A = np.float32(1.5)


def dot(x, w, **options):
    return fp4.dot_general(x, w, DIMS, **options)


def conv(x, w, **options):
    return fp4.conv_general_dilated(
        x, w, (2, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=2, **options
    )


CASES = {"dot": (dot, (3, 5, 40), (40, 7)), "conv": (conv, (2, 6, 5, 40), (3, 2, 20, 6))}


def data(name):
    call, *shapes = CASES[name]
    x, w = (jnp.asarray(sample("normal", shape, i)) for i, shape in enumerate(shapes))
    g = jax.eval_shape(lambda: call(x, w, recipe="baseline"))
    return call, x, w, jnp.asarray(sample("normal", g.shape, 2))


def slope(x: np.ndarray, quantized: np.ndarray) -> np.ndarray:
    """dQ/dA as LSQ has it, with its gradient scale."""
    of_each = np.where(np.abs(x) <= A, (quantized - x) / A, np.sign(x))
    return of_each.astype(np.float64) / math.sqrt(x[0].size * 6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_a_learned_amax_equal_numpy(name):
    call, x, w, g = data(name)

    def loss(x, w, amax):
        return (call(x, w, recipe="forward_only+lsq", amax={"fprop.x": amax}) * g).sum()

    dx, dw, da = jax.jit(jax.grad(loss, (0, 1, 2)))(x, w, A)
    # The backward pass of the recipe is in high precision.
    _, exact_dx, exact_dw = three_gemms(lambda x, w: call(x, w, recipe="baseline"))(x, w, g)
    array = np.asarray(x)
    inside = np.abs(array) <= A
    assert 0.05 < 1 - inside.mean() < 0.3
    np.testing.assert_allclose(dx, np.where(inside, exact_dx, 0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(dw, exact_dw, rtol=0, atol=1e-4)
    # Blocks run along the channels of each group.
    groups = array.reshape(*array.shape[:-1], 2 if name == "conv" else 1, -1)
    spec = fp4.TensorSpec()
    quantized = nvfp4.quantize(groups, spec, groups.ndim - 1, amax=A).restore()
    expected = (np.asarray(exact_dx, np.float64) * slope(array, quantized.reshape(x.shape))).sum()
    np.testing.assert_allclose(da, expected, rtol=2e-5, atol=1e-6)


def test_an_amax_that_is_not_known_is_the_tensors_own():
    call, x, w, g = data("dot")
    plain = jax.jit(three_gemms(lambda x, w: call(x, w, recipe="forward_only")))(x, w, g)
    for amax in (None, {"fprop.x": 0.0}):
        f = three_gemms(lambda x, w: call(x, w, recipe="forward_only+lsq", amax=amax))  # noqa: B023
        assert_close(jax.jit(f)(x, w, g), plain, 0)
    gradient = jax.grad(lambda a: call(x, w, recipe="forward_only+lsq", amax={"fprop.x": a}).sum())
    assert float(gradient(0.0)) == 0
    # Its sign does not count.
    assert float(gradient(-A)) == -float(gradient(A)) != 0


def test_a_clip_is_a_static_amax_without_gradient_beyond():
    call, x, w, g = data("dot")
    amax = jnp.abs(x).max() * np.float32(0.9)
    _, spec = get_recipe("forward_only").fprop
    recipe = fp4.Recipe(name="static", fprop=(fp4.TensorSpec(amax="static"), spec))
    clipped = three_gemms(lambda x, w: call(x, w, recipe="forward_only+clip"))(x, w, g)
    static = three_gemms(lambda x, w: call(x, w, recipe=recipe, amax={"fprop.x": amax}))(x, w, g)
    assert_close(clipped, static._replace(dx=jnp.where(jnp.abs(x) <= amax, static.dx, 0)), 0)
    assert (clipped.dx == 0).sum() == (jnp.abs(x) > amax).sum() > 0
    one = fp4.fake_quantize(x, fp4.TensorSpec(clip=0.9))
    np.testing.assert_array_equal(
        one, fp4.fake_quantize(x, fp4.TensorSpec(amax="static"), amax=amax)
    )


SHARDED = {
    "dot": (dot, (8, 3, 40), (40, 7)),
    "heads": (
        lambda x, w, **options: fp4.dot_general(x, w, (((3,), (2,)), ((0, 2), (0, 1))), **options),
        (8, 3, 2, 20),
        (8, 2, 20, 5),
    ),
    "conv": (conv, (8, 6, 5, 40), (3, 2, 20, 6)),
}


@pytest.mark.parametrize("name", SHARDED)
def test_a_clip_on_an_explicit_mesh(name):
    """Examples on eight devices: of the batch dimensions of a product the first is sharded."""
    call, *shapes = SHARDED[name]
    x, w = (jnp.asarray(sample("normal", shape, i)) for i, shape in enumerate(shapes))
    gradient = jax.jit(jax.grad(lambda x, w: call(x, w, recipe="forward_only+clip").sum()))
    expected = gradient(x, w)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    first = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        every = first if name == "heads" else NamedSharding(mesh, PartitionSpec())
        found = gradient(jax.device_put(x, first), jax.device_put(w, every))
        assert jax.typeof(found).sharding.spec[0] == "data"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_shards_clip_at_a_share_of_the_amax_of_all():
    call, x, w, _ = data("dot")
    whole = call(x, w, recipe="forward_only+clip")
    parts = jax.vmap(
        lambda x: call(x[None], w, recipe="forward_only+clip", axis_name="shards")[0],
        axis_name="shards",
    )(x)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_a_function_of_the_operand_tells_its_amax():
    """It sees x as it is quantized: here that of a transposed product, and static is dynamic."""
    x, w = (jnp.asarray(sample("normal", (20, 20), i)) for i in range(2))
    static = fp4.Recipe(name="static", fprop=(fp4.TensorSpec(amax="static"), fp4.TensorSpec()))
    seen = []

    def amax(x, spec, axes):
        seen.append((x.shape, spec.amax, axes.contracted))
        return hooks.follow(x, spec, axes)

    dims = (((0,), (0,)), ((), ()))
    y = fp4.dot_general(x[:, :8], w, dims, recipe=static, amax={"fprop.x": amax})
    np.testing.assert_array_equal(y, fp4.dot_general(x[:, :8], w, dims, recipe="forward_only"))
    assert seen == [((8, 20), "static", -1)]
    exact = lax.dot_general(x[:, :8], w, dims)
    assert float(jnp.abs(y - exact).max()) < 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"clip": 0.0}, r"TensorSpec\.clip is 0\.0; give a share of amax"),
        ({"clip": 1.5}, r"TensorSpec\.clip is 1\.5; give a share of amax"),
        ({"clip": 0.5, "amax": "row"}, r"clip is 0\.5 with amax='row'; .* use amax='tensor'"),
        ({"clip": 0.5, "hadamard": True}, "hadamard with clip or a learned amax"),
        ({"amax": "learned", "hadamard": True}, "hadamard with clip or a learned amax"),
        ({"amax": "learned", "rounding": "stochastic"}, "rounding is 'stochastic' with amax='lea"),
    ],
)
def test_what_does_not_go_together_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        fp4.TensorSpec(**spec)


@pytest.mark.parametrize("spec", [{"clip": 0.5}, {"amax": "learned"}])
def test_hooks_are_for_x_of_fprop(spec):
    with pytest.raises(ValueError, match=r"dgrad\.g has a clip or a learned amax, .* for fprop\.x"):
        fp4.Recipe(name="mine", dgrad=(fp4.TensorSpec(**spec), None))
