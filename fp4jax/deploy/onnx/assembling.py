"""A graph as an ONNX model: what its outputs need, with types of everything, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.graph import Graph, value_info
from fp4jax.deploy.onnx.values import Shape, Value
from fp4jax.extras import Extra
from fp4jax.version import __version__

with Extra("deploy"):
    import onnx
    from onnx import helper

#: The oldest IR with 4-bit floats.
IR_VERSION = 11


def add_input(graph: Graph, name: str, dtype: Any, shape: Shape) -> Value:
    """A value that whoever runs the model gives."""
    name = graph.fresh(name)
    graph.types[name] = (helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
    if shape and not isinstance(shape[0], int):
        graph.batch = (name, shape[0])
    return Value(tuple(shape), np.dtype(dtype), tuple(shape), None, name)


def assemble(
    graph: Graph,
    inputs: Sequence[Value],
    outputs: Mapping[str, Value],
    *,
    opset: int,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The model of a graph's inputs and outputs.

    Args:
        graph: is not used any more afterwards.
        inputs: of :func:`add_input`.
        outputs: by the names that they get.
        opset: of ONNX's own operators.
        metadata: text, by name.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: a mistake of a rule.
    """
    for name, value in outputs.items():
        node = helper.make_node("Identity", [graph.name_of(value)], [graph.fresh(name)])
        graph.nodes.append(node)
    nodes, used = _needed(graph.nodes, set(outputs))
    ends = {value.name for value in inputs} | set(outputs)
    made = helper.make_graph(
        nodes,
        "fp4jax",
        [value_info(value.name, *graph.types[value.name]) for value in inputs],
        [value_info(name, value.dtype, value.shape) for name, value in outputs.items()],
        [tensor for tensor in graph.initializers if tensor.name in used],
        value_info=[
            value_info(name, *kind)
            for name, kind in graph.types.items()
            if name in used and name not in ends
        ],
    )
    functions = list(graph.functions.values())
    domains = {"": opset, **{function.domain: 1 for function in functions}}
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid(*known) for known in domains.items()],
        functions=functions,
        producer_name="fp4jax",
        producer_version=__version__,
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(
    nodes: Sequence[onnx.NodeProto], wanted: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that lead to what is wanted, and all names that they use."""
    used, kept = set(wanted), []
    for node in reversed(nodes):
        if used & set(node.output):
            kept.append(node)
            used |= {*node.input, *node.output}
    return kept[::-1], used
