"""Programs within programs, which are written in place."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import UnsupportedError, Walker, rule

#: Steps of a ``lax.scan`` that are written one after the other, at most.
LONGEST_SCAN = 256


@rule("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2", constants=True)
def _call(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return _run(walker, equation.params["jaxpr"], inputs)


@rule("custom_jvp_call", "custom_vjp_call", constants=True)
def _custom(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return _run(walker, equation.params["call_jaxpr"], inputs)


@rule("custom_vmap_call", constants=True)
def _mapped(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return _run(walker, equation.params["call"], inputs)


@rule("platform_index", constants=True)
def _platform(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """The way of no platform in particular: a file knows none."""
    platforms = equation.params["platforms"]
    return [Value.known(np.int32(platforms.index(None)))]


@rule("cond", constants=True)
def _cond(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    which, *operands = inputs
    if which.array is None:
        raise UnsupportedError("the model computes which branch it takes")
    branches = equation.params["branches"]
    return _run(walker, branches[min(max(int(which.array), 0), len(branches) - 1)], operands)


@rule("scan", constants=True)
def _scan(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Step by step; what steps stack is concatenated."""
    params, graph = equation.params, walker.graph
    consts, carries = _consts_and_carries(params)
    if params["length"] > LONGEST_SCAN:
        raise UnsupportedError(f"it has {params['length']} steps; {LONGEST_SCAN} can be written")
    fixed, carry, stacked = (
        inputs[:consts],
        list(inputs[consts : consts + carries]),
        inputs[consts + carries :],
    )
    steps = range(params["length"])
    found: dict[int, list[Value]] = {}
    for i in reversed(steps) if params["reverse"] else steps:
        index = Value.known(np.array(i, np.int64))
        parts = [
            Value.known(x.whole()[i])
            if x.array is not None
            else graph.emit("Gather", [x, index], x.dtype, x.shape[1:], axis=0)
            for x in stacked
        ]
        results = _run(walker, params["jaxpr"], [*fixed, *carry, *parts])
        carry, found[i] = list(results[:carries]), list(results[carries:])
    outputs = []
    for n, variable in enumerate(equation.outvars[carries:]):
        rows = [graph.reshape(found[i][n], (1, *found[i][n].shape)) for i in steps]
        shape = variable.aval.shape
        outputs.append(graph.emit("Concat", rows, variable.aval.dtype, shape, axis=0))
    return [*carry, *outputs]


def _consts_and_carries(params: Any) -> tuple[int, int]:
    """How many inputs of a ``scan`` are equal in each step, and how many go from step to step."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carries, _ = params["ft_in"].unpack()  # JAX 0.12
    return len(consts), len(carries)


def _run(walker: Walker, program: Any, inputs: Sequence[Value]) -> list[Value]:
    # Closed over its constants, or not.
    if hasattr(program, "jaxpr"):
        return walker.run(program.jaxpr, program.consts, inputs)
    return walker.run(program, (), inputs)
