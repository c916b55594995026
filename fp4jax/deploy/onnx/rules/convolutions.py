"""Convolutions and transposed convolutions, channels first as ONNX has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.deploy.onnx.rules.shapes import padded
from fp4jax.deploy.onnx.values import Shape, Value
from fp4jax.deploy.onnx.walker import UnsupportedError, Walker, rule


@rule("conv_general_dilated")
def _conv_general_dilated(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    params, aval = equation.params, equation.outvars[0].aval
    layout, graph = params["dimension_numbers"], walker.graph
    if params["batch_group_count"] != 1:
        raise UnsupportedError("it has groups of the batch, as gradients of kernels have")
    x = graph.transpose(inputs[0], layout.lhs_spec)
    w = graph.transpose(inputs[1], layout.rhs_spec)
    ends, groups = list(params["padding"]), params["feature_group_count"]
    stride, dilation = params["window_strides"], params["rhs_dilation"]
    if set(params["lhs_dilation"]) == {1}:
        y = convolution(walker, x, w, stride, dilation, ends, groups)
    else:
        if groups != 1 or set(stride) != {1}:
            raise UnsupportedError("zeros between pixels go with no groups and strides")
        flipped = _flipped(walker, w, range(2, len(w.shape)))
        w = graph.transpose(flipped, [1, 0, *range(2, len(w.shape))])
        reach = [(t - 1) * d for t, d in zip(w.shape[2:], dilation, strict=True)]
        low = [r - lo for r, (lo, _) in zip(reach, ends, strict=True)]
        image = tuple(aval.shape[a] for a in layout.out_spec[2:])
        y = transposed_convolution(walker, x, w, params["lhs_dilation"], dilation, low, image)
    back = np.argsort(layout.out_spec)
    return [graph.transpose(y, [int(a) for a in back])]


def convolution(
    walker: Walker,
    x: Value,
    w: Value,
    stride: Sequence[int],
    dilation: Sequence[int],
    ends: Sequence[tuple[int, int]],
    groups: int = 1,
) -> Value:
    """x (n, c, *image) and w (o, c / groups, *taps) to (n, o, *grid); negative padding cuts."""
    if any(low < 0 or high < 0 for low, high in ends):
        x = padded(walker, x, [(0, 0), (0, 0), *((min(0, lo), min(0, hi)) for lo, hi in ends)])
        ends = [(max(0, low), max(0, high)) for low, high in ends]
    taps = tuple(int(t) for t in w.shape[2:])
    grid = tuple(
        (n + low + high - (t - 1) * d - 1) // s + 1
        for n, t, s, d, (low, high) in zip(x.shape[2:], taps, stride, dilation, ends, strict=True)
    )
    return walker.graph.emit(
        "Conv",
        [x, w],
        x.dtype,
        (x.shape[0], w.shape[0], *grid),
        kernel_shape=taps,
        strides=list(stride),
        dilations=list(dilation),
        pads=[low for low, _ in ends] + [high for _, high in ends],
        group=groups,
    )


def transposed_convolution(
    walker: Walker,
    x: Value,
    w: Value,
    stride: Sequence[int],
    dilation: Sequence[int],
    low: Sequence[int],
    image: Shape,
) -> Value:
    """x (n, c, *grid) and w (c, o, *taps) to (n, o, *image).

    Tap t of x's point q is added to the image's q stride + t dilation - low.
    """
    taps = tuple(int(t) for t in w.shape[2:])
    full = [
        (n - 1) * s + (t - 1) * d + 1
        for n, t, s, d in zip(x.shape[2:], taps, stride, dilation, strict=True)
    ]
    y = walker.graph.emit(
        "ConvTranspose",
        [x, w],
        x.dtype,
        (x.shape[0], w.shape[1], *full),
        kernel_shape=taps,
        strides=list(stride),
        dilations=list(dilation),
        pads=[0] * (2 * len(taps)),
    )
    ends = [(-lo, n + lo - f) for lo, n, f in zip(low, image, full, strict=True)]
    return padded(walker, y, [(0, 0), (0, 0), *ends])


def _flipped(walker: Walker, x: Value, axes: Sequence[int]) -> Value:
    """A kernel with its taps last to first."""
    if x.array is not None:
        return Value.known(np.flip(x.whole(), tuple(axes)), x.name)
    count = len(axes)
    columns = [[-1] * count, [np.iinfo(np.int64).min] * count, list(axes), [-1] * count]
    names = [walker.graph.constant(np.array(c, np.int64), "slice") for c in columns]
    return walker.graph.emit("Slice", [x, *names], x.dtype, x.shape)
