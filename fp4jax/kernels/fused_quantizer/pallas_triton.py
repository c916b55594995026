"""The fused quantizer's kernels: largest magnitude, and quantize given the tensor's amax.

Arrays come as (r, 16, c): blocks are contiguous along the middle axis, for c > 1 that is blocks
along an axis that is not the last, and 16x16 tiles take 16 of the columns each. Every program
reads a tile once, with one row of threads per row of blocks, and holds a block's elements in 16
arrays (arithmetic.py). With c = 1 the 16 elements lie side by side in memory: such a tile is
loaded as rows and split in registers.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fp4jax.core.blocks import BLOCK
from fp4jax.core.rounding import hash_counter
from fp4jax.core.spec import TensorSpec
from fp4jax.kernels import backend, launch
from fp4jax.kernels.fused_quantizer import arithmetic
from fp4jax.kernels.fused_quantizer.arithmetic import Array, Scalars

#: Blocks a program handles, and warps it has: measured in instructions an element when compiled.
_AMAX_BLOCKS = 512
_BLOCKS = 512
_WARPS = 4

#: k -> random bits of element k of each block
_Draw = Callable[[int], Array]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a kernel is compiled for.

    ``result`` is "packed" (codes and scales), "operand" (code value * block scale, exact in
    bfloat16) or "fake" (dequantized, in x's dtype).
    """

    spec: TensorSpec
    result: str
    interpret: bool = False

    @property
    def tiles(self) -> bool:
        return self.spec.block == (BLOCK, BLOCK)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Tiles of ``rows`` x ``columns`` blocks of 16 that cover an (r, 16, c) array."""

    r: int
    c: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return pl.cdiv(self.r, self.rows), pl.cdiv(self.c, self.columns)

    @property
    def flat(self) -> bool:
        """A block's elements are neighbours in memory."""
        return self.c == 1

    def spec(self, middle: int | None, columns: int | None = None) -> pl.BlockSpec:
        """Of an array (r, middle, c), or (r, c) without ``middle``; flat ones lack c."""
        columns = self.columns if columns is None else columns
        if self.flat:
            shape = (self.rows,) if middle is None else (self.rows, middle)
            return pl.BlockSpec(shape, lambda i, j: (i,) if middle is None else (i, 0))
        if middle is None:
            return pl.BlockSpec((self.rows, columns), lambda i, j: (i, j))
        return pl.BlockSpec((self.rows, middle, columns), lambda i, j: (i, 0, j))

    def mask(self, per: int = 1) -> Array | None:
        """Which of (rows, columns / per) lie in the array; None if all do."""
        columns = self.columns // per
        mask = None
        if self.r % self.rows:
            row = pl.program_id(0) * self.rows + lax.broadcasted_iota(
                jnp.int32, (self.rows, columns), 0
            )
            mask = row < self.r
        if self.c % self.columns:
            column = pl.program_id(1) * columns + lax.broadcasted_iota(
                jnp.int32, (self.rows, columns), 1
            )
            inside = column < self.c // per
            mask = inside if mask is None else mask & inside
        return mask


