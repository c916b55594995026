"""What bench_compile compiles: gradients of 500k models, of one product, of one convolution."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import ShapeDtypeStruct

import fp4jax as fp4
from fp4jax import nnx as fp4nnx, train
from fp4jax.train import RunConfig, Slices, Volumes
from fp4jax.train.program import build

# A function and its arguments, which are abstract: nothing runs, and no constant can be folded.
Program = tuple[Callable[..., Any], tuple]


def training(config: RunConfig, in_channels: int, regions: int = 1) -> Callable[[str], Program]:
    """For a recipe: the gradient of a run's loss by the model's parameters."""

    def program(recipe: str) -> Program:
        own = dataclasses.replace(config, recipe=recipe)
        task, steps = own.data, train.Program(own, in_channels, regions)
        model = nnx.eval_shape(lambda: build(own, in_channels, regions, 0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def gradient(params, rest, seed, step, images, targets):
            key = jax.random.key(seed)

            def loss_of(params):
                model = nnx.merge(graph, params, rest, copy=True)
                fp4nnx.refresh_keys(model, key, step)
                logits = model(images, rngs=nnx.Rngs(dropout=jax.random.fold_in(key, step)))
                loss = steps.loss(logits, task.targets(targets, own))
                return loss, nnx.state(model, nnx.BatchStat)

            return jax.value_and_grad(loss_of, has_aux=True)(params)

        numbers = ShapeDtypeStruct((), jnp.uint32), ShapeDtypeStruct((), jnp.int32)
        images, targets = task.batch(own, in_channels, regions)
        # as the network sees them, normalized
        images = ShapeDtypeStruct(images.shape, jnp.float32)
        return gradient, (params, rest, *numbers, images, targets)

    return program


def slices(arch: str, side: int, in_channels: int, **options: Any) -> Callable[[str], Program]:
    """Of two slices."""
    data = Slices(image_size=side)
    config = RunConfig(data, arch=arch, batch_size=2, model_options=options)
    return training(config, in_channels)


def volumes(arch: str, side: int, in_channels: int, **options: Any) -> Callable[[str], Program]:
    """Of two patches, with three regions."""
    data = Volumes(patch_size=(side,) * 3)
    config = RunConfig(data, arch=arch, scale="500k", batch_size=2, model_options=options)
    return training(config, in_channels, 3)


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
    "cnn": ("CNN 500k, 128 x 128", slices("cnn", 128, 3)),
    "swin": ("Swin 500k, 128 x 128", slices("swin", 128, 3)),
    "swin_unetr": ("Swin UNETR 500k, 64 x 64", slices("swin_unetr", 64, 4)),
    "unet_3d": ("3D U-Net 500k, 32 x 32 x 32", volumes("unet", 32, 4)),
    "dot": ("dot 1024x96 @ 96x384", operation(dot, (1024, 96), (96, 384), (1024, 384))),
    "conv": ("conv 3x3, 24 to 24", operation(conv, _IMAGES, (3, 3, 24, 24), _IMAGES)),
}
