"""Blackwell's own NVFP4 product (tcgen05) in Pallas' Mosaic GPU. NEVER EXECUTED ON HARDWARE YET.

Each program, one for a multiprocessor, goes through tiles of the result, 128 x 128 at a time. In
it three agents go through the same tiles, each at its own pace:

    load      a warp: copies a stage, 128 bytes of k of 128 rows of a and of b with their block
              scales, to shared memory (TMA)
    multiply  a warp: block scales to tensor memory, then the product, into one of two accumulators
    store     a warpgroup: (accumulator * scale of a) * scale of b, to the result

    barrier   completed by                               awaited by
    full      the copies of a stage                      multiply
    empty     the product of a stage                     load
    done      the last product of a tile                 store
    drained   the accumulator's last value being read    multiply

Block scales in tensor memory are a ring, too: PTX orders a copy before the product that follows
it, but not behind the one it follows.

The same code multiplies float16 without block scales (:data:`FLOAT16`). That is what Mosaic's
interpreter, which knows no block scales, can run: all copies, barriers and addresses but theirs.
Everything of Mosaic GPU is in this file, which only needs to be imported for a product (it needs
absl-py besides JAX).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from fp4jax.core.blocks import BLOCK
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.kernels.experimental.scale_layout import LINES, ROWS

#: Rows of a and of b in a tile: the largest that leave tensor memory for block scales.
TILE = 128
#: Bytes of k of a row in a stage: what a swizzled line of shared memory takes.
_BYTES = 128
#: Stages in flight: what fits into 227 KiB beside the result's buffers.
STAGES = 5
#: Accumulators, and buffers of the result.
_TWO = 2

# Agents: two warps of the first warpgroup, and the second warpgroup.
_LOAD, _MULTIPLY = 0, 1
_STORE = 1
# Columns of the scales' lines in shared memory: TMA likes them longer than the 16 bytes they are.
_LINE = 256


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is multiplied."""

    dtype: Any
    # with a scale for each row and 16 of k
    scaled: bool

    @property
    def bits(self) -> int:
        return jnp.finfo(self.dtype).bits

    @property
    def k(self) -> int:
        """Elements along k in a stage."""
        return 8 * _BYTES // self.bits


FP4 = Kind(jnp.float4_e2m1fn, scaled=True)
FLOAT16 = Kind(jnp.float16, scaled=False)