def _grid(x: Array, plan: Plan, blocks: int) -> _Grid:
    r, _, c = x.shape

    def of(blocks: int) -> _Grid:
        columns = min(backend.next_power_of_two(c), blocks)
        return _Grid(r, c, min(backend.next_power_of_two(r), blocks // columns), columns)

    grid = of(blocks)
    if r % grid.rows == 0 and c % grid.columns == 0:
        return grid
    # Masks need registers, too: fewer blocks a thread, and still fewer with all else there is.
    spec = plan.spec
    crowded = spec.hadamard and spec.random_bits == 24 and plan.result == "fake"
    return of(blocks // (4 if crowded else 2))


def find_amax(x: Array, plan: Plan) -> Array:
    """Largest magnitude of an (r, 16, c) array, rotated if the spec says so; NaN and Inf stay."""
    grid = _grid(x, plan, _AMAX_BLOCKS)
    n = grid.shape[1]
    partial = launch.pallas_call(
        functools.partial(_amax_kernel, grid, plan),
        out_shape=jax.ShapeDtypeStruct((grid.shape[0] * n,), jnp.int32),
        grid=grid.shape,
        in_specs=[grid.spec(BLOCK)],
        out_specs=pl.BlockSpec((1,), lambda i, j: (i * n + j,)),
        name="fp4_amax",
        num_warps=_WARPS,
        interpret=plan.interpret,
    )(x[..., 0] if grid.flat else x)
    return arithmetic.as_float(jnp.max(partial, initial=0))


def _amax_kernel(grid: _Grid, plan: Plan, x, out) -> None:
    largest = arithmetic.magnitude_bits(_load(grid, plan, x))
    out[...] = jnp.max(jnp.max(largest, axis=1), axis=0)[None]


def quantize(x: Array, seed: Array | None, scalars: Scalars, plan: Plan) -> tuple[Array, ...]:
    """Quantizes an (r, 16, c) array whose amax is known.

    Args:
        x: float32, bfloat16 or float16; for tiles c must be a multiple of 16.
        seed: two uint32, what fp4jax.core.rounding draws from a key; None unless stochastic.
        scalars: four float32 scalars.

    Returns:
        ``packed``: codes uint8 (r, 8, c) in pairs along the middle axis, for tiles (r, 16, c / 2)
        in pairs along the last; and E4M3 bytes uint8 (r, c), for tiles (r, c / 16).
        Else: values (r, 16, c), bfloat16 for ``operand``, x's dtype for ``fake``.
    """
    grid = _grid(x, plan, _BLOCKS)
    if plan.tiles and grid.columns < BLOCK:
        raise ValueError(f"tiles need columns in multiples of 16; got an array of {x.shape}")
    whole = pl.BlockSpec((4,), lambda i, j: (0,))
    operands = [x[..., 0] if grid.flat else x, jnp.stack(list(scalars))]
    in_specs = [grid.spec(BLOCK), whole]
    if seed is not None:
        operands.append(seed)
        in_specs.append(pl.BlockSpec((2,), lambda i, j: (0,)))
    out_shape, out_specs = _outputs(x, plan, grid)
    results = launch.pallas_call(
        functools.partial(_quantize_kernel, grid, plan),
        out_shape=out_shape,
        grid=grid.shape,
        in_specs=in_specs,
        out_specs=out_specs,
        name=f"fp4_quantize_{plan.result}",
        num_warps=_WARPS,
        interpret=plan.interpret,
    )(*operands)
    return tuple(y[..., None] if grid.flat else y for y in results)


def _outputs(x: Array, plan: Plan, grid: _Grid) -> tuple[list, list]:
    """Shapes, and tiles of each program, of what quantize returns."""
    r, _, c = x.shape
    last = () if grid.flat else (c,)
    if plan.result != "packed":
        dtype = jnp.bfloat16 if plan.result == "operand" else x.dtype
        return [jax.ShapeDtypeStruct((r, BLOCK, *last), dtype)], [grid.spec(BLOCK)]
    if plan.tiles:
        codes, scales = (r, BLOCK, c // 2), (r, c // BLOCK)
        specs = [grid.spec(BLOCK, grid.columns // 2), grid.spec(None, grid.columns // BLOCK)]
    else:
        codes, scales = (r, BLOCK // 2, *last), (r, *last)
        specs = [grid.spec(BLOCK // 2), grid.spec(None)]
    return [jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in (codes, scales)], specs


def _quantize_kernel(grid: _Grid, plan: Plan, x_ref, scalars_ref, *refs) -> None:
    spec, portable = plan.spec, plan.interpret
    seed = None
    if spec.stochastic:
        seed_ref, *refs = refs
        seed = (seed_ref[0], seed_ref[1])
    scalars = Scalars(*(scalars_ref[i] for i in range(4)))
    x = _load(grid, plan, x_ref)
    largest = arithmetic.magnitude_bits(x)
    if plan.tiles:
        largest = jnp.max(largest.reshape(grid.rows, grid.columns // BLOCK, BLOCK), axis=2)
    scale = arithmetic.block_scale(largest, scalars, portable)
    encode = _per_element(grid, plan, scale.encode)
    rounded = []
    random = None if seed is None else _random_bits(grid, spec.random_bits, seed)
    for k, v in enumerate(x):
        y = arithmetic.to_code_range(v, encode)
        if random is None:
            rounded.append(arithmetic.round_nearest(y))
        else:
            width = spec.random_bits
            rounded.append(arithmetic.round_stochastic(y, random(k), width, portable))
    if plan.result == "packed":
        kept = jnp.where(scale.encode != scale.encode, np.int32(0), np.int32(15))
        kept = _per_element(grid, plan, kept)
        codes = [arithmetic.signed_code(v, r.code) & kept for v, r in zip(x, rounded, strict=True)]
        _store_codes(grid, plan, refs[0], codes)
        _store(grid, refs[1], scale.byte.astype(jnp.uint8))
        return
    multiplier = scale.value
    if plan.result == "fake":
        multiplier = (scale.value * scalars.amax) * np.float32(np.float32(1) / spec.bound)
    multiplier = _per_element(grid, plan, multiplier)
    values = [
        arithmetic.signed(v, r.magnitude) * multiplier for v, r in zip(x, rounded, strict=True)
    ]
    if plan.result == "fake" and spec.hadamard:
        values = arithmetic.rotate_back(values)
    _store_elements(grid, refs[0], values)


def _per_element(grid: _Grid, plan: Plan, block: Array) -> Array:
    """A figure of each block for each of its columns: the same array, but for tiles."""
    if not plan.tiles:
        return block
    shape = (grid.rows, grid.columns // BLOCK, BLOCK)
    return jnp.broadcast_to(block[:, :, None], shape).reshape(grid.rows, grid.columns)


def _random_bits(grid: _Grid, width: int, seed: tuple[Array, Array]) -> _Draw:
    """A function of k: the random bits of element k of each block, as core.rounding has them."""
    row = pl.program_id(0) * grid.rows + lax.broadcasted_iota(
        jnp.int32, (grid.rows, grid.columns), 0
    )
    column = pl.program_id(1) * grid.columns + lax.broadcasted_iota(
        jnp.int32, (grid.rows, grid.columns), 1
    )
    first = (row * (BLOCK * grid.c) + column).astype(jnp.uint32)
    index = lambda k: first + np.uint32(k * grid.c)  # noqa: E731
    if width == 24:
        return lambda k: _int32(hash_counter(index(k), seed) >> 8)
    if grid.flat:
        # Four elements of a block share a hash.
        words = functools.cache(lambda k: hash_counter((first >> 2) + np.uint32(k // 4), seed))
        return lambda k: _int32((words(k - k % 4) >> (8 * (k % 4))) & np.uint32(255))
    if grid.c % 4 == 0 and grid.columns % 4 == 0:
        return _shared_by_columns(grid, seed)

    def drawn(k: int) -> Array:
        i = index(k)
        shift = (i & np.uint32(3)) * np.uint32(8)
        return _int32((hash_counter(i >> 2, seed) >> shift) & np.uint32(255))

    return drawn


def _int32(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.int32)


def _shared_by_columns(grid: _Grid, seed: tuple[Array, Array]) -> _Draw:
    """Four neighbouring columns share a hash, whose bytes are theirs."""
    shape = (grid.rows, grid.columns // 4)
    row = pl.program_id(0) * grid.rows + lax.broadcasted_iota(jnp.int32, shape, 0)
    column = pl.program_id(1) * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1)
    first = (row * (BLOCK * grid.c // 4) + column).astype(jnp.uint32)
    shift = lax.broadcasted_iota(jnp.uint32, (*shape, 4), 2) * np.uint32(8)

    def drawn(k: int) -> Array:
        word = hash_counter(first + np.uint32(k * grid.c // 4), seed)
        bytes_ = (jnp.broadcast_to(word[:, :, None], shift.shape) >> shift) & np.uint32(255)
        return _int32(bytes_.reshape(grid.rows, grid.columns))

    return drawn


def _load(grid: _Grid, plan: Plan, ref) -> list[Array]:
    """The 16 elements of each block as float32 arrays (rows, columns), rotated if need be."""
    mask = grid.mask()
    if grid.flat:
        mask = None if mask is None else jnp.broadcast_to(mask, (grid.rows, BLOCK))
        other = None if mask is None else 0
        tile = triton.load(ref, mask=mask, other=other)
        x = lax.split(tile.astype(jnp.float32), [1] * BLOCK, axis=1)
    else:
        x = [_load_element(ref, k, mask).astype(jnp.float32) for k in range(BLOCK)]
    if not plan.spec.hadamard:
        return list(x)
    x = arithmetic.rotate(x)
    if ref.dtype == jnp.bfloat16:
        x = arithmetic.round_bfloat16(x, plan.interpret)
    return x


def _load_element(ref, k: int, mask: Array | None) -> Array:
    """``ref[:, k]``, zeros outside of the array."""
    if mask is None:
        return ref[:, k, :]
    masked = triton.load(ref.at[:, pl.ds(k, 1), :], mask=mask[:, None, :], other=0)
    return masked.reshape(mask.shape)


def _store_codes(grid: _Grid, plan: Plan, ref, codes: Sequence[Array]) -> None:
    """Two codes a byte, low nibble first: along the block, for tiles along the columns."""
    if not plan.tiles:
        pairs = zip(codes[0::2], codes[1::2], strict=True)
        _store_elements(grid, ref, [low | (high << 4) for low, high in pairs])
        return
    shape = (grid.rows, grid.columns // 2, 2)
    shift = lax.broadcasted_iota(jnp.int32, shape, 2) * 4
    packed = [jnp.sum(code.reshape(shape) << shift, axis=2) for code in codes]
    _store_elements(grid, ref, packed, per=2)


def _store_elements(grid: _Grid, ref, values: Sequence[Array], per: int = 1) -> None:
    """Writes array k to ``ref[:, k]``."""
    if grid.flat:
        values = [v.reshape(grid.rows).astype(ref.dtype) for v in values]
        mask = grid.mask()
        mask = None if mask is None else jnp.broadcast_to(mask, (grid.rows, len(values)))
        triton.store(ref, _joined(values), mask=mask)
        return
    mask = grid.mask(per)
    for k, v in enumerate(values):
        if mask is None:
            ref[:, k, :] = v.astype(ref.dtype)
        else:
            # Not ref.at[:, k, :]: JAX 0.10 cannot interpret an integer index with a mask.
            part = ref.at[:, pl.ds(k, 1), :]
            triton.store(part, v.astype(ref.dtype)[:, None, :], mask=mask[:, None, :])


def _store(grid: _Grid, ref, blocks: Array) -> None:
    """Writes one value for each block."""
    if grid.flat:
        mask = grid.mask()
        mask = None if mask is None else mask.reshape(grid.rows)
        triton.store(ref, blocks.reshape(grid.rows), mask=mask)
        return
    triton.store(ref, blocks, mask=grid.mask(grid.columns // blocks.shape[1]))


def _joined(parts: Sequence[Array]) -> Array:
    """(n,) arrays as the columns of one (n, len(parts)); Triton joins two at a time."""
    n, count = parts[0].shape[0], len(parts)
    parts = list(parts)
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [jnp.stack(pair, axis=-1) for pair in zip(parts[:half], parts[half:], strict=True)]
    return parts[0].reshape(n, count)
