"""Matrix products of any dimension numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.graph import element_type
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import Walker, rule


@rule("dot_general")
def _dot_general(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """(*batch, m, k) x (*batch, k, n), several dimensions of a kind flattened to one."""
    lhs, rhs = inputs
    aval = equation.outvars[0].aval
    (l_in, r_in), (l_batch, r_batch) = equation.params["dimension_numbers"]
    l_out = [a for a in range(len(lhs.shape)) if a not in (*l_in, *l_batch)]
    r_out = [a for a in range(len(rhs.shape)) if a not in (*r_in, *r_batch)]
    batch = tuple(lhs.shape[a] for a in l_batch)
    m, n, k = (
        math.prod(x.shape[a] for a in axes) for x, axes in ((lhs, l_out), (rhs, r_out), (rhs, r_in))
    )
    graph = walker.graph
    a, b = (_as_float(walker, x, aval.dtype) for x in (lhs, rhs))
    a = graph.reshape(graph.transpose(a, [*l_batch, *l_out, *l_in]), (*batch, m, k))
    b = graph.reshape(graph.transpose(b, [*r_batch, *r_in, *r_out]), (*batch, k, n))
    y = graph.emit("MatMul", [a, b], aval.dtype, (*batch, m, n))
    return [graph.reshape(y, aval.shape)]


def _as_float(walker: Walker, x: Value, dtype: Any) -> Value:
    """An operand in the dtype of the result, whole."""
    if x.array is not None:
        return Value.known(x.array.astype(dtype), x.name, x.shape)
    graph = walker.graph
    x = Value(x.shape, x.dtype, x.shape, None, graph.name_of(x))
    if x.dtype == np.dtype(dtype):
        return x
    return graph.emit("Cast", [x], dtype, x.shape, to=element_type(dtype))