def product(
    a: Shaped[Array, "m k"],
    b: Shaped[Array, "n k"],
    scales: tuple[Shaped[Array, "..."], ...],
    factors: Float[Array, "2"],
    out_dtype: DTypeLike,
    *,
    kind: Kind = FP4,
    programs: int,
    stages: int = STAGES,
    interpret: Any = None,
) -> Shaped[Array, "m n"]:
    """``(a @ b.T) * factors[0] * factors[1]`` with float32 sums, on sm_100 and sm_110.

    Args:
        a, b: of ``kind.dtype``; m and n multiples of 128, k of ``kind.k``.
        scales: for :data:`FP4`, block scales of a and of b as ``to_128x4`` orders them.
        factors: tensor scales of a and of b.
        out_dtype: float32 or bfloat16.
        programs: how many share the tiles; the number of multiprocessors.
        stages: in flight; fewer than :data:`STAGES` are for tests.
        interpret: Mosaic's interpreter's parameters, in JAX 0.11 and later.
    """
    (m, k), n = a.shape, b.shape[0]
    tiles = (m // TILE, n // TILE, k // kind.k)
    # TMA's copies of scales have long lines this way; the bytes are where they were.
    scales = tuple(s.reshape(s.shape[0], -1, _LINE) for s in scales)
    kernel = plgpu.kernel(
        functools.partial(_kernel, kind=kind, tiles=tiles, stages=stages),
        out_type=jax.ShapeDtypeStruct((m, n), out_dtype),
        grid=(min(programs, tiles[0] * tiles[1]),),
        grid_names=("program",),
        num_threads=2,
        thread_name="warpgroup",
        scratch_types=_scratch(kind, stages, jnp.dtype(out_dtype)),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name="fp4_tcgen05",
        interpret=interpret,
    )
    return kernel(a, b, *scales, factors)


def _scratch(kind: Kind, stages: int, out_dtype: Any) -> dict[str, Any]:
    operand = plgpu.SMEM((stages, TILE, kind.k), kind.dtype, transforms=_swizzled(kind.bits))
    bits = 8 * out_dtype.itemsize
    scratch = {
        "a_smem": operand,
        "b_smem": operand,
        "out_smem": plgpu.SMEM(
            (_TWO, TILE, 8 * _BYTES // bits), out_dtype, transforms=_swizzled(bits)
        ),
        "accumulators": plgpu.TMEM((TILE, _TWO * TILE), jnp.float32),
        "full": plgpu.Barrier(num_arrivals=4 if kind.scaled else 2, num_barriers=stages),
        "empty": plgpu.Barrier(num_barriers=stages, orders_tensor_core=True),
        "done": plgpu.Barrier(num_barriers=_TWO, orders_tensor_core=True),
        "drained": plgpu.Barrier(num_barriers=_TWO, orders_tensor_core=True),
    }
    if kind.scaled:
        blocks = kind.k // BLOCK
        smem = plgpu.SMEM((stages, TILE * blocks // _LINE, _LINE), jnp.float8_e4m3fn)
        tmem = plgpu.TMEM(
            (TILE, stages * blocks), jnp.float8_e4m3fn, layout=plgpu.TMEMLayout.SCALES_LAYOUT
        )
        scratch |= {"scales_smem": [smem, smem], "scales_tmem": [tmem, tmem]}
    return scratch


def _swizzled(bits: int) -> tuple[Any, ...]:
    """Lines of 128 bytes, swizzled, in groups of eight."""
    transforms: Any = plgpu  # whose types in newer versions of JAX are abstract to a type checker
    return transforms.TilingTransform((8, 8 * _BYTES // bits)), transforms.SwizzleTransform(_BYTES)


def _kernel(
    a,
    b,
    *refs,
    kind: Kind,
    tiles: tuple[int, int, int],
    stages: int,
    a_smem,
    b_smem,
    out_smem,
    accumulators,
    full,
    empty,
    done,
    drained,
    scales_smem=(),
    scales_tmem=(),
):
    *scales, factors, out = refs
    steps = tiles[2]
    warpgroup = lax.axis_index("warpgroup")
    programs = lax.axis_size("program")
    my_tiles = lax.div(tiles[0] * tiles[1] - 1 - lax.axis_index("program"), programs) + 1
    for_each_tile = plgpu.nd_loop(tiles[:2], collective_axes="program")
    # Stages are a ring that goes on from tile to tile: the next one, and whether it was used.
    # (Counted on: a remainder by five costs a fifth more instructions.)
    with_stages = plgpu.nd_loop(tiles[:2], collective_axes="program", init_carry=(0, False))

    def following(stage, used):
        last = stage == stages - 1
        return lax.select(last, jnp.int32(0), stage + 1), used | last

    def accumulator(tile):
        """That of a tile: its number and its columns."""
        number = lax.rem(tile.local_index, _TWO)
        return number, accumulators.at[:, pl.ds(number * TILE, TILE)]

    def load():
        @with_stages
        def _(tile, carry):
            def step(i, carry):
                stage, used = carry

                @pl.when(used)
                def _():
                    plgpu.barrier_wait(empty.at[stage])

                for x, smem, index in zip((a, b), (a_smem, b_smem), tile.index, strict=True):
                    x = x.at[pl.ds(index * TILE, TILE), pl.ds(i * kind.k, kind.k)]
                    plgpu.copy_gmem_to_smem(x, smem.at[stage], full.at[stage])
                for x, smem, index in zip(scales, scales_smem, tile.index, strict=False):
                    lines = smem.shape[1]
                    x = x.at[index, pl.ds(i * lines, lines)]
                    plgpu.copy_gmem_to_smem(x, smem.at[stage], full.at[stage])
                return following(stage, used)

            return lax.fori_loop(0, steps, step, carry)

        # No arrival may be on its way when the program ends.
        for stage in range(stages):

            @pl.when(stage < my_tiles * steps)
            def _(stage=stage):
                plgpu.barrier_wait(empty.at[stage])

    def multiply():
        @with_stages
        def _(tile, carry):
            number, sums = accumulator(tile)

            @pl.when(tile.local_index >= _TWO)
            def _():
                plgpu.barrier_wait(drained.at[number])

            def step(i, carry):
                stage, used = carry
                plgpu.barrier_wait(full.at[stage])
                in_tmem = []
                for smem, tmem in zip(scales_smem, scales_tmem, strict=True):
                    blocks = kind.k // BLOCK
                    tmem = tmem.at[:, pl.ds(stage * blocks, blocks)]
                    lines = smem.at[stage].reshape(TILE // ROWS, blocks // 4, LINES, 16)
                    plgpu.async_copy_scales_to_tmem(lines, tmem)
                    in_tmem.append(tmem)
                a_scale, b_scale = in_tmem or (None, None)
                plgpu.tcgen05_mma(
                    sums,
                    a_smem.at[stage],
                    b_smem.at[stage].T,
                    empty.at[stage],
                    a_scale=a_scale,
                    b_scale=b_scale,
                    accumulate=i > 0,
                )
                return following(stage, used)

            carry = lax.fori_loop(0, steps, step, carry)
            plgpu.tcgen05_commit_arrive(done.at[number])
            return carry

    def store():
        scale_of_a, scale_of_b = factors[0], factors[1]

        @for_each_tile
        def _(tile):
            number, sums = accumulator(tile)
            rows = pl.ds(tile.index[0] * TILE, TILE)
            plgpu.barrier_wait(done.at[number])
            width = out_smem.shape[2]
            for part in range(TILE // width):
                columns = pl.ds(tile.index[1] * TILE + part * width, width)
                values = plgpu.async_load_tmem(sums.at[:, pl.ds(part * width, width)])
                values = values * scale_of_a * scale_of_b
                buffer = out_smem.at[part % _TWO]
                # All but the latest copy from shared memory: this buffer's is an earlier one.
                plgpu.wait_smem_to_gmem(_TWO - 1, wait_read_only=True)
                buffer[...] = values.astype(out.dtype)
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(buffer, out.at[rows, columns])
            plgpu.wait_load_tmem()
            plgpu.barrier_arrive(drained.at[number])

        plgpu.wait_smem_to_gmem(0)

    @pl.when(warpgroup != _STORE)
    def _():
        @plgpu.warp_map
        def _(warp):
            pl.when(warp == _LOAD)(load)
            pl.when(warp == _MULTIPLY)(multiply)

    pl.when(warpgroup == _STORE)(store)
