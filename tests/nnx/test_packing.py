"""pack(model): the fake-quantized model's outputs from 4.5 bits per weight, and its files.

Tolerance of one layer: both sum the same float32 products, in another order. A sum of K terms is
off by less than K * 2**-24 of the sum of magnitudes, in practice by its square root; K is at most
16 * 36 here, outputs are compared with the largest of them, and 2e-6 is 32 units of 2**-24. Models
are held to the same: their activations are rounded again in every layer, which hides last bits
unless one falls on the edge between two codes, and none does for these inputs.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import models, nnx as fp4nnx, packed
from fp4jax.nnx import RoundingKey, apply_recipe, pack
from fp4jax.packed import Packed, PackedKernel, Stored
from tests import initial
from tests.checks import diagonal, relative_error
from tests.samples import assert_same_bits, sample

TOLERANCE = 2e-6

apply = functools.partial(apply_recipe, verbose=False)
quietly = functools.partial(pack, verbose=False)

MASK = np.random.default_rng(0).integers(0, 2, (3, 20, 18)).astype(np.float32)

# constructor, input shape
LAYERS = {
    "linear": (functools.partial(nnx.Linear, 20, 18), (3, 20)),
    "linear, no bias, no batch": (functools.partial(nnx.Linear, 36, 18, use_bias=False), (36,)),
    "linear, batches": (functools.partial(nnx.Linear, 20, 18), (2, 3, 2, 20)),
    "linear_general": (
        functools.partial(nnx.LinearGeneral, (5, 4), (3, 7), axis=(1, -1)),
        (2, 5, 3, 4),
    ),
    "linear_general, batch axis": (
        functools.partial(nnx.LinearGeneral, 20, 18, batch_axis={0: 2}),
        (2, 3, 20),
    ),
    "conv 1 x 1": (functools.partial(nnx.Conv, 20, 18, (1, 1)), (2, 5, 4, 20)),
    "conv, patches": (functools.partial(nnx.Conv, 20, 18, (2, 2), 2), (2, 6, 8, 20)),
    "conv, few positions": (
        functools.partial(nnx.Conv, 20, 18, (4, 4), 2, padding=1),
        (1, 6, 8, 20),
    ),
    "conv, many positions": (functools.partial(nnx.Conv, 20, 18, (3, 3)), (2, 5, 4, 20)),
    "conv, dilated": (
        functools.partial(nnx.Conv, 20, 18, (3,), kernel_dilation=2, input_dilation=2, padding=1),
        (2, 7, 20),
    ),
    "conv, groups, few positions": (
        functools.partial(nnx.Conv, 20, 18, (2, 2), feature_group_count=2, padding="VALID"),
        (1, 3, 3, 20),
    ),
    "conv, groups, many positions": (
        functools.partial(nnx.Conv, 20, 18, (3,), feature_group_count=2, padding="CIRCULAR"),
        (2, 9, 20),
    ),
    "conv, mask": (functools.partial(nnx.Conv, 20, 18, (3,), mask=MASK), (2, 5, 20)),
    "conv_transpose, no overlap": (
        functools.partial(nnx.ConvTranspose, 20, 18, (2, 2), (2, 2)),
        (2, 4, 4, 20),
    ),
    "conv_transpose, few positions": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4, 4), (2, 2)),
        (1, 3, 4, 20),
    ),
    "conv_transpose, many positions": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4, 4), (2, 2)),
        (2, 4, 4, 20),
    ),
    "conv_transpose, valid, dilated, flipped": (
        functools.partial(
            nnx.ConvTranspose,
            20,
            18,
            (3,),
            2,
            padding="VALID",
            kernel_dilation=2,
            transpose_kernel=True,
        ),
        (2, 5, 20),
    ),
    "conv_transpose, circular, mask": (
        functools.partial(nnx.ConvTranspose, 20, 18, (3,), 2, padding="CIRCULAR", mask=MASK),
        (2, 5, 20),
    ),
    "attention": (functools.partial(nnx.MultiHeadAttention, 2, 20, decode=False), (2, 5, 20)),
}
W4A16 = fp4.Recipe(name="weights only", fprop=(None, fp4.TensorSpec()))
# 1x16; 16x16 tiles; rotated; activations as they are
RECIPES = ("full", "2d+rht+sr", "forward_only+rht", W4A16)


def id_of(value) -> str:
    return value.name if isinstance(value, fp4.Recipe) else str(value)


def linear(recipe="full", inputs: int = 32, outputs: int = 24, **options) -> nnx.Linear:
    options |= {"kernel_init": initial.kernel}
    return apply(nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0), **options), recipe)


def x_of(*shape: int) -> jax.Array:
    return jnp.asarray(sample("normal", shape))


@pytest.mark.parametrize(("name", "recipe"), diagonal(list(LAYERS), RECIPES), ids=id_of)
def test_a_packed_layer_is_the_fake_quantized_one(name, recipe):
    make, shape = LAYERS[name]
    layer = apply(make(rngs=nnx.Rngs(0), kernel_init=initial.kernel), recipe)
    x = x_of(*shape)
    expected, actual = forward(layer, x), forward(quietly(layer), x)
    assert actual.dtype == expected.dtype
    assert relative_error(actual, expected) < TOLERANCE


HALF = {
    "bfloat16": {"dtype": jnp.bfloat16},
    "float16": {"dtype": jnp.float16},
    "bfloat16 parameters": {"param_dtype": jnp.bfloat16},
}


@pytest.mark.parametrize(("recipe", "half"), diagonal(RECIPES, list(HALF)), ids=id_of)
def test_half_precision_layers(recipe, half):
    """They quantize the kernel cast to their dtype, and return that dtype."""
    x = x_of(4, 20).astype(jnp.bfloat16)
    layer = apply(nnx.Linear(20, 18, rngs=nnx.Rngs(0), **HALF[half]), recipe)
    expected, actual = forward(layer, x), forward(quietly(layer), x)
    assert actual.dtype == expected.dtype
    assert relative_error(actual, expected) < 2.0**-8


def test_half_precision_layers_with_wide_sums():
    wide = {"dtype": jnp.bfloat16, "preferred_element_type": jnp.float32}
    layer = apply(nnx.Conv(20, 18, (3,), rngs=nnx.Rngs(0), use_bias=False, **wide), "2d+rht+sr")
    x = x_of(2, 5, 20)
    actual = forward(quietly(layer), x)
    assert actual.dtype == jnp.float32
    assert relative_error(actual, forward(layer, x)) < TOLERANCE


# One quantized layer of each kind; 4 x 4 tokens of small images.
SMALL = {
    "cnn": {"stages": 3},
    "vit": {"depth": 1, "patch": 8},
    "swin": {"depth": 1, "patch": 8},
}


def trained(arch: str, recipe, keep=None, **options) -> nnx.Module:
    """With statistics and norms that are not those of a fresh model."""
    model = initial.filled(lambda: models.create(arch, "500k", rngs=nnx.Rngs(0), **options))
    apply(model, recipe, keep=model.high_precision if keep is None else keep)
    model.eval()
    return model


@nnx.jit
def forward(model, x):
    return model(x)


@pytest.mark.parametrize(("arch", "recipe"), diagonal(list(SMALL), [2, 5, 7]))
def test_models_of_the_width_of_500k(arch, recipe):
    model, x = trained(arch, recipe, image_size=32, **SMALL[arch]), x_of(2, 32, 32, 3)
    small = quietly(model)
    assert relative_error(forward(small, x), forward(model, x)) < TOLERANCE
    assert packed.size(small).bits_per_weight < (4.1 if recipe == 5 else 4.51)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, ()], ids=["kept", "all"])
@pytest.mark.parametrize("recipe", [1, 2, 5, 7])
@pytest.mark.parametrize("arch", SMALL)
def test_models_of_500k(arch, recipe, keep):
    """Also with the layers packed that are kept in high precision by default."""
    model, x = trained(arch, recipe, keep, image_size=128), x_of(2, 128, 128, 3)
    assert relative_error(forward(quietly(model), x), forward(model, x)) < TOLERANCE


def test_layers_of_this_project():
    """Downsample and Upsample, which are kept in high precision by default."""
    model, x = trained("vit", 5, (), image_size=16, **SMALL["vit"]), x_of(1, 16, 16, 3)
    small = quietly(model)
    assert len([m for _, m in nnx.iter_modules(small) if isinstance(m, PackedKernel)]) == 9
    assert relative_error(forward(small, x), forward(model, x)) < TOLERANCE


def test_the_codes_are_those_of_quantize():
    """In memory: codes, scales and amax alone, in the place of the kernel."""
    layer = linear("2d+rht+sr", 40, 24)
    q = fp4.quantize(layer.kernel[...], fp4.TensorSpec(block=(16, 16)), axis=(-1, -2))
    small = quietly(layer)
    for name in ("codes", "block_scales", "amax"):
        assert_same_bits(getattr(small.kernel, name)[...], getattr(q, name))
    assert small.kernel.nbytes == q.nbytes
    leaves = jax.tree.leaves(nnx.state(small, nnx.Not(Packed)))
    assert [leaf.shape for leaf in leaves] == [(24,)]
    assert isinstance(layer.kernel, nnx.Param)  # of the model that was packed


def test_memory_of_codes_and_of_the_rest():
    model = trained("cnn", "full", image_size=32, stages=3)
    before, after = packed.size(model), packed.size(quietly(model))
    assert before.layers == 0
    assert before.nbytes == 4 * before.others
    assert after.weights + after.others == before.others
    assert after.weight_bytes == after.weights * 9 // 16 + 4 * after.layers
    half = packed.size(quietly(model, rest_dtype=jnp.bfloat16))
    norms = sum(p.size for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)
                for p in jax.tree.leaves(nnx.state(m)))  # fmt: skip
    assert half.other_bytes == 2 * (half.others - norms) + 4 * norms
    assert half.weight_bytes == after.weight_bytes


def test_one_line_about_the_bytes(capsys, caplog):
    small = pack(linear(), verbose=True)
    assert capsys.readouterr().out == f"{packed.size(small)}\n"
    with caplog.at_level(logging.INFO, logger="fp4jax"):
        pack(linear())
    assert caplog.messages[-1] == str(packed.size(small))
    assert capsys.readouterr().out == ""
    shown = str(small)
    assert "Packed: " in shown
    assert "B)" in shown


def test_the_rest_in_bfloat16_is_read_as_float32():
    """Also where a model adds a parameter to float32, with strict promotion."""
    model = trained("swin", 2, image_size=32, depth=1, patch=8)
    small = quietly(model, rest_dtype=jnp.bfloat16)
    assert isinstance(small.pos_embed, Stored)
    assert small.pos_embed[...].dtype == jnp.float32
    assert small.norm.scale[...].dtype == small.norm.scale.get_raw_value().dtype == jnp.float32
    rounded = nnx.clone(model)
    narrow = nnx.state(small, Stored)
    for path, leaf in nnx.to_flat_state(narrow):
        assert leaf.get_raw_value().dtype == jnp.bfloat16
        assert ".".join(map(str, path)).find("norm") == -1
    nnx.update(rounded, jax.tree.map(lambda a: a.astype(jnp.float32), narrow))
    x = x_of(1, 32, 32, 3)
    assert relative_error(forward(small, x), forward(rounded, x)) < TOLERANCE


def test_shared_parameters_stay_shared():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(16, 16, rngs=rngs)
            self.first = nnx.Param(jnp.ones(16))
            self.second = nnx.Dict(same=self.first)

        def __call__(self, x):
            return self.layer(x * self.first[...]) + self.second["same"][...]

    small = quietly(apply(Tied(nnx.Rngs(0)), "full"), rest_dtype=jnp.bfloat16)
    assert isinstance(small.first, Stored)
    assert small.first is small.second["same"]


def test_kept_layers_and_other_variables_stay():
    model = trained("cnn", "2d+rht+sr", image_size=32, stages=3)
    small = quietly(model)
    kept = {layer.path for layer in fp4nnx.report(small).layers if layer.precision != "2d+rht+sr"}
    assert kept == {"encoders.0", "encoders.2", "decoders.2"}
    for path in (0, 2):
        assert_same_bits(small.encoders[path].kernel[...], model.encoders[path].kernel[...])
    assert not jax.tree.leaves(nnx.state(small, RoundingKey))
    assert jax.tree.leaves(nnx.state(model, RoundingKey))
    quantized = fp4nnx.report(small).quantized
    assert quantized == fp4nnx.report(model).quantized


def test_activations_alone_are_no_packed_weights():
    stochastic = fp4.TensorSpec(rounding="stochastic")
    recipe = fp4.Recipe(name="x only", fprop=(fp4.TensorSpec(), None), wgrad=(stochastic, None))
    model = nnx.Sequential(linear(recipe, 24, 24), linear("full", 24, 8))
    small = quietly(model)
    assert isinstance(small.layers[0].kernel, nnx.Param)
    assert isinstance(small.layers[1].kernel, PackedKernel)
    assert not jax.tree.leaves(nnx.state(small, RoundingKey))
    assert relative_error(small(x_of(3, 24)), fake(model)(x_of(3, 24))) < TOLERANCE


def fake(model):
    return fp4nnx.refresh_keys(model, 0, 0)


def test_a_packed_model_is_in_evaluation_mode():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(16, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(self.norm(self.layer(x)))

    model = apply(Net(nnx.Rngs(0)), "full")
    model.train()
    small, x = quietly(model), x_of(4, 16)
    assert_same_bits(small(x), small(x))
    assert not model.drop.deterministic
    model.eval()
    assert relative_error(small(x), model(x)) < TOLERANCE


@pytest.mark.parametrize("amax", ["example", "row"])
def test_other_tensor_scales_are_refused(amax):
    x = fp4.TensorSpec(amax=amax)
    recipe = fp4.Recipe(name="mine", fprop=(x, fp4.TensorSpec()))
    with pytest.raises(ValueError, match=f"layer '' has the recipe 'mine' with amax='{amax}'; pac"):
        fp4nnx.pack(linear(recipe, 24, 24))
