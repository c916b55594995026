"""Products in a 16-bit type of x as it is and weights on the FP4 grid: what a file computes there.

TensorRT has no FP4 convolutions. In a strongly typed network a convolution runs in the type of its
operands and has a result of that type, which casts around it choose. x is not quantized then:
its rounding to FP4 would cost accuracy and gain nothing.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.hadamard import inverse_random_hadamard
from fp4jax.core.typing import Array
from fp4jax.ops.convolution import products as windows
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.dot import Dot
from fp4jax.packed.matmul import kernel_operand
from fp4jax.packed.product import Product


def half_product(product: Product, x: Array, weight: Any, dtype: Any) -> Array:
    """The product of rounded operands, summed in float32 and rounded once.

    Args:
        product: as the layer has it.
        x: its input, float32.
        weight: the packed matrix; rotated weights are rotated back.
        dtype: of 16 bits, or its name.
    """
    dtype = jnp.dtype(dtype)
    values, scale = kernel_operand(weight)
    assert scale is not None
    values = values * scale
    if product.hadamard:
        values = inverse_random_hadamard(values)
    x, w = (_rounded(a, dtype) for a in (x, values))
    y = _PRODUCTS[type(product)](product, x, w)
    return _rounded(y, dtype).astype(product.out_dtype)


def step(y: np.ndarray, dtype: Any) -> np.ndarray:
    """The largest distance of numbers from their neighbours in a 16-bit type.

    Example:
        >>> step(np.float32([1, 3]), jnp.bfloat16).tolist()
        [0.0078125, 0.0234375]
    """
    return np.abs(y) * np.float32(jnp.finfo(jnp.dtype(dtype)).eps)


def _rounded(x: Array, dtype: Any) -> Array:
    return x.astype(dtype).astype(jnp.float32)


def _dot(product: Dot, x: Array, w: Array) -> Array:
    rows = product.prepare(x)
    batch = tuple(range(len(product.batch)))
    dims = ((rows.ndim - 1,), (w.ndim - 1,)), (batch, batch)
    y = lax.dot_general(rows, w[..., : rows.shape[-1]], dims, precision=lax.Precision.HIGHEST)
    return y.reshape(product.shape)


def _convolution(product: Convolution, x: Array, w: Array) -> Array:
    return windows.gather(x, product.kernel(w, product.channels), window=product.window)


def _transposed(product: TransposedConvolution, x: Array, w: Array) -> Array:
    return windows.scatter(x, product.kernel(w, x.shape[-1]), window=product.window)


_PRODUCTS: dict[type[Product], Any] = {
    Dot: _dot,
    Convolution: _convolution,
    TransposedConvolution: _transposed,
}
