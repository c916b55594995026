"""x @ w for packed w, and w as the values that enter a convolution.

As in every quantized GEMM here: products of (code value x block scale) are summed in float32, then
the sum is multiplied with both tensor scales.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax import kernels
from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import quantize
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.kernels import Decoded, backend
from fp4jax.kernels.block_scaled_matmul.base import decoded_rows
from fp4jax.ops import gemm
from fp4jax.ops.gemm import BlockAxes, Operand

#: Blocks of x (*batch, m, k) lie along k.
X_AXES = BlockAxes(contracted=-1, tile=(-2, -1))


def kernel_operand(w: QTensor | Decoded) -> Operand:
    """Code value x block scale, (*batch, n, k) as the codes lie, and the tensor scale.

    float32, exact in bfloat16; padding is cut off. Rotated weights stay in the rotated basis.
    """
    if isinstance(w, Decoded):
        return Operand(w.values, w.scale)
    w = w.in_rotated_basis()
    rows = functools.partial(decoded_rows, dtype=jnp.float32)
    if w.ndim == 3:
        rows = jax.vmap(rows, in_axes=(_over_batch(w),))
    return Operand(rows(w), w.tensor_scale)


def quantized(
    x: Array, spec: TensorSpec | None, axes: BlockAxes = X_AXES, amax: Array | None = None
) -> Operand:
    """x as the forward pass quantizes it, or as it is."""
    return gemm.operand(x, spec, axes, None, amax)


def quantized_rows(
    x: Shaped[Array, "*batch m k"], spec: TensorSpec | None, amax: Array | None = None
) -> Operand | QTensor:
    """x as a left operand of :func:`matmul`: packed where FP4 units multiply it, else its values.

    Elsewhere packing would only be undone again.
    """
    capability = backend.compute_capability()
    has_fp4 = capability is not None and capability >= (10, 0)
    if has_fp4 and spec is not None and spec.block[0] == 1 and x.ndim == 2:
        return quantize(x, spec, axis=-1, amax=amax)
    return quantized(x, spec, amax=amax)


def matmul(x: Operand | QTensor, w: QTensor, out_dtype: DTypeLike) -> Shaped[Array, "*batch m n"]:
    """x (*batch, m, k) @ w (*batch, k, n), both quantized already: ``kernels.scaled_matmul``."""
    if isinstance(x, QTensor):
        return kernels.scaled_matmul(x, w, preferred_element_type=out_dtype)
    return scaled(accumulate(x, w), x, w, out_dtype)


def accumulate(x: Operand, w: QTensor) -> Float[Array, "*batch m n"]:
    """The sums of :func:`matmul` before they are multiplied with the tensor scales."""
    # Quantized values are exact in bfloat16; scaled_matmul takes no float16.
    exact = jnp.float32 if x.values.dtype == jnp.float16 else x.values.dtype
    values = x.values.astype(exact if x.scale is None else jnp.bfloat16)
    # x's values are in w's basis.
    unscaled = dataclasses.replace(w.in_rotated_basis(), amax=jnp.full_like(w.amax, w.bound))
    product = functools.partial(kernels.scaled_matmul, preferred_element_type=jnp.float32)
    if w.ndim == 3:
        product = jax.vmap(product, in_axes=(0, _over_batch(unscaled)))
    return product(values, unscaled)


def scaled(
    sums: Float[Array, "*shape"], x: Operand, w: QTensor, out_dtype: DTypeLike
) -> Shaped[Array, "*shape"]:
    """Times x's tensor scale, then w's: the order of the fake-quantized product."""
    for scale in (x.scale, w.tensor_scale):
        sums = sums if scale is None else sums * scale
    return sums.astype(out_dtype)


def plain_matmul(
    x: Operand, w: QTensor | Decoded, out_dtype: DTypeLike, precision: Any = None
) -> Shaped[Array, "*batch m n"]:
    """The same with nothing but differentiable operations of JAX."""
    batch, k = tuple(range(x.values.ndim - 2)), x.values.ndim - 1
    product = functools.partial(lax.dot_general, dimension_numbers=(((k,), (k,)), (batch, batch)))
    return gemm.contract(x, kernel_operand(w), product, out_dtype, precision)


def precision_of(x: Operand) -> lax.Precision | None:
    """That of :func:`matmul`: full float32 products where x is wider than bfloat16."""
    wide = x.scale is None and x.values.dtype != jnp.bfloat16
    return lax.Precision.HIGHEST if wide else None


def _over_batch(w: QTensor) -> Any:
    """vmap's in_axes for the matrices of one tensor, which share its amax."""
    leaves, structure = jax.tree.flatten(w)
    return jax.tree.unflatten(structure, [None if leaf is w.amax else 0 for leaf in leaves])
