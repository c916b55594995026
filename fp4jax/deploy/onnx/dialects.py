"""Three dialects of ONNX for FP4: which operators say what a 4-bit operand is."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.onnx.arithmetic import Array, from_e4m3
from fp4jax.deploy.onnx.graph import Graph, TensorProto
from fp4jax.deploy.onnx.quantizing import dequantized, quantized
from fp4jax.deploy.onnx.trt_function import DOMAIN, OPERATOR, dynamic_quantize
from fp4jax.deploy.onnx.values import Value, is_static
from fp4jax.deploy.onnx.weights import GRID, Matrix

Product = Literal["dot", "conv"]
#: How a product is written: of 4-bit operands, a matrix product or a convolution; in a 16-bit type
#: of x as it is; or of values that standard operators round, as in attention.
Form = Literal["dot", "conv", "half", "values"]


@dataclasses.dataclass(frozen=True)
class Dialect(abc.ABC):
    """How 4-bit operands are written.

    Attributes:
        name: of the target.
        opset: of the file; float4 needs 23.
        static: whether activations need a tensor scale that is known.
        runs_in_onnxruntime: whether onnxruntime's CPU kernels run it.
        in_words: how a product of each form runs.
        half: the type of products in 16 bits, or "float32" for none.
    """

    name: str
    opset: int
    static: bool
    runs_in_onnxruntime: bool
    in_words: Mapping[str, str]
    half: str = "float32"

    def form(self, product: Product, spec: TensorSpec | None) -> Form:
        """How a product of packed weights is written.

        Args:
            product: "dot" for a matrix product, "conv" for a convolution.
            spec: of x.
        """
        del spec
        return product

    def with_half(self, half: str) -> "Dialect":
        """With another 16-bit type, if there are such products."""
        return self if self.half == "float32" else dataclasses.replace(self, half=half)

    @abc.abstractmethod
    def weight(self, graph: Graph, path: str, matrix: Matrix) -> Value:
        """The matrix as float32 (rows, columns)."""

    @abc.abstractmethod
    def activation(self, x: Array, spec: TensorSpec, amax: np.float32 | None, form: Form) -> Array:
        """x (b, m, k) quantized and dequantized, for a product of a form."""


class Portable(Dialect):
    """4-bit integers, and a table of the 16 values: runs wherever ONNX does."""

    def weight(self, graph: Graph, path: str, matrix: Matrix) -> Value:
        rows, columns = matrix.shape
        codes = graph.raw(f"{path}_codes", TensorProto.UINT4, matrix.shape, matrix.codes.tobytes())
        index = graph.emit("Cast", [codes], np.int32, matrix.shape, to=int(TensorProto.INT32))
        table = graph.constant(GRID, "e2m1")
        values = graph.emit("Gather", [table, index], np.float32, matrix.shape, axis=0)
        scales = _scales(graph, path, matrix)
        blocks = (rows, columns // BLOCK, BLOCK)
        scaled = Array(graph, graph.reshape(values, blocks)) * scales.reshape((*blocks[:2], 1))
        return scaled.reshape((rows, columns)).value

    def activation(self, x: Array, spec: TensorSpec, amax: np.float32 | None, form: Form) -> Array:
        return dequantized(quantized(x, spec, amax), spec, x.shape)


class Standard(Dialect):
    """4-bit floats and block-wise DequantizeLinear, of opset 23."""

    def weight(self, graph: Graph, path: str, matrix: Matrix) -> Value:
        codes = graph.raw(
            f"{path}_f4", TensorProto.FLOAT4E2M1, matrix.shape, matrix.codes.tobytes()
        )
        return decoded(graph, codes, _scales(graph, path, matrix).value, matrix.shape)

    def activation(self, x: Array, spec: TensorSpec, amax: np.float32 | None, form: Form) -> Array:
        # OpenVINO rounds to 8-bit floats by way of 16 bits, which is another number at times.
        q = quantized(x, spec, amax, in_steps=True)
        four = _to_f4(q.values.reshape(x.shape))
        scale = q.scales * (q.amax / np.float32(spec.bound))
        if not is_static(x.shape):
            # OpenVINO has no block-wise DequantizeLinear of operands of unknown size.
            values = x.graph.emit("Cast", [four], np.float32, x.shape, to=int(TensorProto.FLOAT))
            return (Array(x.graph, values).reshape(q.values.shape) * scale).reshape(x.shape)
        scale = scale.reshape((*x.shape[:-1], x.shape[-1] // BLOCK))
        return Array(x.graph, decoded(x.graph, four, scale.value, x.shape))


class TensorRT(Standard):
    """Model-Optimizer's nodes for TensorRT, whose quantizer is also a function of the file.

    TensorRT multiplies FP4 matrices, but has no FP4 convolutions, and its quantizer no four-over-
    six: such products run in 16 bits, of x as it is and weights on the FP4 grid. With "float32" for
    the 16-bit type they are the packed model's instead, whose x is rounded by standard operators.
    """

    def form(self, product: Product, spec: TensorSpec | None) -> Form:
        if product == "dot" and spec is not None and spec.scaling == "amax":
            return "dot"
        return "values" if self.half == "float32" else "half"

    def activation(self, x: Array, spec: TensorSpec, amax: np.float32 | None, form: Form) -> Array:
        if form != "dot":
            return dequantized(quantized(x, spec, amax), spec, x.shape)
        assert amax is not None
        graph, (b, m, k) = x.graph, x.shape
        scale = graph.constant(np.float32(amax) / np.float32(spec.bound), "input_scale")
        graph.functions.setdefault(OPERATOR, dynamic_quantize(self.opset))
        blocks = (b, m, k // BLOCK)
        four, eight = graph.node(
            OPERATOR,
            [graph.name_of(x.value), scale],
            [(int(TensorProto.FLOAT4E2M1), x.shape), (int(TensorProto.FLOAT8E4M3FN), blocks)],
            domain=DOMAIN,
            axis=-1,
            block_size=BLOCK,
            scale_type=int(TensorProto.FLOAT8E4M3FN),
        )
        scales = graph.emit("DequantizeLinear", [eight, scale], np.float32, blocks)
        return Array(graph, decoded(graph, four, scales, x.shape))


def _scales(graph: Graph, path: str, matrix: Matrix) -> Array:
    """Block scales times the tensor scale, (rows, columns / 16)."""
    name, shape = f"{path}_f8_scale", matrix.scales.shape
    eight = graph.raw(name, TensorProto.FLOAT8E4M3FN, shape, matrix.scales.tobytes())
    scale = graph.constant(matrix.tensor_scale, f"{name}_f32_scale", shared=False)
    value = Value(shape, np.dtype(np.float32), shape, None, eight)
    return from_e4m3(graph, value, scale)


def _to_f4(values: Array) -> str:
    """Code values as 4-bit floats, without rounding."""
    four = int(TensorProto.FLOAT4E2M1)
    graph = values.graph
    return graph.node("Cast", [graph.name_of(values.value)], [(four, values.shape)], to=four)[0]


def decoded(graph: Graph, codes: str, scales: Value, shape: tuple) -> Value:
    """4-bit floats times the scales of their blocks, which lie along the last axis."""
    return graph.emit(
        "DequantizeLinear", [codes, scales], np.float32, shape, axis=-1, block_size=BLOCK
    )


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Portable(
            "onnx-portable",
            opset=21,
            static=False,
            runs_in_onnxruntime=True,
            in_words={
                "dot": "float32 product of FP4 values",
                "conv": "float32 convolution of FP4 values",
                "values": "float32 product of FP4 values",
            },
        ),
        Standard(
            "onnx-standard",
            opset=23,
            static=False,
            runs_in_onnxruntime=False,
            in_words={
                "dot": "product of float4",
                "conv": "convolution of float4",
                "values": "product of float4",
            },
        ),
        TensorRT(
            "onnx-trt",
            opset=23,
            static=True,
            runs_in_onnxruntime=False,
            in_words={
                "dot": "FP4 product",
                "half": "16 bits with FP4 weights",
                "values": "float32 with FP4 values",
            },
            half="bfloat16",
        ),
    )
}
