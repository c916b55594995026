"""Two-level scales: tensor and block amax -> E4M3 block scales, and four-over-six.

TransformerEngine's arithmetic (``NVFP4QuantizerRef``, the standard its CUDA kernels are tested
against at zero tolerance), each step one float32 rounding:

    S_enc = min(bound / A, FLT_MAX), or 1 where that is 0
    scale = E4M3(min(b * (S_enc * fl(1/6)), 448))             b: amax of the block, A: of the tensor
    encode multiplier = min(1 / (scale * (1 / S_enc)), FLT_MAX)
    decoded value = ((scale * A) * fl(1/bound)) * code value

``stochastic_unbiased`` has fl(17/96) in place of fl(1/6) and a bound of 2688 * 16/17: the scale
then is never rounded below b / 6, so no block maximum is clipped.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact
from fp4jax.core.blocks import BLOCK, BlockView
from fp4jax.core.formats import FLT_MAX, round_e4m3
from fp4jax.core.rounding import round_nearest
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float

#: All bits of a float32 number but its sign.
MAGNITUDE_BITS = np.int32(0x7FFFFFFF)


class Amax(NamedTuple):
    """Largest magnitudes: of each block (1 at the inner axes of the view) and of the tensor.

    That of the tensor is a scalar or, of several parts of it, has the rank of the view, with 1
    along the axes that a part spans. Without blocks the first says nothing.
    """

    block: Float[Array, "..."]
    tensor: Float[Array, "*parts"]


class Scale(NamedTuple):
    """Per block: the E4M3 scale (as float32) and the multiplier that maps x to code values."""

    block: Float[Array, "..."]
    encode: Float[Array, "..."]


def find_amax(blocked: Float[Array, "..."], view: BlockView, apart: tuple[int, ...] = ()) -> Amax:
    """Block and tensor amax of a blocked float32 array; NaN and Inf are kept.

    ``apart`` are axes of the array, not blocked ones, along which each place has a tensor amax of
    its own.

    The maximum is taken over the bit patterns of the magnitudes: these sort as the numbers do,
    NaN above Inf, whereas a float maximum drops NaN on XLA:CPU for large arrays.
    """
    magnitudes = exact.bits(blocked) & MAGNITUDE_BITS
    block = magnitudes
    if view.axes:
        # Without the barrier XLA reads the whole tensor again for the tensor amax.
        block = exact.barrier(_largest_of_blocks(magnitudes, view.inner_axes))
    spanned = tuple(a for a in range(block.ndim) if a not in apart)
    tensor = _largest(block, spanned)
    if apart:
        tensor = view.per_element(lax.expand_dims(tensor, spanned))
    with_ones = view.per_element(view.of_whole_blocks(block))
    return Amax(exact.from_bits(with_ones), exact.from_bits(tensor))


def largest(amax: Float[Array, "_ *parts"]) -> Float[Array, "*parts"]:  # noqa: F821
    """The largest of several amax, along the first axis; NaN and Inf are kept."""
    return exact.from_bits(_largest(exact.bits(amax) & MAGNITUDE_BITS, (0,)))


def _largest_of_blocks(magnitudes: Array, axes: tuple[int, ...]) -> Array:
    """Of tiles: over their rows first, which XLA:CPU does with vectors, 3 times faster.

    It would merge the two maxima, were the second not one of unsigned numbers.
    """
    *rows, last = sorted(axes)
    if not rows:
        return _largest(magnitudes, axes)
    of_rows = lax.bitcast_convert_type(_largest(magnitudes, tuple(rows)), jnp.uint32)
    of_tiles = lax.reduce(of_rows, np.uint32(0), lax.max, (last - len(rows),))
    return lax.bitcast_convert_type(of_tiles, jnp.int32)


def _largest(magnitudes: Array, axes: tuple[int, ...]) -> Array:
    """Their maximum over some axes; 0 of none."""
    return lax.reduce(magnitudes, np.int32(0), lax.max, axes)


def infinite_as_nan(x: Float[Array, "..."], amax: Float[Array, "*parts"]) -> Float[Array, "..."]:
    """x with NaN for Inf, where the tensor's amax, a given one, is finite.

    Of magnitudes of blocks: their scales become NaN then, as of blocks with a NaN. With an amax of
    Inf nothing is finite in any case.

    Example:
        >>> infinite_as_nan(jnp.array([3e38, -jnp.inf]), jnp.float32(2)).tolist()
        [3.0000000054977558e+38, nan]
    """
    infinity, nan = np.float32(np.inf), np.float32(np.nan)
    # What equals NaN? Nothing.
    hidden = jnp.where(amax < infinity, infinity, nan)
    return jnp.where(jnp.abs(x) == hidden, nan, x)


def find_scale(amax: Amax, spec: TensorSpec) -> Scale:
    """Block scales and encode multipliers for ``scaling="amax"``."""
    if not spec.has_tensor_scale:
        one = jnp.ones((), jnp.float32)
        tensor = TensorFactors(one, one, one, jnp.zeros_like(one))
        return _with_encode(round_e4m3(amax.block * code_per_amax(spec)), tensor)
    tensor = tensor_factors(amax.tensor, spec.bound)
    per_amax = tensor.encode * code_per_amax(spec)
    return _with_encode(round_e4m3(amax.block * per_amax), tensor)


def code_per_amax(spec: TensorSpec) -> np.float32:
    """fl(1/6): the block maximum is encoded as 6; fl(17/96) with a head-room of 16/17.

    6 is the largest number of E2M1; of other elements theirs takes its place.
    """
    largest = float(spec.format.elements.maximum)
    unbiased = spec.rounding == "stochastic_unbiased"
    return np.float32(17 / (16 * largest) if unbiased else 1 / largest)


def choose_four_over_six(
    blocked: Float[Array, "..."], amax: Amax, spec: TensorSpec, view: BlockView
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Code values and block scales where the block maximum maps to 6, or to 4 if that errs less.

    The candidate for 4 has a scale 1.5 times as large. Errors are taken in the input's units and
    summed in TransformerEngine's order; a tie goes to 6. Source: Cook et al., "Four Over Six"
    (arXiv 2512.02010), in TransformerEngine's arithmetic.
    """
    tensor = tensor_factors(amax.tensor, spec.bound)
    base = exact.divide(amax.block, 6.0) * tensor.encode
    candidates = []
    for factor in (1.0, 1.5):
        scale = _with_encode(round_e4m3(base * np.float32(factor)), tensor)
        values = round_nearest(exact.barrier(blocked) * scale.encode)
        error = _block_error(blocked, values, scale.block, amax.tensor, spec, view)
        candidates.append((values, scale.block, error))
    (values6, scale6, error6), (values4, scale4, error4) = candidates
    pick4 = error4 < error6
    return jnp.where(pick4, values4, values6), jnp.where(pick4, scale4, scale6)


