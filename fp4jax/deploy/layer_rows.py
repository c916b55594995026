"""A row for each layer of a model, and what its parameters take as float32."""

import math
from collections.abc import Mapping

import jax
from flax import nnx

from fp4jax.deploy.account import LayerRow
from fp4jax.nnx.slots import layers
from fp4jax.packed.kernel import PackedKernel


def layer_rows(model: nnx.Module, written: Mapping[str, str] | str) -> tuple[LayerRow, ...]:
    """How each layer was written, in the model's order.

    Args:
        model: packed or not.
        written: how packed layers were, each by its path or all alike; others are "float32".

    Example:
        >>> [row.written for row in layer_rows(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), "FP4 weights")]
        ['float32']
    """
    rows = []
    for layer in layers(model):
        kernel = layer.module.kernel
        kind = layer.kind.__name__
        if isinstance(kernel, PackedKernel):
            how = written if isinstance(written, str) else written[layer.path]
            rows.append(LayerRow(layer.path, kind, kernel.shape, how, kernel.nbytes))
        else:
            shape = kernel.get_value().shape
            rows.append(LayerRow(layer.path, kind, shape, "float32", 4 * math.prod(shape)))
    return tuple(rows)


def float_bytes(model: nnx.Module) -> int:
    """Of all parameters and statistics as float32.

    Example:
        >>> float_bytes(nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
        40
    """
    packed = (m for _, m in nnx.iter_modules(model) if isinstance(m, PackedKernel))
    others = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return 4 * sum(math.prod(a.shape) for a in (*packed, *others))
