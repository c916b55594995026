"""Reductions along axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.graph import element_type
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import Walker, rule

REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
}


@rule(*REDUCTIONS)
def _reduce(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    (x,), aval = inputs, equation.outvars[0].aval
    axes = walker.graph.constant(np.array(equation.params["axes"], np.int64), "axes")
    kind = REDUCTIONS[equation.primitive.name]
    return [walker.graph.emit(kind, [x, axes], x.dtype, aval.shape, keepdims=0)]


@rule("reduce_and", "reduce_or")
def _logical(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """The least, or the largest, of 0 and 1."""
    (x,), graph, shape = inputs, walker.graph, equation.outvars[0].aval.shape
    kind = "ReduceMin" if equation.primitive.name == "reduce_and" else "ReduceMax"
    axes = graph.constant(np.array(equation.params["axes"], np.int64), "axes")
    numbers = graph.emit("Cast", [x], np.int32, x.shape, to=element_type(np.int32))
    reduced = graph.emit(kind, [numbers, axes], np.int32, shape, keepdims=0)
    return [graph.emit("Cast", [reduced], np.bool_, shape, to=element_type(np.bool_))]


@rule("argmax", "argmin")
def _arg(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    (axis,), aval, graph = equation.params["axes"], equation.outvars[0].aval, walker.graph
    kind = "ArgMax" if equation.primitive.name == "argmax" else "ArgMin"
    index = graph.emit(kind, inputs, np.int64, aval.shape, axis=int(axis), keepdims=0)
    return [graph.emit("Cast", [index], aval.dtype, aval.shape, to=element_type(aval.dtype))]


@rule("cumsum")
def _cumsum(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    (x,), graph = inputs, walker.graph
    axis = graph.constant(np.array(equation.params["axis"], np.int64), "axis")
    reverse = int(equation.params["reverse"])
    return [graph.emit("CumSum", [x, axis], x.dtype, x.shape, reverse=reverse)]
