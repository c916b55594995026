"""Tiles of the Pallas kernel: a table by architecture and number of rows, fitted to a shape."""

import dataclasses
import math

from fp4jax.core.blocks import BLOCK

#: More rows than this: decode once, and multiply by the vendor's GEMM.
LARGEST_M = 128


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one program computes: rows ``m`` and columns ``n`` of the result, ``k`` at a step."""

    m: int
    n: int
    k: int
    # warps per program, and stages of the software pipeline
    warps: int
    stages: int
    # weights are the first operand of the tensor core's product
    swap: bool
    # programs that share a tile of the result, each with its part of k
    split: int = 1


# Comments: SASS instructions per weight in the inner loop at 8192 x 8192, as compiled; none of
# these was timed. Two warps and 64 columns are as good as four and 128, and leave more programs
# for small layers.
_UP_TO_16 = Tile(16, 64, 128, warps=2, stages=4, swap=True)  # 4.3 to 4.4 on all
_UP_TO_32 = Tile(32, 64, 128, warps=2, stages=4, swap=True)  # 5.0 to 5.2
_UP_TO_64 = Tile(64, 64, 128, warps=2, stages=4, swap=True)  # 6.4 to 6.6
_TABLE = {
    # 64 rows and more are wgmma's: decoded weights go through shared memory
    9: {
        16: _UP_TO_16,
        32: _UP_TO_32,
        64: Tile(64, 128, 128, warps=4, stages=4, swap=False),  # 4.1
        128: Tile(128, 128, 128, warps=4, stages=4, swap=False),  # 4.4
    },
    # and tcgen05's, from 32 rows on, with the weights first
    10: {
        16: _UP_TO_16,
        32: Tile(32, 128, 128, warps=4, stages=4, swap=True),  # 4.1
        64: Tile(64, 128, 128, warps=4, stages=4, swap=True),  # 4.2
        128: Tile(128, 128, 128, warps=4, stages=4, swap=False),  # 4.7
    },
}
_TABLE[11] = _TABLE[10]
_OTHERS = {16: _UP_TO_16, 32: _UP_TO_32, 64: _UP_TO_64}

# Warps that hide the latency of memory, per multiprocessor, and the least steps of a split k.
_WARPS_PER_CORE = 6.5
_STEPS = 4


def choose_tile(
    m: int, n: int, k: int, *, capability: tuple[int, int] | None, cores: int, rows: int = 1
) -> Tile:
    """The table's tile, made smaller where n or k are no multiples of it, with k split.

    Args:
        m, n, k: of the product.
        capability, cores: of the GPU; None for the kernel's interpretation.
        rows: that share a block scale, 1 or 16.

    Example:
        >>> choose_tile(1, 8192, 8192, capability=(9, 0), cores=132)
        Tile(m=16, n=64, k=128, warps=2, stages=4, swap=True, split=4)
        >>> choose_tile(40, 100, 200, capability=(9, 0), cores=132)
        Tile(m=64, n=16, k=32, warps=2, stages=4, swap=True, split=1)
    """
    table = _TABLE.get(capability[0] if capability else 9, _OTHERS)
    bucket = min((size for size in table if size >= m), default=max(table))
    tile = table[bucket]
    tile = dataclasses.replace(tile, n=_fitting(n, tile.n, BLOCK), k=_fitting(k, tile.k, 2 * BLOCK))
    if tile.n < 64:
        # Too narrow for more warps, and for the forms that put weights through shared memory.
        tile = dataclasses.replace(tile, warps=2, swap=True)
    steps = padded(k, tile.k) // tile.k
    programs = math.ceil(m / tile.m) * (padded(n, tile.n) // tile.n)
    wanted = _WARPS_PER_CORE * cores / (programs * tile.warps)
    splits = [s for s in range(1, 9) if steps % s == 0 and (s == 1 or steps // s >= _STEPS)]
    enough = [s for s in splits if s >= wanted]
    return dataclasses.replace(tile, split=min(enough) if enough else max(splits))


def padded(size: int, multiple: int) -> int:
    """``size`` rounded up to a multiple."""
    return -(-size // multiple) * multiple


def _fitting(size: int, largest: int, smallest: int) -> int:
    """The largest of largest, largest / 2 ... that divides size; without one, that pads little."""
    lengths = [largest]
    while lengths[-1] > smallest:
        lengths.append(lengths[-1] // 2)
    dividing = [length for length in lengths if size % length == 0]
    little = [
        length for length in lengths if padded(size, length) <= padded(size, smallest) * 9 / 8
    ]
    return (dividing or little)[0]
