"""A packed NNX model as an ONNX model: traced, written, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.deploy.onnx import rules as rules
from fp4jax.deploy.onnx.dialects import Dialect
from fp4jax.deploy.onnx.graph import BATCH, Graph, value_info
from fp4jax.deploy.onnx.marking import mark
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import LayerCall, Walker
from fp4jax.extras import Extra
from fp4jax.nnx.keys import dotted
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.slots import layers

with Extra("deploy"):
    import onnx
    from onnx import helper

# The oldest IR that knows float4 (opset 23), and that of opset 21.
_IR_VERSION = 11


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """An ONNX model, and where its packed layers are.

    Attributes:
        model: of images to logits.
        calls: of packed layers, in their order.
        channels_first: whether images and logits are.
    """

    model: onnx.ModelProto
    calls: tuple[LayerCall, ...]
    channels_first: bool


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
    graph_def, state = nnx.split(mark(model))

    def forward(state: Any, images: Any) -> Any:
        def one(image: Any) -> Any:
            call: Any = nnx.merge(graph_def, state)
            return call(image[None])[0]

        return jax.vmap(one)(images)

    size = jax.export.symbolic_shape(BATCH)[0] if batch is None else batch
    images = jax.ShapeDtypeStruct((size, *image), jnp.float32)
    traced = jax.make_jaxpr(forward)(state, images)
    graph = Graph()
    variables = [Value.known(np.asarray(v), name) for name, v in _named(state)]
    x = _input(graph, images.shape, channels_first)
    walker = Walker(graph, dialect, known)
    (logits,) = walker.run(traced.jaxpr, traced.consts, [*variables, x])
    if channels_first:
        logits = graph.transpose(
            logits, [0, len(logits.shape) - 1, *range(1, len(logits.shape) - 1)]
        )
    graph.node("Identity", [graph.name_of(logits)], [(logits.dtype, logits.shape)])
    made = _model(graph, dialect, logits, dict(metadata or {}))
    onnx.checker.check_model(made, full_check=True)
    return Written(made, tuple(walker.calls), channels_first)


def _input(graph: Graph, shape: tuple, channels_first: bool) -> Value:
    """The images as the model takes them."""
    dtype = np.dtype(np.float32)
    file_shape = (shape[0], shape[-1], *shape[1:-1]) if channels_first else shape
    name = graph.fresh("images")
    graph.types[name] = (1, file_shape)
    if not isinstance(shape[0], int):
        graph.batch = (name, shape[0])
    value = Value(file_shape, dtype, file_shape, None, name)
    return graph.transpose(value, [0, *range(2, len(shape)), 1]) if channels_first else value


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


def _model(graph: Graph, dialect: Dialect, logits: Value, metadata: dict) -> onnx.ModelProto:
    nodes, used = _needed(graph.nodes)
    last = nodes[-1].output[0]
    nodes[-1].output[0] = "logits"
    types = {name: kind for name, kind in graph.types.items() if name in used}
    made = helper.make_graph(
        nodes,
        "fp4jax",
        [value_info("images", *graph.types["images"])],
        [value_info("logits", *graph.types[last])],
        [tensor for tensor in graph.initializers if tensor.name in used],
        value_info=[
            value_info(name, *kind) for name, kind in types.items() if name not in ("images", last)
        ],
    )
    opsets = [helper.make_opsetid("", dialect.opset)]
    functions = list(graph.functions.values())
    opsets += [helper.make_opsetid(f.domain, 1) for f in functions]
    model = helper.make_model(
        made, opset_imports=opsets, functions=functions, producer_name="fp4jax"
    )
    model.ir_version = _IR_VERSION
    helper.set_model_props(model, metadata)
    return model


def _needed(nodes: list[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that the last one depends on, and the names that they use."""
    used, kept = set(nodes[-1].output), []
    for node in reversed(nodes):
        if used & set(node.output):
            kept.append(node)
            used |= {*node.input, *node.output}
    return kept[::-1], used
