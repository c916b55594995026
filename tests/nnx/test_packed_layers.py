"""Packed layers in use: transformations, empty input, gradients, and what users get wrong."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import models, packed
from fp4jax.nnx import pack
from fp4jax.packed import Packed
from tests.checks import relative_error
from tests.nnx.test_packing import LAYERS, TOLERANCE, W4A16, apply, linear, quietly, x_of
from tests.samples import assert_same_bits


class TestTransformations:
    def test_split_merge_and_jit(self):
        small, x = quietly(linear()), x_of(3, 32)
        graph, state = nnx.split(small)
        assert graph == nnx.split(quietly(linear()))[0]
        y = jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, x)
        assert relative_error(y, small(x)) < TOLERANCE

    def test_equal_models_are_compiled_once(self):
        traces = []

        @nnx.jit
        def run(model, x):
            traces.append(None)
            return model(x)

        for seed in range(2):
            layer = apply(nnx.Linear(32, 8, rngs=nnx.Rngs(seed)), "full")
            run(quietly(layer), x_of(3, 32))
        assert len(traces) == 1

    @pytest.mark.parametrize("name", ["linear", "conv, patches", "conv_transpose, many positions"])
    def test_vmap_over_inputs(self, name):
        """Each entry has an amax of its own."""
        make, shape = LAYERS[name]
        small = quietly(apply(make(rngs=nnx.Rngs(0)), "full"))
        x = x_of(3, *shape)
        expected = jnp.stack([small(each) for each in x])
        assert relative_error(jax.vmap(small)(x), expected) < TOLERANCE

    def test_vmap_over_models(self):
        """Packed models of several seeds are lanes of one program."""
        all_ = [quietly(apply(nnx.Linear(32, 8, rngs=nnx.Rngs(s)), "2d+rht")) for s in range(3)]
        graph = nnx.split(all_[0])[0]
        states = jax.tree.map(lambda *a: jnp.stack(a), *(nnx.split(m)[1] for m in all_))
        x = x_of(4, 32)
        actual = jax.vmap(lambda s: nnx.merge(graph, s)(x))(states)
        expected = jnp.stack([m(x) for m in all_])
        assert relative_error(actual, expected) < TOLERANCE

    def test_stacked_layers(self):
        """nnx.vmap makes a stack, nnx.scan runs it; each layer has its own amax."""

        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs):
            return nnx.Linear(20, 20, rngs=rngs)

        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(layer, x):
            return layer(x)

        stack, x = apply(make(nnx.Rngs(0)), "full"), x_of(4, 20)
        small = quietly(stack)
        assert small.kernel.amax[...].shape == (3,)
        assert packed.size(small).weights == 3 * 20 * 20
        assert relative_error(run(small, x), run(stack, x)) < TOLERANCE

    def test_shapes_are_enough(self):
        def build():
            return apply(nnx.Conv(20, 18, (3, 3), rngs=nnx.Rngs(0)), "2d+rht+sr")

        concrete, outside = quietly(build()), quietly(nnx.eval_shape(build))
        inside = nnx.eval_shape(lambda: quietly(build()))
        shapes = lambda m: jax.tree.map(lambda a: (a.shape, a.dtype), nnx.state(m))  # noqa: E731
        assert shapes(concrete) == shapes(outside) == shapes(inside)
        assert packed.size(outside) == packed.size(concrete)
        x = jax.ShapeDtypeStruct((2, 8, 8, 20), jnp.float32)
        assert nnx.eval_shape(lambda m, x: m(x), outside, x).shape == (2, 8, 8, 18)


# An input without values, or one that is too small for the kernel.
EMPTY = {
    "linear": (0, 20),
    "linear_general, batch axis": (2, 0, 20),
    "conv 1 x 1": (2, 0, 4, 20),
    "conv, patches": (0, 6, 8, 20),
    "conv, few positions": (0, 6, 8, 20),
    "conv, many positions": (2, 0, 3, 20),
    "conv, dilated": (2, 0, 20),
    "conv, groups, few positions": (1, 1, 3, 20),
    "conv_transpose, no overlap": (0, 4, 4, 20),
    "conv_transpose, many positions": (2, 0, 4, 20),
    "conv_transpose, valid, dilated, flipped": (2, 0, 20),
}


@pytest.mark.parametrize(("name", "shape"), EMPTY.items(), ids=EMPTY)
def test_empty_input(name, shape):
    """The fake-quantized layer's result, forward and backward: of its shape, and zero."""
    layer = apply(LAYERS[name][0](rngs=nnx.Rngs(0)), "2d+rht")
    layer.bias.set_value(jnp.ones_like(layer.bias.get_value()))
    small, x = quietly(layer), jnp.zeros(shape)
    (expected, pull), (actual, pull_packed) = jax.vjp(layer, x), jax.vjp(small, x)
    assert_same_bits(actual, expected)
    g = jnp.ones_like(expected)
    assert_same_bits(*pull_packed(g), *pull(g))


