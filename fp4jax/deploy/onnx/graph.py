"""Graph: nodes, initializers and the types of what lies between them, while they are written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.values import Shape, Value, for_reshape, is_static
from fp4jax.extras import Extra

with Extra("deploy"):
    import onnx
    from onnx import TensorProto, helper

#: What a symbolic batch is called in a file.
BATCH = "batch"
#: Constants of no more bytes than this are written once, however often they are used.
_SHARED_BYTES = 1 << 16


class Graph:
    """A graph that grows.

    Values are :class:`~fp4jax.deploy.onnx.values.Value`; where a name is wanted,
    :meth:`name_of` makes an initializer of a constant and expands what is held small.

    Attributes:
        nodes, initializers, functions: what the file gets.
        types: of names, (element type, shape), for value_info.
        batch: the input whose first size is the batch's, of a batch of any size.
        scope: prefix of new names.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.types: dict[str, tuple[int, Shape]] = {}
        self.batch: tuple[str, Any] | None = None
        self.scope = ""
        self._names: set[str] = set()
        self._shared: dict[Any, str] = {}
        self._expanded: dict[Any, str] = {}

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        name, n = hint, 1
        while name in self._names:
            name, n = f"{hint}_{n}", n + 1
        self._names.add(name)
        return name

    def initializer(self, tensor: onnx.TensorProto) -> str:
        """Adds a tensor under its own, new name."""
        tensor.name = self.fresh(tensor.name)
        self.initializers.append(tensor)
        return tensor.name

    def constant(self, array: Any, hint: str = "", *, shared: bool = True) -> str:
        """An initializer of an array of a dtype that NumPy has; equal small ones are shared."""
        array = np.asarray(array, order="C")
        small = shared and array.nbytes <= _SHARED_BYTES
        key = (array.dtype, array.shape, array.tobytes()) if small else None
        if key is None or key not in self._shared:
            tensor = onnx.numpy_helper.from_array(array, hint or "constant")
            name = self.initializer(tensor)
            if key is None:
                return name
            self._shared[key] = name
        return self._shared[key]

    def raw(self, name: str, kind: int, shape: Shape, data: bytes) -> str:
        """An initializer of a type that NumPy lacks, from its bytes."""
        tensor = TensorProto(name=name, data_type=kind, dims=shape, raw_data=data)
        key = (kind, tuple(shape), data) if not shape else None
        if key is None or key not in self._shared:
            name = self.initializer(tensor)
            if key is None:
                return name
            self._shared[key] = name
        return self._shared[key]

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[tuple[Any, Shape]] = (),
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Adds a node and returns the names of its outputs, given their types and shapes."""
        names = []
        for kind_of, shape in outputs:
            name = self.fresh(f"{self.scope}{kind}")
            self.types[name] = (element_type(kind_of), shape)
            names.append(name)
        made = helper.make_node(
            kind, list(inputs), names, name=names[0], domain=domain, **attributes
        )
        self.nodes.append(made)
        return names

    def emit(
        self, kind: str, inputs: Sequence[Value | str], dtype: Any, shape: Shape, **attributes: Any
    ) -> Value:
        """A node of one output, as a value of that shape."""
        names = [self.name_of(x) if isinstance(x, Value) else x for x in inputs]
        (name,) = self.node(kind, names, [(dtype, shape)], **attributes)
        return Value(tuple(shape), np.dtype(dtype), tuple(shape), None, name)

    def name_of(self, value: Value, *, small: bool = False) -> str:
        """The name of a value in its whole shape; with ``small`` as it is held."""
        if value.array is not None:
            large = value.is_small and not small and is_static(value.shape)
            array = value.whole() if large and _is_light(value) else value.array
            name = self.constant(array, value.name)
            if array.shape == value.shape or small:
                return name
        else:
            name = value.name
        return name if small or not value.is_small else self._expand(name, value)

    def sizes(self, shape: Shape) -> str:
        """A shape as a tensor of int64, for operators that take it whole."""
        if is_static(shape):
            return self.constant(np.array(shape, np.int64), "sizes")
        assert self.batch is not None
        name, symbol = self.batch
        (batch,) = self.node("Shape", [name], [(np.int64, (1,))], start=0, end=1)
        parts = []
        for n in shape:
            if isinstance(n, int | np.integer):
                parts.append(self.constant(np.array([n], np.int64), "size"))
                continue
            if (n // symbol) * symbol != n or not isinstance(times := int(n // symbol), int):
                raise ValueError(f"a size of {n} is no multiple of the batch; fix the batch.")
            factor = self.constant(np.array([times], np.int64), "times")
            parts += self.node("Mul", [batch, factor], [(np.int64, (1,))])
        return self.node("Concat", parts, [(np.int64, (len(shape),))], axis=0)[0]

    def reshape(self, value: Value, shape: Shape) -> Value:
        """A whole value in another shape."""
        if value.array is not None and is_static(shape):
            return Value.known(value.whole().reshape([int(n) for n in shape]), value.name)
        if tuple(shape) == value.shape and not value.is_small:
            return value
        target = self.constant(np.array(for_reshape(shape), np.int64), "shape")
        return self.emit("Reshape", [value, target], value.dtype, tuple(shape))

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """A value with its axes in another order."""
        order = [int(a) for a in order]
        shape = tuple(value.shape[a] for a in order)
        if order == list(range(len(order))):
            return value
        if value.array is not None:
            held = value.array.transpose(order)
            return Value.known(held, value.name, shape)
        return self.emit("Transpose", [value], value.dtype, shape, perm=order)

    def _expand(self, name: str, value: Value) -> str:
        key = (name, value.shape)
        if key not in self._expanded:
            sizes = self.sizes(value.shape)
            made = self.node("Expand", [name, sizes], [(value.dtype, value.shape)])
            self._expanded[key] = made[0]
        return self._expanded[key]


def _is_light(value: Value) -> bool:
    """Whether a constant may be written as large as it is."""
    whole = int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize
    return whole <= _SHARED_BYTES


def element_type(dtype: Any) -> int:
    """ONNX's number of a NumPy dtype; a number as it is."""
    return dtype if isinstance(dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def value_info(name: str, dtype: Any, shape: Shape) -> onnx.ValueInfoProto:
    """Type and shape of a name; sizes that depend on the batch are named, if they are its own."""
    sizes: list[Any] = []
    for n in shape:
        static = isinstance(n, int | np.integer)
        sizes.append(int(n) if static else (BATCH if str(n) == BATCH else None))
    return helper.make_tensor_value_info(name, element_type(dtype), sizes)


__all__ = ["BATCH", "Graph", "TensorProto", "element_type", "value_info"]
