"""A packed NNX model as an ONNX model: traced, written, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.deploy.onnx import rules as rules
from fp4jax.deploy.onnx.assembling import add_input, assemble
from fp4jax.deploy.onnx.dialects import Dialect
from fp4jax.deploy.onnx.graph import BATCH, Graph
from fp4jax.deploy.onnx.marked_model import mark
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import LayerCall, Walker
from fp4jax.extras import Extra
from fp4jax.nnx.keys import dotted
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.slots import layers

with Extra("deploy"):
    import onnx


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """An ONNX model, and where its packed layers are.

    Attributes:
        model: of images to logits.
        calls: of packed layers, in their order.
        channels_first: whether images and logits are.
        half: the type of products in 16 bits.
    """

    model: onnx.ModelProto
    calls: tuple[LayerCall, ...]
    channels_first: bool
    half: str


@dataclasses.dataclass(frozen=True)
class Known:
    """What the graph needs of a packed layer: its weights, and a static amax of its activations."""

    weight: Any
    kernel_shape: tuple[int, ...]
    amax: np.float32 | None


def to_onnx(
    model: nnx.Module,
    image: tuple[int, ...],
    dialect: Dialect,
    *,
    batch: int | None = None,
    channels_first: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """A packed model, or one without a recipe, as an ONNX model.

    Args:
        model: what :func:`fp4jax.nnx.pack` returned.
        image: of one example, (*space, channels).
        dialect: see :mod:`fp4jax.deploy.onnx.dialects`.
        batch: examples, or None for any number; each is quantized as if it were alone.
        channels_first: whether the file's images and logits are (batch, channels, *space); else
            as the model has them, (batch, *space, channels).
        metadata: text for the file, by name.

    Raises:
        UnsupportedError: something in the model cannot be written.
        ValueError: a recipe that cannot be exported.
    """
    known = _layers(model)
    graph_def, random, state = nnx.split(mark(model), nnx.RngState, ...)

    def forward(state: Any, images: Any) -> Any:
        def one(image: Any) -> Any:
            call: Any = nnx.merge(graph_def, random, state)
            return call(image[None])[0]

        return jax.vmap(one)(images)

    size = jax.export.symbolic_shape(BATCH)[0] if batch is None else batch
    images = jax.ShapeDtypeStruct((size, *image), jnp.float32)
    traced = jax.make_jaxpr(forward)(state, images)
    graph, shape = Graph(), images.shape
    last = len(shape) - 1
    first = (shape[0], shape[last], *shape[1:last])
    x = add_input(graph, "images", np.float32, first if channels_first else shape)
    variables = [Value.known(np.asarray(v), name) for name, v in _named(state)]
    walker = Walker(graph, dialect, known)
    taken = graph.transpose(x, [0, *range(2, last + 1), 1]) if channels_first else x
    (logits,) = walker.run(traced.jaxpr, traced.consts, [*variables, taken])
    if channels_first:
        logits = graph.transpose(logits, [0, last, *range(1, last)])
    made = assemble(graph, [x], {"logits": logits}, opset=dialect.opset, metadata=metadata)
    return Written(made, tuple(walker.calls), channels_first, dialect.half)


def _layers(model: nnx.Module) -> dict[str, Known]:
    return {
        layer.path: Known(
            layer.module.kernel.values, layer.module.kernel.shape, _static_amax(layer.operation)
        )
        for layer in layers(model)
        if isinstance(layer.operation, PackedOp)
    }


def _static_amax(operation: PackedOp) -> np.float32 | None:
    amax = operation.x_amax
    return None if amax is None else np.float32(np.asarray(amax))


def _named(state: Any) -> list[tuple[str, Any]]:
    """The arrays of a state in the order of its leaves, with dotted names."""
    paths = jax.tree_util.tree_flatten_with_path(state)[0]
    return [(dotted(tuple(_key(k) for k in path)), leaf) for path, leaf in paths]


def _key(entry: Any) -> Any:
    return getattr(entry, "key", getattr(entry, "name", entry))
