"""Quantized attention as marked calls: one equation of the trace for each quantized operand.

q, k, P and v are no weights, so there is nothing packed: a file quantizes them as it runs.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.core.blocks import BLOCK
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.deploy.onnx.marking import bind
from fp4jax.nnx.operations import AttentionOp
from fp4jax.nnx.packing import forward_attention
from fp4jax.ops import gemm
from fp4jax.ops.attention_function import dot_product_attention
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.dot import DotPlan
from fp4jax.ops.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class QuantizedOperand:
    """x (*rows, k) -> the values of its codes, k padded to 16 and rotated where the spec rotates.

    Example:
        >>> QuantizedOperand(TensorSpec())(jnp.full((2, 20), 1.5)).shape
        (2, 32)
    """

    spec: TensorSpec

    def __call__(self, x: Array) -> Array:
        return gemm.dequantized(gemm.operand(_padded(x), self.spec, _AXES, None))


_AXES = gemm.BlockAxes(contracted=-1, tile=None)


class MarkedAttention(nnx.Module):
    """Stands in the slot of an attention while its model is traced.

    Raises:
        ValueError: a recipe that cannot be written.
    """

    def __init__(self, path: str, operation: AttentionOp):
        self.path = path
        self.recipe = _forward(path, operation.recipe)

    def __call__(self, query: Array, key: Array, value: Array, *args: Any, **kwargs: Any) -> Array:
        product = functools.partial(_product, self.path)
        options = {"recipe": self.recipe, "product": product}
        return dot_product_attention(query, key, value, *args, options=options, **kwargs)


def _product(
    path: str, lhs: Array, rhs: Array, dims: Any, precision: Any, dtype: Any, *, recipe: Recipe, **_
) -> Array:
    """A dot_general whose operands are marked where the recipe quantizes them."""
    out = jax.eval_shape(lambda a, b: lax.dot_general(a, b, dims, precision, dtype), lhs, rhs)
    plan = DotPlan.make(lhs.shape, rhs.shape, dims, recipe, precision, out)
    operands = plan.x(lhs), plan.w(rhs).swapaxes(-1, -2)
    x, w = (
        _padded(a) if spec is None else bind(path, QuantizedOperand(spec), a)
        for a, spec in zip(operands, recipe.fprop, strict=True)
    )
    batch = tuple(range(x.ndim - 2))
    contracted = (x.ndim - 1,), (w.ndim - 1,)
    y = lax.dot_general(x, w, (contracted, (batch, batch)), precision, dtype)
    return y.reshape(out.shape)


def _padded(x: Array) -> Array:
    """The last axis filled up to whole blocks with zeros."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % BLOCK)])


def _forward(path: str, recipe: AttentionRecipe) -> AttentionRecipe:
    """The recipe without its backward pass."""
    for spec in (*recipe.qk.fprop, *recipe.pv.fprop):
        if spec is not None and (problem := _problem(spec)):
            raise ValueError(
                f"attention {path!r} has the recipe {recipe.name!r}, which {problem}: an export "
                "has no form for it. Take another attention recipe, such as attention_qat, or keep "
                "this attention in high precision."
            )
    return forward_attention(recipe)


def _problem(spec: TensorSpec) -> str | None:
    """What a file has no form for, of operands that are quantized as it runs."""
    if spec.format.name != "nvfp4":
        return f"is in {spec.format.name}"
    if spec.stochastic:
        return "rounds stochastically in the forward pass"
    if spec.tiles:
        return "has 16x16 tiles"
    return None if spec.amax == "tensor" else f"has amax={spec.amax!r}"
