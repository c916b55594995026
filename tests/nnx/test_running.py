"""running_amax and update_amax: which amax a step uses, and what it leaves to the next."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx

SIZES = (4.0, 8.0, 1.0, 2.0, 2.0)


def linear(memory, recipe="full") -> nnx.Linear:
    layer = fp4nnx.apply_recipe(nnx.Linear(16, 8, rngs=nnx.Rngs(0)), recipe)
    return fp4nnx.running_amax(layer, memory)


@nnx.jit
def step(layer, x):
    y = layer(x)
    fp4nnx.update_amax(layer)
    return y


def expected(layer, x, amax):
    """By the layer's own product."""
    recipe = layer.dot_general.recipe
    dims = (((1,), (0,)), ((), ()))
    kernel = layer.kernel[...]
    return fp4.dot_general(x, kernel, dims, recipe=recipe, amax={"fprop.x": jnp.float32(amax)})


@pytest.mark.parametrize(
    ("memory", "amaxes"), [(0.75, [4, 5, 4, 3.5, 3.125]), (3, [4, 8, 8, 8, 2])], ids=str
)
def test_a_step_uses_the_amax_of_earlier_ones(memory, amaxes):
    layer = linear(memory)
    # The first step has its own.
    for size, used, left in zip(SIZES, [4, *amaxes], amaxes, strict=False):
        x = jnp.linspace(-size, size, 32).reshape(2, 16)
        np.testing.assert_array_equal(step(layer, x), expected(layer, x, used))
        assert float(layer.dot_general.amax[...]) == left
    layer.eval()
    x = jnp.full((2, 16), 100.0)
    np.testing.assert_array_equal(step(layer, x), expected(layer, x, amaxes[-1]))
    assert float(layer.dot_general.amax[...]) == amaxes[-1]
    packed = fp4nnx.pack(layer)
    assert float(fp4nnx.static_amaxes(packed)[""]) == amaxes[-1]


def test_a_step_without_a_call_leaves_it():
    layer = linear(0.5)
    layer(jnp.full((2, 16), 4.0))
    layer(jnp.full((2, 16), 3.0))  # of one step the largest
    for _ in range(2):
        fp4nnx.update_amax(layer)
    assert float(layer.dot_general.amax[...]) == 4


def test_a_learned_amax_starts_from_the_first_step():
    layer = fp4nnx.apply_recipe(nnx.Linear(16, 8, rngs=nnx.Rngs(0)), "forward_only+lsq")
    with pytest.raises(ValueError, match="no amax: calibrate"):
        fp4nnx.pack(layer)
    x = jnp.full((2, 16), 4.0)
    dynamic = fp4nnx.apply_recipe(nnx.Linear(16, 8, rngs=nnx.Rngs(0)), "forward_only")
    np.testing.assert_array_equal(layer(x), dynamic(x))

    def loss(layer):
        return layer(x).sum()

    assert float(nnx.grad(loss)(layer)["dot_general"]["amax"][...]) == 0
    fp4nnx.update_amax(layer)
    assert float(layer.dot_general.amax[...]) == 4
    layer.dot_general.amax.set_value(jnp.float32(2))
    gradient = float(nnx.grad(loss)(layer)["dot_general"]["amax"][...])
    np.testing.assert_allclose(gradient, 2 * 16 * layer.kernel[...].sum() / 16 / 96**0.5, rtol=1e-5)
    # It is a parameter from then on, which calls do not change.
    fp4nnx.update_amax(layer)
    assert float(layer.dot_general.amax[...]) == 2


def test_what_cannot_run_is_refused():
    for memory in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"memory is .*; give the decay of an average"):
            linear(memory)
    with pytest.raises(ValueError, match="no layer of Linear quantizes x by an amax of its own"):
        linear(0.5, "baseline")


def test_a_packed_model_keeps_its_amaxes():
    layer = fp4nnx.apply_recipe(nnx.Linear(32, 8, rngs=nnx.Rngs(0)), "full")
    packed = fp4nnx.pack(fp4nnx.set_static_amaxes(layer, {"": 3.0}))
    with pytest.raises(ValueError, match="Linear is packed, which is not trained"):
        fp4nnx.running_amax(packed, 0.9)
    assert fp4nnx.static_amaxes(packed) == {"": 3.0}
