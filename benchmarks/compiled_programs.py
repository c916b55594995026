"""What bench_compile compiles: gradients of the 500k models, of one product, of one convolution."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import ShapeDtypeStruct

import fp4jax as fp4
from fp4jax import losses, nnx as fp4nnx
from fp4jax.train import RunConfig
from fp4jax.train.program import build

# A function and its arguments, which are abstract: nothing runs, and no constant can be folded.
Program = tuple[Callable[..., Any], tuple]


def training(arch: str, side: int, in_channels: int, **options: Any) -> Callable[[str], Program]:
    """For a recipe: the gradient of the model's loss by its parameters, of two images."""

    def program(recipe: str) -> Program:
        config = RunConfig(arch=arch, recipe=recipe, image_size=side, model_options=options)
        loss = losses.get_loss(config.loss)
        model = nnx.eval_shape(lambda: build(config, in_channels, 0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def gradient(params, rest, seed, step, images, masks):
            key = jax.random.key(seed)

            def loss_of(params):
                model = nnx.merge(graph, params, rest, copy=True)
                fp4nnx.refresh_keys(model, key, step)
                logits = model(images, rngs=nnx.Rngs(dropout=jax.random.fold_in(key, step)))
                return loss(logits, masks), nnx.state(model, nnx.BatchStat)

            return jax.value_and_grad(loss_of, has_aux=True)(params)

        numbers = ShapeDtypeStruct((), jnp.uint32), ShapeDtypeStruct((), jnp.int32)
        images = ShapeDtypeStruct((2, side, side, in_channels), jnp.float32)
        masks = ShapeDtypeStruct(images.shape[:-1], jnp.uint8)
        return gradient, (params, rest, *numbers, images, masks)

    return program


def operation(call: Callable[..., jax.Array], *shapes: tuple[int, ...]) -> Callable[[str], Program]:
    """For a recipe: both gradients of ``call(x, w, ...)``; shapes of x, w and y's cotangent."""

    def program(recipe: str) -> Program:
        def gradients(x, w, g, key):
            return jax.vjp(lambda x, w: call(x, w, recipe=recipe, key=key), x, w)[1](g)

        key = jax.eval_shape(lambda: jax.random.key(0))
        return gradients, (*(ShapeDtypeStruct(shape, jnp.float32) for shape in shapes), key)

    return program


def dot(x, w, **options):
    return fp4.dot_general(x, w, (((1,), (0,)), ((), ())), **options)


def conv(x, w, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return fp4.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, **options)


_IMAGES = (2, 32, 32, 24)
#: What --models names: a title, and the program for a recipe.
PROGRAMS: dict[str, tuple[str, Callable[[str], Program]]] = {
    "cnn": ("CNN 500k, 128 x 128", training("cnn", 128, 3)),
    "swin": ("Swin 500k, 128 x 128", training("swin", 128, 3)),
    "swin_unetr": ("Swin UNETR 500k, 64 x 64", training("swin_unetr", 64, 4)),
    "dot": ("dot 1024x96 @ 96x384", operation(dot, (1024, 96), (96, 384), (1024, 384))),
    "conv": ("conv 3x3, 24 to 24", operation(conv, _IMAGES, (3, 3, 24, 24), _IMAGES)),
}
