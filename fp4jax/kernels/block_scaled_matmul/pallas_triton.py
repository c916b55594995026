"""The Pallas kernel: a bfloat16 matrix times packed FP4 weights, decoded between load and product.

Each program computes a tile of the result for its part of k and writes float32 sums; what follows
(adding up the parts, tensor scales, the result's dtype) is left to XLA, which fuses it with
whatever comes next.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fp4jax.core.blocks import BLOCK
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.kernels import launch
from fp4jax.kernels.block_scaled_matmul.decode import UNBIAS, arrange, by_ptx, portably
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from fp4jax.kernels.block_scaled_matmul.tiles import Tile, padded

_INNER = (((1,), (1,)), ((), ()))


def product(
    a: Shaped[Array, "m k"], b: Packed, tile: Tile, *, portable: bool, interpret: bool
) -> Float[Array, "m n"]:
    """``a @ decoded(b).T`` with float32 sums, n being the (padded) rows of ``b.codes``.

    Args:
        a: bfloat16, or float32, which enters as three bfloat16 matrices that add up to it.
        b: codes and block scales; k is padded to 16.
        tile: what a program computes; shapes that are no multiples of it are padded.
        portable: decode without PTX.
        interpret: evaluate with XLA; implies ``portable``.
    """
    if a.dtype == jnp.float32:
        m = a.shape[0]
        parts = jnp.concatenate(split_float32(a))
        high, middle, low = product(parts, b, tile, portable=portable, interpret=interpret).reshape(
            3, m, -1
        )
        return (low + middle) + high
    portable = portable or interpret
    m, n, tall = a.shape[0], b.codes.shape[0], b.codes.shape[0] // b.block_scales.shape[0]
    rows, columns = padded(m, tile.m), padded(n, tile.n)
    depth = padded(2 * b.codes.shape[1], tile.k * tile.split)
    a = arrange(_pad(a, rows, depth))
    codes = _pad(b.codes, columns, depth // 2)
    scales = lax.bitcast_convert_type(b.block_scales, jnp.uint8)
    scales = _pad(scales, columns // tall, depth // BLOCK)
    part = depth // tile.split
    partial = launch.pallas_call(
        functools.partial(_kernel, tile=tile, m=m, portable=portable, interpret=interpret),
        out_shape=jax.ShapeDtypeStruct((tile.split, m, columns), jnp.float32),
        grid=(columns // tile.n, rows // tile.m, tile.split),
        in_specs=[
            pl.BlockSpec((2, tile.m, part // 2), lambda n, m, s: (0, m, s)),
            pl.BlockSpec((tile.n, part // 2), lambda n, m, s: (n, s)),
            pl.BlockSpec((tile.n // tall, part // BLOCK), lambda n, m, s: (n, s)),
        ],
        out_specs=pl.BlockSpec((None, tile.m, tile.n), lambda n, m, s: (s, m, n)),
        name="fp4_scaled_matmul",
        num_warps=tile.warps,
        num_stages=tile.stages,
        interpret=interpret,
    )(a, codes, scales)
    total = partial[0] if tile.split == 1 else partial.sum(axis=0)
    return total[:, :n]


def _kernel(a_ref, codes_ref, scales_ref, out_ref, *, tile, m, portable, interpret):
    decoded = portably if portable else by_ptx
    # XLA:CPU has no products of bfloat16; decoded values are exact in both.
    dtype = jnp.float32 if interpret else jnp.bfloat16

    def step(i, total):
        bytes_ = pl.ds(i * (tile.k // 2), tile.k // 2)
        blocks = pl.ds(i * (tile.k // BLOCK), tile.k // BLOCK)
        for column, b in enumerate(decoded(codes_ref[:, bytes_], scales_ref[:, blocks])):
            a, b = a_ref[column, :, bytes_].astype(dtype), b.astype(dtype)
            pair = (b, a) if tile.swap else (a, b)
            total += lax.dot_general(*pair, _INNER, preferred_element_type=jnp.float32)
        return total

    shape = (tile.n, tile.m) if tile.swap else (tile.m, tile.n)
    steps = codes_ref.shape[1] // (tile.k // 2)
    total = lax.fori_loop(0, steps, step, jnp.zeros(shape, jnp.float32))
    total = total.T if tile.swap else total
    if not portable:
        total *= UNBIAS
    mask = None
    if m % tile.m:
        row = pl.program_id(1) * tile.m + lax.broadcasted_iota(jnp.int32, total.shape, 0)
        mask = row < m
    triton.store(out_ref, total, mask=mask)


def split_float32(a: Float[Array, "m k"]) -> list[Array]:
    """Three bfloat16 arrays whose sum is ``a``: 8 of its 24 significant bits each.

    Cut rather than rounded, because a rounded value may overflow. NaN and Inf are in the first.
    Bits below 2**-133, the smallest bfloat16, are lost.
    """
    finite = jnp.isfinite(a)
    rest, parts = a, []
    for i in range(3):
        bits = lax.bitcast_convert_type(rest, jnp.uint32) & jnp.uint32(0xFFFF0000)
        cut = lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(jnp.where(finite, cut, a if i == 0 else 0.0).astype(jnp.bfloat16))
        rest = rest - cut
    return parts


def _pad(x: Array, rows: int, columns: int) -> Array:
    if x.shape == (rows, columns):
        return x
    return jnp.pad(x, ((0, rows - x.shape[0]), (0, columns - x.shape[1])))
