"""Arithmetic: formulas of float32 arrays as Python expressions that grow a graph."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from fp4jax.deploy.onnx.graph import Graph, TensorProto
from fp4jax.deploy.onnx.values import Shape, Value

Number = Union["Array", float, np.floating]


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """A float32 value of a graph; numbers are scalars, and sizes of 1 are broadcast."""

    graph: Graph
    value: Value

    @property
    def shape(self) -> Shape:
        return self.value.shape

    def __mul__(self, other: Number) -> "Array":
        return self._with("Mul", other)

    def __add__(self, other: Number) -> "Array":
        return self._with("Add", other)

    def __sub__(self, other: Number) -> "Array":
        return self._with("Sub", other)

    def __truediv__(self, other: Number) -> "Array":
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> "Array":
        return self._of(other)._with("Div", self)

    def minimum(self, other: Number) -> "Array":
        """The smaller of both; NaN stays NaN."""
        return self._with("Min", other)

    def absolute(self) -> "Array":
        return self._alone("Abs")

    def sign(self) -> "Array":
        return self._alone("Sign")

    def round(self) -> "Array":
        """To the nearest integer, ties to even."""
        return self._alone("Round")

    def less(self, other: Number) -> Value:
        """Where this is less, as booleans."""
        other = self._of(other)
        shape = _broadcast(self.shape, other.shape)
        return self.graph.emit("Less", [self.value, other.value], np.bool_, shape)

    def equal(self, other: Number) -> Value:
        """Where both are equal, as booleans."""
        other = self._of(other)
        shape = _broadcast(self.shape, other.shape)
        return self.graph.emit("Equal", [self.value, other.value], np.bool_, shape)

    def where(self, condition: Value, otherwise: Number) -> "Array":
        """This where the condition holds, and the other elsewhere."""
        other = self._of(otherwise)
        shape = _broadcast(condition.shape, self.shape, other.shape)
        inputs = [condition, self.value, other.value]
        return Array(self.graph, self.graph.emit("Where", inputs, np.float32, shape))

    def largest(self, axes: Sequence[int]) -> "Array":
        """The maximum along axes, which stay with size 1."""
        count = len(self.shape)
        axes = [a % count for a in axes]
        shape = tuple(1 if a in axes else n for a, n in enumerate(self.shape))
        which = self.graph.constant(np.array(axes, np.int64), "axes")
        value = self.graph.emit("ReduceMax", [self.value, which], np.float32, shape, keepdims=1)
        return Array(self.graph, value)

    def column(self, i: int) -> "Array":
        """Place i of the last axis, which stays with size 1."""
        numbers = [[i], [i + 1], [len(self.shape) - 1]]
        names = [self.graph.constant(np.array(c, np.int64), "slice") for c in numbers]
        shape = (*self.shape[:-1], 1)
        return Array(self.graph, self.graph.emit("Slice", [self.value, *names], np.float32, shape))

    def reshape(self, shape: Shape) -> "Array":
        return Array(self.graph, self.graph.reshape(self.value, shape))

    def to_e4m3(self) -> Value:
        """The nearest E4M3 numbers, of numbers of at most 448, as 8-bit floats."""
        return _cast_8(self.graph, self.value)

    def rounded_to_e4m3(self, *, in_steps: bool = False) -> "Array":
        """The same as float32, in the grid's steps if a runtime's 8-bit floats are not exact."""
        return _in_steps(self) if in_steps else from_e4m3(self.graph, self.to_e4m3())

    def at(self, table: np.ndarray) -> "Array":
        """table[self], of whole numbers."""
        index = self.graph.emit(
            "Cast", [self.value], np.int32, self.shape, to=int(TensorProto.INT32)
        )
        name = self.graph.constant(table.astype(np.float32), "table")
        value = self.graph.emit("Gather", [name, index], np.float32, self.shape, axis=0)
        return Array(self.graph, value)

    def _with(self, kind: str, other: Number) -> "Array":
        other = self._of(other)
        shape = _broadcast(self.shape, other.shape)
        inputs = [self.value, other.value]
        return Array(self.graph, self.graph.emit(kind, inputs, np.float32, shape))

    def _alone(self, kind: str) -> "Array":
        return Array(self.graph, self.graph.emit(kind, [self.value], np.float32, self.shape))

    def _of(self, other: Number) -> "Array":
        if isinstance(other, Array):
            return other
        return Array(self.graph, Value.known(np.float32(other)))


def _cast_8(graph: Graph, value: Value) -> Value:
    """By QuantizeLinear with a scale of 1: TensorRT casts to 8 bits in no other way."""
    one = graph.constant(np.float32(1), "one")
    zero = zero_e4m3(graph)
    (name,) = graph.node(
        "QuantizeLinear",
        [graph.name_of(value), one, zero],
        [(int(TensorProto.FLOAT8E4M3FN), value.shape)],
    )
    return Value(value.shape, np.dtype(np.float32), value.shape, None, name)


# From here on, up to the next of them, E4M3's neighbours are twice as far apart.
_POWERS = np.exp2(np.arange(-5, 9)).astype(np.float32)


def _in_steps(x: Array) -> Array:
    """Rounded to multiples of E4M3's step, 1/512 below 1/32 and twice as large from each power on.

    All factors are powers of two, hence exact.
    """
    graph, shape = x.graph, x.shape
    powers = graph.constant(_POWERS, "powers")
    each = (*shape, len(_POWERS))
    wide = x.reshape((*shape, 1)).value
    reached = graph.emit("GreaterOrEqual", [wide, powers], np.bool_, each)
    ones = graph.emit("Cast", [reached], np.float32, each, to=int(TensorProto.FLOAT))
    axes = graph.constant(np.array([len(shape)], np.int64), "axes")
    count = Array(graph, graph.emit("ReduceSum", [ones, axes], np.float32, shape, keepdims=0))
    exponents = np.arange(len(_POWERS) + 1) - 9
    return (x * count.at(np.exp2(-exponents))).round() * count.at(np.exp2(exponents))


def from_e4m3(graph: Graph, value: Value, scale: Any = None) -> Array:
    """8-bit floats times a scalar (1) as float32."""
    factor = graph.constant(np.float32(1), "one") if scale is None else scale
    return Array(
        graph, graph.emit("DequantizeLinear", [value.name, factor], np.float32, value.shape)
    )


def zero_e4m3(graph: Graph) -> str:
    """0 as an 8-bit float, which tells QuantizeLinear its type."""
    return graph.raw("zero_e4m3", TensorProto.FLOAT8E4M3FN, (), b"\0")


def _broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    one = lambda n: isinstance(n, int | np.integer) and n == 1  # noqa: E731
    return tuple(next((n for n in sizes if not one(n)), 1) for sizes in zip(*full, strict=True))