class TestGradients:
    @pytest.mark.parametrize(
        ("name", "recipe"),
        [
            ("linear", W4A16),
            ("conv, patches", "forward_only+rht"),
            ("conv, many positions", "2d+rht+sr"),
            ("conv_transpose, many positions", "full"),
        ],
        ids=lambda value: value if isinstance(value, str) else value.name,
    )
    def test_of_inputs_pass_straight_through(self, name, recipe):
        """Through the dequantized weights: a linear function of the cotangent."""
        make, shape = LAYERS[name]
        layer = make(rngs=nnx.Rngs(0))
        small, x = quietly(apply(nnx.clone(layer), recipe)), x_of(*shape)
        spec = fp4.get_recipe(recipe).fprop[1]
        axis = (-1, -2) if spec.block[0] == 16 else -2
        layer.kernel.set_value(fp4.fake_quantize(layer.kernel[...], spec, axis))
        y, pull = jax.vjp(apply(layer, "baseline"), x)
        g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        dx = jax.jit(lambda x, g: jax.vjp(small, x)[1](g)[0])(x, g)
        assert relative_error(dx, pull(g)[0]) < 5e-6

    def test_of_biases_and_kept_layers(self):
        small = quietly(nnx.Sequential(linear("full", 24, 24), linear("baseline", 24, 8)))
        grads = nnx.grad(lambda m: m(x_of(3, 24)).sum())(small)
        names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(grads)}
        assert names == {"layers.0.bias", "layers.1.bias", "layers.1.kernel"}
        assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads))

    def test_of_packed_weights_are_refused(self):
        graph, weights, rest = nnx.split(quietly(linear()), Packed, ...)
        loss = lambda w: nnx.merge(graph, w, rest)(x_of(3, 32)).sum()  # noqa: E731
        for differentiate in (
            jax.grad(loss, allow_int=True),
            jax.jit(jax.grad(loss, allow_int=True)),
        ):
            with pytest.raises(ValueError, match="packed weights cannot be trained"):
                differentiate(weights)
        with pytest.raises(TypeError, match="uint8"):
            jax.grad(loss)(weights)


class TestMistakes:
    @pytest.mark.parametrize("make", [linear, lambda: nnx.Sequential(linear())])
    def test_torch_has_no_place_for_codes(self, make):
        model = make()
        small = quietly(model)
        message = r"is a packed layer.*Convert the trained model, before fp4jax\.nnx\.pack"
        with pytest.raises(ValueError, match=message):
            models.to_torch(small)
        with pytest.raises(ValueError, match=message):
            models.load_torch(small, models.to_torch(model))

    def test_nothing_to_pack(self):
        for model in (nnx.Linear(4, 4, rngs=nnx.Rngs(0)), linear("baseline")):
            with pytest.raises(ValueError, match=r"no layer of Linear .*apply a recipe first"):
                pack(model)

    def test_packed_already(self):
        with pytest.raises(ValueError, match="Linear is packed already"):
            pack(quietly(linear()))

    def test_stochastic_forward_pass(self):
        spec = fp4.TensorSpec(rounding="stochastic")
        with pytest.raises(ValueError, match=r"layer '' has the recipe 'odd'.*stochastically"):
            pack(linear(fp4.Recipe(name="odd", fprop=(None, spec))))

    def test_dtype_of_the_rest(self):
        with pytest.raises(ValueError, match="rest_dtype is int8"):
            pack(linear(), rest_dtype=jnp.int8)

    def test_another_recipe_on_a_packed_model(self):
        small = quietly(linear())
        with pytest.raises(ValueError, match=r"layer '' is packed.*pack that afterwards"):
            apply(small, "full")

    def test_a_kernel_put_back(self):
        layer = linear()
        small = quietly(layer)
        small.kernel = layer.kernel
        with pytest.raises(ValueError, match="replaced after fp4jax"):
            small(x_of(3, 32))

    def test_a_layer_that_computes_with_its_kernel(self):
        class Scaled(nnx.Linear):
            def __call__(self, x):
                return self.dot_general(x, self.kernel[...] * 2, (((1,), (0,)), ((), ())))

        with pytest.raises(TypeError):
            quietly(apply(Scaled(16, 8, rngs=nnx.Rngs(0)), "full"))(x_of(2, 16))

    def test_parts_of_a_kernel(self):
        with pytest.raises(ValueError, match="read whole"):
            quietly(linear()).kernel[0]
