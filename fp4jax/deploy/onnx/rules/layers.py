"""Marked calls: packed layers as 4-bit operands and a product, operands of attention alone."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.hadamard import random_hadamard
from fp4jax.deploy.onnx.arithmetic import Array
from fp4jax.deploy.onnx.dialects import Form
from fp4jax.deploy.onnx.graph import element_type
from fp4jax.deploy.onnx.marked_attention import QuantizedOperand
from fp4jax.deploy.onnx.rules.convolutions import convolution, transposed_convolution
from fp4jax.deploy.onnx.rules.shapes import padded, sliced
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import LayerCall, UnsupportedError, Walker, rule
from fp4jax.deploy.onnx.weights import Matrix
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.dot import Dot
from fp4jax.packed.product import Product
from fp4jax.predict.packed_runs import PACK_STATIC


@rule("fp4_layer", constants=True)
def _layer(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    params, aval, graph = equation.params, equation.outvars[0].aval, walker.graph
    (x,), path, product = inputs, params["path"], params["product"]
    graph.scope = f"{path}/" if path else ""
    if params["examples"] > 1:
        raise UnsupportedError(f"layer {path!r} runs under jax.vmap of the model's own")
    name = graph.name_of(x)
    if not params["examples"]:
        x = graph.reshape(x, (1, *x.shape))
    x = _cast(walker, x, np.float32)
    y, form = LOWERED[type(product)](walker, path, product, x)
    y = _cast(walker, graph.reshape(y, aval.shape), aval.dtype)
    walker.calls.append(LayerCall(path, name, y.name, form))
    graph.scope = ""
    return [y]


def _dot(walker: Walker, path: str, product: Dot, x: Value) -> tuple[Value, Form]:
    """(b, m, k) x (k, n); with batch dimensions (b, batch, m, k) x (batch, k, n)."""
    graph, b = walker.graph, x.shape[0]
    m, k = product.rows_and_k
    x = graph.transpose(x, [0, *(a + 1 for a in product.order)])
    groups = math.prod(product.batch)
    x = graph.reshape(x, (b, groups * m, k))
    form = walker.dialect.form("dot", product.spec)
    x = _operand(walker, path, product, x, form)
    n = math.prod(product.shape) // max(1, groups * m)
    w = _matrix(walker, path, product, n, form)
    columns = x.shape[-1]
    if product.batch:
        x = graph.reshape(x, (b, groups, m, columns))
        w = graph.transpose(graph.reshape(w, (groups, n, columns)), [0, 2, 1])
        return graph.emit("MatMul", [x, w], x.dtype, (b, groups, m, n)), form
    w = graph.transpose(w, [1, 0])
    return graph.emit("MatMul", [x, w], x.dtype, (b, m, n)), form


def _convolution(walker: Walker, path: str, product: Convolution, x: Value) -> tuple[Value, Form]:
    """Channels last as trained: quantized along a pixel's channels, then channels first."""
    if set(product.input_dilation) != {1}:
        raise UnsupportedError(f"layer {path!r} has zeros between the pixels of its input")
    graph, window = walker.graph, product.window
    b, n, *image, _ = x.shape
    groups, c = window.groups, product.channels
    outputs = walker.layers[path].kernel_shape[-1] // product.window.groups
    taps = window.taps
    if window.is_matrix_product:
        form = walker.dialect.form("dot", product.spec)
        patches = _patches(walker, x, product)
        operand = _operand(walker, path, product, patches, form)
        w = graph.transpose(_matrix(walker, path, product, outputs, form), [1, 0])
        shape = (b, operand.shape[1], outputs)
        return graph.emit("MatMul", [operand, w], operand.dtype, shape), form
    form = walker.dialect.form("conv", product.spec)
    rows = graph.reshape(x, (b, n * math.prod(image) * groups, c))
    operand = _operand(walker, path, product, rows, form)
    w = _matrix(walker, path, product, outputs, form)
    w = graph.reshape(w, (groups * outputs, *taps, operand.shape[-1]))
    operand, w = (_cut(walker, a, product, c, form) for a in (operand, w))
    channels = groups * operand.shape[-1]
    pixels = _channels_first(walker, graph.reshape(operand, (b * n, *image, channels)))
    ends = list(zip(window.low, window.high, strict=True))
    w = _channels_first(walker, w)
    y = convolution(walker, pixels, w, window.stride, window.dilation, ends, groups)
    return _channels_last(walker, y), form


def _transposed(
    walker: Walker, path: str, product: TransposedConvolution, x: Value
) -> tuple[Value, Form]:
    graph, window = walker.graph, product.window
    b, n, *grid, c = x.shape
    form = walker.dialect.form("conv", product.spec)
    operand = _operand(walker, path, product, graph.reshape(x, (b, n * math.prod(grid), c)), form)
    w = _matrix(walker, path, product, product.outputs, form)
    w = graph.reshape(w, (*window.taps, product.outputs, operand.shape[-1]))
    operand, w = (_cut(walker, a, product, c, form) for a in (operand, w))
    pixels = _channels_first(walker, graph.reshape(operand, (b * n, *grid, operand.shape[-1])))
    last = len(w.shape) - 1
    # (*taps, o, i) -> (i, o, *taps)
    w = graph.transpose(w, [last, last - 1, *range(last - 1)])
    y = transposed_convolution(
        walker, pixels, w, window.stride, window.dilation, window.low, window.image
    )
    return _channels_last(walker, y), form


