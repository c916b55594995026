"""Operands of scaled_matmul, as its tests multiply them."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

import fp4jax as fp4
from fp4jax.kernels.block_scaled_matmul.arg_specs import Layer, weights

ROWS = fp4.TensorSpec()
TILES = fp4.TensorSpec(block=(16, 16))

interpreted = {"implementation": "pallas", "interpret": True}


def left(m, k, kind, seed=1) -> tuple[Any, np.ndarray]:
    """The left operand as bfloat16, float32 or a QTensor; and its exact values."""
    a = np.random.default_rng(seed).standard_normal((m, k)).astype(np.float32)
    if kind == "quantized":
        q = fp4.quantize(a, ROWS)
        return q, np.asarray(q.dequantize(), np.float64)
    a = jnp.asarray(a).astype(kind)
    return a, np.asarray(a, np.float64)


def any_codes(rng, rows, k, axes, lengths, scales=None):
    """A QTensor of random codes, (rows, k) padded to blocks; block scales of 1 unless given."""
    half, blocks = -(-k // 16) * 8, -(-k // 16)
    tall = 1 if len(axes) == 1 else 16
    codes = rng.integers(0, 256, (-(-rows // tall) * tall, half), dtype=np.uint8)
    # Padding holds zeros.
    columns = np.arange(2 * half).reshape(half, 2) < k
    codes &= np.uint8(15) * columns[:, 0] | np.uint8(240) * columns[:, 1]
    codes[rows:] = 0
    ones = np.ones((len(codes) // tall, blocks), jnp.float8_e4m3fn)
    spec = TILES if len(axes) == 2 else ROWS
    return fp4.QTensor(
        jnp.asarray(codes), jnp.asarray(ones), jnp.float32(2688), axes, lengths, spec
    )


def unit_pair(rng, m, k, n, spec):
    """QTensors (m, k) and (k, n) with all scales 1: any product of them is exact."""
    a = any_codes(rng, m, k, (-1,), (k,))
    tiles_ = spec is TILES
    return a, any_codes(rng, n, k, (-1, -2) if tiles_ else (-2,), (n, k) if tiles_ else (k,))


def exact_product_of(a, b):
    return np.asarray(a.dequantize(), np.float64) @ np.asarray(b.dequantize(), np.float64)


KINDS = ("bfloat16", "float32", "quantized")

# Made when a test asks for them: quantizing compiles.
A = functools.cache(lambda: jnp.ones((4, 32)))
B = functools.cache(lambda: weights(Layer("", 32, 8)))
