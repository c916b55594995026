"""Indexing by what is known while the graph is written, and rows by computed indices."""

from collections.abc import Sequence
from typing import Any

from jax.lax import GatherScatterMode

from fp4jax.deploy.onnx.rules.shapes import sliced
from fp4jax.deploy.onnx.values import Value
from fp4jax.deploy.onnx.walker import UnsupportedError, Walker, rule


@rule("dynamic_slice")
def _dynamic_slice(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    x, *starts = inputs
    if any(start.array is None for start in starts):
        raise UnsupportedError("its start is computed by the model")
    sizes = equation.params["slice_sizes"]
    low = [
        min(max(int(start.whole()), 0), n - size) if n is not size else 0
        for start, n, size in zip(starts, x.shape, sizes, strict=True)
    ]
    limits = [lo + size for lo, size in zip(low, sizes, strict=True)]
    return [sliced(walker, x, low, limits, [1] * len(low))]


@rule("gather")
def _gather(walker: Walker, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """``x[..., indices, ...]``: whole slices along one axis, which indices replace."""
    x, indices = inputs
    params, aval = equation.params, equation.outvars[0].aval
    dims = params["dimension_numbers"]
    axes, rank = dims.start_index_map, len(indices.shape) - 1
    whole = [n for a, n in enumerate(x.shape) if a not in axes]
    expected = (*x.shape[: axes[0]], *indices.shape[:-1], *x.shape[axes[0] + 1 :])
    place = set(range(axes[0], axes[0] + rank))
    plain = (
        len(axes) == 1
        and dims.collapsed_slice_dims == axes
        and not dims.operand_batching_dims
        and [n for a, n in enumerate(params["slice_sizes"]) if a not in axes] == whole
        and set(range(len(aval.shape))) - set(dims.offset_dims) == place
        and tuple(expected) == tuple(aval.shape)
    )
    if not plain:
        raise UnsupportedError("it gathers other things than whole slices along one axis")
    graph = walker.graph
    index = graph.reshape(indices, indices.shape[:-1])
    if params["mode"] == GatherScatterMode.CLIP or index.array is None:
        raise UnsupportedError("its indices are computed by the model")
    if index.array.min() < 0 or index.array.max() >= x.shape[axes[0]]:
        raise UnsupportedError("an index is out of range")
    return [graph.emit("Gather", [x, index], aval.dtype, aval.shape, axis=int(axes[0]))]
