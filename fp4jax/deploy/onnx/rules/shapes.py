"""Primitives that move numbers and compute none."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.values import Value, is_static
from fp4jax.deploy.onnx.walker import UnsupportedError, Walker, rule


@rule("reshape", "squeeze", "expand_dims")
def _reshape(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    if equation.primitive.name == "reshape" and equation.params.get("dimensions"):
        raise UnsupportedError("it orders the dimensions, which lax has given up")
    return [walker.graph.reshape(inputs[0], equation.outvars[0].aval.shape)]


@rule("transpose")
def _transpose(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    return [walker.graph.transpose(_whole(walker, inputs[0]), equation.params["permutation"])]


@rule("broadcast_in_dim", constants=True)
def _broadcast(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Only its axes: sizes of 1 stay as they are, and the value is held small."""
    shape, x = equation.outvars[0].aval.shape, inputs[0]
    held: list[Any] = [1] * len(shape)
    for axis, n in zip(equation.params["broadcast_dimensions"], x.held, strict=True):
        held[axis] = n
    if x.array is not None:
        return [Value.known(x.array.reshape([int(n) for n in held]), x.name, tuple(shape))]
    # As it is held, whatever that is.
    raw = Value(x.held, x.dtype, x.held, None, x.name)
    made = walker.graph.reshape(raw, tuple(held))
    return [Value(tuple(shape), x.dtype, tuple(held), None, made.name)]


@rule("concatenate")
def _concatenate(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, axis = equation.outvars[0].aval.shape, equation.params["dimension"]
    parts = [x for x in inputs if not _is_zero(x.shape[axis])]
    if len(parts) == 1:
        return parts
    return [walker.graph.emit("Concat", parts, inputs[0].dtype, shape, axis=axis)]


@rule("stack")
def _stack(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Concatenated along a new axis of size 1."""
    shape = tuple(equation.outvars[0].aval.shape)
    axis = equation.params["axis"]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [walker.graph.reshape(x, one) for x in inputs]
    return [walker.graph.emit("Concat", parts, inputs[0].dtype, shape, axis=int(axis))]


@rule("tile")
def _tile(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    (x,), shape = inputs, equation.outvars[0].aval.shape
    repeats = walker.graph.constant(np.array(equation.params["reps"], np.int64), "repeats")
    return [walker.graph.emit("Tile", [x, repeats], x.dtype, shape)]


@rule("split")
def _split(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    axis, (x,) = equation.params["axis"], inputs
    sizes = [int(n) for n in equation.params["sizes"]]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    rank = len(x.shape)
    return [
        sliced(
            walker,
            x,
            [end - n if a == axis else 0 for a in range(rank)],
            [end if a == axis else size for a, size in enumerate(x.shape)],
            [1] * rank,
        )
        for n, end in zip(sizes, ends, strict=True)
    ]


def _is_zero(n: Any) -> bool:
    return isinstance(n, int) and n == 0


@rule("slice")
def _slice(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    params, (x,) = equation.params, inputs
    steps = params["strides"] or (1,) * len(x.shape)
    return [sliced(walker, x, params["start_indices"], params["limit_indices"], steps)]


def sliced(
    walker: Walker, x: Value, starts: Sequence[Any], limits: Sequence[Any], steps: Sequence[int]
) -> Value:
    """x[start:limit:step] along each axis; whole axes are left alone."""
    rows = list(zip(x.shape, starts, limits, steps, strict=True))
    cut = [(i, *row[1:]) for i, row in enumerate(rows) if (0, row[0], 1) != row[1:]]
    if not cut:
        return x
    if not all(is_static(part) for part in cut):
        raise UnsupportedError("it cuts the batch, whose size is not known; fix the batch")
    shape = list(x.shape)
    for i, start, limit, step in cut:
        shape[i] = len(range(start, limit, step))
    columns = ([row[c] for row in cut] for c in (1, 2, 0, 3))
    names = [walker.graph.constant(np.array(c, np.int64), "slice") for c in columns]
    return walker.graph.emit("Slice", [x, *names], x.dtype, tuple(shape))


@rule("rev")
def _rev(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    axes, (x,) = equation.params["dimensions"], inputs
    columns = [[-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), list(axes), [-1] * len(axes)]
    names = [walker.graph.constant(np.array(c, np.int64), "slice") for c in columns]
    return [walker.graph.emit("Slice", [x, *names], x.dtype, x.shape)]


@rule("pad")
def _pad(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    x, value = inputs
    config = equation.params["padding_config"]
    if any(interior for _, _, interior in config):
        raise UnsupportedError("it puts padding between elements")
    return [padded(walker, x, [(int(low), int(high)) for low, high, _ in config], value)]


def padded(
    walker: Walker, x: Value, ends: Sequence[tuple[int, int]], value: Value | None = None
) -> Value:
    """Padding at both ends of each axis, 0 by default; what is negative is cut off."""
    if any(low < 0 or high < 0 for low, high in ends):
        starts = [max(0, -low) for low, _ in ends]
        limits = [n + min(0, high) for n, (_, high) in zip(x.shape, ends, strict=True)]
        x = sliced(walker, x, starts, limits, [1] * len(ends))
        ends = [(max(0, low), max(0, high)) for low, high in ends]
    if not any(low or high for low, high in ends):
        return x
    graph = walker.graph
    both = np.array([[low for low, _ in ends], [high for _, high in ends]], np.int64).ravel()
    fill = Value.known(np.zeros((), x.dtype)) if value is None else value
    shape = tuple(n + low + high for n, (low, high) in zip(x.shape, ends, strict=True))
    return graph.emit("Pad", [x, graph.constant(both, "pads"), graph.name_of(fill)], x.dtype, shape)


def _whole(walker: Walker, x: Value) -> Value:
    """A value that is held as large as it is; constants may stay small."""
    if x.array is not None or not x.is_small:
        return x
    return Value(x.shape, x.dtype, x.shape, None, walker.graph.name_of(x))
