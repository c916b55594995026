"""Three dialects of ONNX for FP4: which operators say what a 4-bit operand is."""

import abc
import dataclasses
from collections.abc import Mapping

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.onnx.arithmetic import Array, from_e4m3
from fp4jax.deploy.onnx.graph import Graph, TensorProto
from fp4jax.deploy.onnx.quantizing import dequantized, quantized
from fp4jax.deploy.onnx.trt_function import DOMAIN, OPERATOR, dynamic_quantize
from fp4jax.deploy.onnx.values import Value, is_static
from fp4jax.deploy.onnx.walker import UnsupportedError
from fp4jax.deploy.onnx.weights import GRID, Matrix


@dataclasses.dataclass(frozen=True)
class Dialect(abc.ABC):
    """How 4-bit operands are written.

    Attributes:
        name: of the target.
        opset: of the file; float4 needs 23.
        static: whether activations need a tensor scale that is known.
        runs_in_onnxruntime: whether onnxruntime's CPU kernels run it.
        in_words: how a matrix product, and a convolution, of packed weights runs.
    """

    name: str
    opset: int
    static: bool
    runs_in_onnxruntime: bool
    in_words: Mapping[str, str]

    @abc.abstractmethod
    def weight(self, graph: Graph, path: str, matrix: Matrix) -> Value:
        """The matrix as float32 (rows, columns)."""

    @abc.abstractmethod
    def activation(
        self, x: Array, spec: TensorSpec, amax: np.float32 | None, *, product: str
    ) -> Array:
        """x (b, m, k) quantized and dequantized, for a "dot" or a "conv"."""


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

    def activation(
        self, x: Array, spec: TensorSpec, amax: np.float32 | None, *, product: str
    ) -> Array:
        return dequantized(quantized(x, spec, amax), spec, x.shape)


class Standard(Dialect):
    """4-bit floats and block-wise DequantizeLinear, of opset 23."""

    def weight(self, graph: Graph, path: str, matrix: Matrix) -> Value:
        codes = graph.raw(
            f"{path}_f4", TensorProto.FLOAT4E2M1, matrix.shape, matrix.codes.tobytes()
        )
        return decoded(graph, codes, _scales(graph, path, matrix).value, matrix.shape)

    def activation(
        self, x: Array, spec: TensorSpec, amax: np.float32 | None, *, product: str
    ) -> Array:
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

    TensorRT multiplies FP4 matrices, but has no FP4 convolutions: a convolution's activations are
    rounded by standard operators, and it runs in float with weights on the FP4 grid.
    """

    def activation(
        self, x: Array, spec: TensorSpec, amax: np.float32 | None, *, product: str
    ) -> Array:
        if product == "conv":
            return dequantized(quantized(x, spec, amax), spec, x.shape)
        if spec.scaling != "amax":
            raise UnsupportedError(
                f"TensorRT's quantizer has no scaling={spec.scaling!r} of activations; export the "
                "model with --recipe forward_only, or to onnx-standard"
            )
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


_GRID = "weights on the FP4 grid"
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
            },
        ),
        Standard(
            "onnx-standard",
            opset=23,
            static=False,
            runs_in_onnxruntime=False,
            in_words={"dot": "product of float4", "conv": "convolution of float4"},
        ),
        TensorRT(
            "onnx-trt",
            opset=23,
            static=True,
            runs_in_onnxruntime=False,
            in_words={
                "dot": "FP4 product",
                "conv": f"float convolution, {_GRID}",
            },
        ),
    )
}