def _quantized(
    walker: Walker, path: str, product: QuantizedOperand, x: Value
) -> tuple[Value, Form]:
    """An operand of attention (b, *rows, k), quantized as the file runs."""
    del path
    graph, (b, *rows, k) = walker.graph, x.shape
    x = _blocks(walker, graph.reshape(x, (b, math.prod(rows), k)), rotate=product.spec.hadamard)
    amax = None if product.amax is None else np.float32(product.amax)
    y = walker.dialect.activation(Array(graph, x), product.spec, amax, "values")
    return y.value, "values"


#: How each kind of product is written.
LOWERED: dict[type, Any] = {
    QuantizedOperand: _quantized,
    Dot: _dot,
    Convolution: _convolution,
    TransposedConvolution: _transposed,
}


def _operand(walker: Walker, path: str, product: Product, x: Value, form: Form) -> Value:
    """x (b, m, k), k padded to whole blocks, rotated and quantized as the recipe says.

    In 16 bits it is padded alone.
    """
    x = _blocks(walker, x, rotate=product.hadamard and form != "half")
    if form == "half":
        return _cast(walker, x, jnp.dtype(walker.dialect.half))
    if (spec := product.spec) is None:
        return x
    amax = walker.layers[path].amax
    if walker.dialect.static and amax is None and form == "dot":
        raise UnsupportedError(
            f"layer {path!r} has no calibrated amax of its activations, which "
            f"{walker.dialect.name} needs: pack the run with its static scales ({PACK_STATIC}), "
            "which it has if it was trained with --calibrate max"
        )
    return walker.dialect.activation(Array(walker.graph, x), spec, amax, form).value


def _blocks(walker: Walker, x: Value, *, rotate: bool) -> Value:
    """x (b, m, k), k padded to whole blocks, and rotated."""
    x = padded(walker, x, [(0, 0), (0, 0), (0, -x.shape[-1] % BLOCK)])
    return _rotated(walker, x) if rotate else x


def _rotated(walker: Walker, x: Value, *, back: bool = False) -> Value:
    """Every 16 of the last axis times diag(signs) H16 / 4, or its inverse."""
    graph, (*rest, k) = walker.graph, x.shape
    blocks = graph.reshape(x, (*rest, k // BLOCK, BLOCK))
    matrix = np.asarray(random_hadamard(np.eye(BLOCK, dtype=np.float32)))
    # It is orthogonal.
    matrix = graph.constant(matrix.T if back else matrix, "hadamard")
    return graph.reshape(graph.emit("MatMul", [blocks, matrix], np.float32, blocks.shape), x.shape)


def _matrix(walker: Walker, path: str, product: Product, rows: int, form: Form) -> Value:
    """The weights, dequantized by the dialect's operators: (rows, columns).

    In 16 bits rotated ones are rotated back.
    """
    known = walker.layers[path]
    transposed = isinstance(product, TransposedConvolution)
    taps = product.window.number_of_taps if transposed else 1
    matrix = Matrix.of(known.weight, rows, taps=taps)
    w = walker.dialect.weight(walker.graph, path or "kernel", matrix)
    if form != "half":
        return w
    w = _rotated(walker, w, back=True) if product.hadamard else w
    return _cast(walker, w, jnp.dtype(walker.dialect.half))


def _patches(walker: Walker, x: Value, product: Convolution) -> Value:
    """(b, n, *image, c) -> (b, patches, taps c'), c' = c padded to whole blocks."""
    graph, window = walker.graph, product.window
    b, n, *_, c = x.shape
    d = window.ndim
    split = [s for g, t in zip(window.grid, window.taps, strict=True) for s in (g, t)]
    x = graph.reshape(x, (b * n, *split, c))
    order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
    x = padded(walker, graph.transpose(x, order), [(0, 0)] * (2 * d + 1) + [(0, -c % BLOCK)])
    columns = window.number_of_taps * x.shape[-1]
    return graph.reshape(x, (b, n * math.prod(window.grid), columns))


def _cut(walker: Walker, x: Value, product: Product, channels: int, form: Form) -> Value:
    """Without the channels that filled up blocks, where they are zeros: not if rotated."""
    if (product.hadamard and form != "half") or x.shape[-1] == channels:
        return x
    rank = len(x.shape)
    return sliced(walker, x, [0] * rank, [*x.shape[:-1], channels], [1] * rank)


def _channels_first(walker: Walker, x: Value) -> Value:
    rank = len(x.shape)
    return walker.graph.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _channels_last(walker: Walker, x: Value) -> Value:
    return walker.graph.transpose(x, [0, *range(2, len(x.shape)), 1])


def _cast(walker: Walker, x: Value, dtype: Any) -> Value:
    if x.dtype == np.dtype(dtype):
        return x
    return walker.graph.emit("Cast", [x], dtype, x.shape, to=element_type(dtype))