def decode_multiplier(
    block_scale: Float[Array, "..."], amax: Float[Array, "..."], bound: np.float32
) -> Float[Array, "..."]:
    """What a code value is multiplied with: (scale * A) * fl(1/bound), in this order."""
    return (block_scale * amax) * np.float32(np.float32(1) / bound)


class TensorFactors(NamedTuple):
    """S_enc, and S_dec = 1 / S_enc in units of 1 / ``unit``.

    The unit is 1, or 2**64 for tensors below 2**-100, whose decode scales may be subnormal: those
    below ``limit`` are rounded as by :func:`fp4jax.core.exact.gradual_underflow`.
    """

    encode: Float[Array, "*parts"]
    decode: Float[Array, "*parts"]
    unit: Float[Array, "*parts"]
    limit: Float[Array, "*parts"]


TINY_UNIT = np.float32(2.0**64)
#: float32's smallest normal and subnormal numbers in units of 1 / TINY_UNIT.
TINY_NORMAL, TINY_SUBNORMAL = (np.float32(2.0 ** (64 - e)) for e in (126, 149))


def tensor_factors(amax: Float[Array, "*parts"], bound: np.float32) -> TensorFactors:
    """What depends on the tensor's amax alone, computed once a tensor or part."""
    encode = jnp.minimum(bound / amax, FLT_MAX)
    encode = lax.select(encode == 0, lax.full_like(encode, 1), encode)
    tiny = amax < np.float32(2.0**-100)
    unit = lax.select(tiny, lax.full_like(amax, TINY_UNIT), lax.full_like(amax, 1))
    limit = lax.select(tiny, lax.full_like(amax, TINY_NORMAL), lax.full_like(amax, 0))
    decode = exact.gradual_underflow(unit / encode, limit)
    return TensorFactors(encode, decode, unit, limit)


def _with_encode(block: Float[Array, "..."], tensor: TensorFactors) -> Scale:
    block = exact.materialize(block)
    decode = exact.gradual_underflow(block * tensor.decode, tensor.limit)
    return Scale(block, jnp.minimum(tensor.unit / decode, FLT_MAX))


def _block_error(
    blocked: Array, values: Array, scale: Array, amax: Array, spec: TensorSpec, view: BlockView
) -> Array:
    """Error of one candidate per block, summed sequentially over the 16 columns."""
    decoded = exact.divide((values * scale) * amax, float(spec.bound))
    difference = exact.barrier(decoded) - blocked
    mae = spec.four_over_six_error == "mae"
    error = jnp.abs(difference) if mae else _square(difference, amax)
    error = exact.barrier(error)
    column = view.inner_axes[-1]
    total = lax.index_in_dim(error, 0, column)
    for i in range(1, BLOCK):
        total = total + lax.index_in_dim(error, i, column)
    if len(view.inner_axes) == 2:
        total = _sum_rows(total, view.inner_axes[0])
    return total


def _square(x: Array, amax: Array) -> Array:
    """x * x, in units of 2**-120 for tensors below 1e-6, whose tiny errors have subnormal squares.

    Only comparisons follow, so the unit does not matter.
    """
    tiny = amax < np.float32(1e-6)
    square = jnp.square(x * jnp.where(tiny, np.float32(2.0**60), np.float32(1)))
    # float32's smallest normal number, in units of 2**-120.
    limit = jnp.where(tiny, np.float32(2.0**-6), np.float32(0))
    return exact.gradual_underflow(square, limit)


def _sum_rows(error: Array, row: int) -> Array:
    """Sums 16 row errors, halves first: the order of TransformerEngine's warp reduction."""
    rows = BLOCK
    while rows > 1:
        rows //= 2
        error = lax.slice_in_dim(error, 0, rows, axis=row) + lax.slice_in_dim(
            error, rows, 2 * rows, axis=row
        )
    return error
