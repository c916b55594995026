"""The product by Mosaic GPU's tcgen05 kernel: its operands, its first-use check, its label.

The kernel was never executed on hardware: it was compiled, its copies and barriers were
interpreted, its block scales' addresses compared with the documentation. It is an opt-in
(``implementation="mosaic"``), and on its first use on a GPU it has to compute two products right.
"""

import functools
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact
from fp4jax.core.blocks import BLOCK
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.kernels import backend, first_use
from fp4jax.kernels.block_scaled_matmul import base
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from fp4jax.kernels.block_scaled_matmul.tiles import padded
from fp4jax.kernels.experimental.scale_layout import to_128x4

#: Architectures with tensor memory: data centre Blackwell and Thor.
MAJORS = (10, 11)
#: What is said of the kernel wherever it is chosen.
LABEL = "experimental: never executed on hardware yet"

# Operands are padded with zeros to multiples of these.
_ROWS, _K = 128, 256


def product(
    a: Packed,
    b: Packed,
    factors: Float[Array, "2"],
    out_dtype: DTypeLike = jnp.float32,
    *,
    programs: int | None = None,
) -> Shaped[Array, "m n"]:
    """``(decoded(a) @ decoded(b).T * factors[0]) * factors[1]``; rows are those of the codes.

    Args:
        factors: the tensor scales.
        programs: that share the work; by default as many as the GPU has multiprocessors.
    """
    kernel = importlib.import_module("fp4jax.kernels.experimental.mosaic_tcgen05")
    k = padded(2 * a.codes.shape[1], _K)
    dtype = jnp.dtype(out_dtype)
    out = kernel.product(
        _values(a, k),
        _values(b, k),
        (_scales(a, k), _scales(b, k)),
        factors,
        dtype if dtype in (jnp.float32, jnp.bfloat16) else jnp.float32,
        programs=programs or backend.cores(),
    )
    return out[: a.codes.shape[0], : b.codes.shape[0]].astype(dtype)


def _values(packed: Packed, k: int) -> Array:
    """float4 values (rows, k), rows padded."""
    rows, half = packed.codes.shape
    rows_padded = padded(rows, _ROWS)
    codes = jnp.pad(packed.codes, ((0, rows_padded - rows), (0, k // 2 - half)))
    # The barrier because JAX 0.10 computes nonsense from 4-bit views of constants.
    return lax.bitcast_convert_type(exact.barrier(codes), jnp.float4_e2m1fn).reshape(rows_padded, k)


def _scales(packed: Packed, k: int) -> Array:
    """A scale for each row and 16 of k, in the tensor cores' order."""
    scales, rows = packed.block_scales, packed.codes.shape[0]
    if scales.shape[0] != rows:
        scales = jnp.repeat(scales, BLOCK, axis=0)
    return to_128x4(jnp.pad(scales, ((0, 0), (0, k // BLOCK - scales.shape[1]))))


def objection(capability: tuple[int, int]) -> str | None:
    """Why the kernel is not to be used on such a GPU, or None; found out by two products.

    A failure is warned of, once; so is that nobody has executed the kernel before.
    """
    return first_use.not_at_hand(capability) or first_use.objection(
        "the tcgen05 kernel",
        capability,
        lambda: difference(),
        instead="fp4jax.kernels does without it.",
        caution=(
            f"implementation='mosaic' is {LABEL}, by those who wrote it. Here it passed its "
            "first-use check; please report how it fares."
        ),
    )


def difference(multiply: Callable[..., Array] = product) -> str | None:
    """What differs between a product and the reference, in words; None if nothing does.

    With block scales of 1 every product is a multiple of 1/4 and all sums are exact: the results
    must be equal bit for bit. With others, the order of float32 sums may show. The second problem
    is padded, goes through every stage several times and through both accumulators twice.
    """
    factors = np.array([0.37, 0.0019], np.float32)
    for m, n, k, bit_equal in ((128, 128, 256, True), (200, 136, 1312, False)):
        rng = np.random.default_rng(0)
        a, b = (_sample(rng, rows, k, ones=bit_equal) for rows in (m, n))
        run = jax.jit(functools.partial(multiply, programs=1))
        got = np.asarray(run(a, b, jnp.asarray(factors)))
        x, y = (np.asarray(base.decoded_blocks(*q).astype(jnp.float32)) for q in (a, b))
        x, y = x.astype(np.float64), y.astype(np.float64)
        expected = (x @ y.T).astype(np.float32) * factors[0] * factors[1]
        allowed = 0.0 if bit_equal else k * 2.0**-24 * (np.abs(x) @ np.abs(y).T) * factors.prod()
        wrong = int((~(np.abs(got - expected) <= allowed)).sum())
        if wrong:
            scales = "1" if bit_equal else "all sizes"
            return (
                f"{wrong} of {got.size} values are wrong, for {m}x{n}x{k} and block scales of "
                f"{scales}"
            )
    return None


def _sample(rng: np.random.Generator, rows: int, k: int, ones: bool) -> Packed:
    """All codes, and block scales of 1 or between 2**-3 and 15."""
    codes = rng.integers(0, 256, (rows, k // 2), dtype=np.uint8)
    low, high = (0x38, 0x39) if ones else (0x20, 0x58)
    scales = rng.integers(low, high, (rows, k // BLOCK), dtype=np.uint8)
    return Packed(jnp.asarray(codes), jnp.asarray(scales.view(jnp.float8_e4m3fn)))
