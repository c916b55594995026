"""A function of arrays as an ONNX model, run by the reference evaluator."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from onnx.reference import ReferenceEvaluator

from fp4jax.deploy.onnx import rules as rules
from fp4jax.deploy.onnx.assembling import add_input, assemble
from fp4jax.deploy.onnx.graph import Graph
from fp4jax.deploy.onnx.walker import Walker


def written(function: Any, *arrays: Any, opset: int = 21) -> Any:
    """The model of a function of these arrays, with inputs x0, x1 and outputs y0, y1."""
    traced = jax.make_jaxpr(function)(*arrays)
    graph = Graph()
    inputs = [add_input(graph, f"x{i}", a.dtype, a.shape) for i, a in enumerate(arrays)]
    outputs = Walker(graph).run(traced.jaxpr, traced.consts, inputs)
    named = {f"y{i}": y for i, y in enumerate(outputs)}
    return assemble(graph, inputs, named, opset=opset)


def run(function: Any, *arrays: Any) -> list[np.ndarray]:
    """What the model of a function makes of these arrays."""
    model = written(function, *arrays)
    feeds = {f"x{i}": np.asarray(a) for i, a in enumerate(arrays)}
    return ReferenceEvaluator(model).run(None, feeds)


def agrees(function: Any, *arrays: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """A function's model computes what the function computes, in its dtypes."""
    ours = jax.tree.leaves(function(*map(jnp.asarray, arrays)))
    theirs = run(function, *arrays)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol)
