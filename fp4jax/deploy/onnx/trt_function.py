"""trt::TRT_FP4DynamicQuantize as a function of the file.

TensorRT has an operator of that name and takes it; every other runtime runs the function.
Source: Model-Optimizer's ONNX export, and the operator's page in TensorRT's documentation.
"""

import functools

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.onnx.arithmetic import Array
from fp4jax.deploy.onnx.graph import Graph, TensorProto
from fp4jax.deploy.onnx.quantizing import quantized
from fp4jax.deploy.onnx.values import Value
from fp4jax.extras import Extra

with Extra("deploy"):
    import onnx
    from onnx import helper

DOMAIN, OPERATOR = "trt", "TRT_FP4DynamicQuantize"


@functools.cache
def dynamic_quantize(opset: int) -> onnx.FunctionProto:
    """(x (b, m, k), scale ()) -> codes (b, m, k) and E4M3 block scales (b, m, k / 16).

    ``scale`` is amax / 2688. Blocks of 16 lie along the last axis; the attributes only say what is
    so in any case.
    """
    graph, spec = Graph(), TensorSpec()
    # Sizes of an operand that is not known; Reshape copies those called 0.
    shape = (0, 0, -1)
    x = Array(graph, Value(shape, np.dtype(np.float32), shape, None, "x"))
    scale = Array(graph, Value((), np.dtype(np.float32), (), None, "scale"))
    q = quantized(x, spec, scale * np.float32(spec.bound))
    codes = q.values.reshape(shape)
    graph.nodes.append(
        helper.make_node(
            "Cast", [graph.name_of(codes.value)], ["codes"], to=int(TensorProto.FLOAT4E2M1)
        )
    )
    axes = graph.constant(np.array([-1], np.int64), "axes")
    graph.nodes.append(
        helper.make_node("Squeeze", [q.scales.to_e4m3().name, axes], ["block_scales"])
    )
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializers
    ]
    return helper.make_function(
        DOMAIN,
        OPERATOR,
        ["x", "scale"],
        ["codes", "block_scales"],
        [*constants, *graph.nodes],
        [helper.make_opsetid("", opset)],
        ["axis", "block_size", "scale_type"],
        doc_string=f"NVFP4: blocks of {BLOCK} along the last axis, scale = amax / 2688.",
    )
