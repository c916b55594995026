"""Block scales in the order that Blackwell's tensor cores read them: tiles of 128 rows x 4 blocks.

A tile is 512 bytes, what ``tcgen05.cp.32x128b.warpx4`` copies: byte

    (row % 32) * 16 + (row // 32) * 4 + block

of it belongs to a row and a block of 16 along k. In tensor memory the 16 bytes of each of the 32
lines are four columns of 32 bits, so that lane row % 32 of column row // 32 holds the four block
scales of a row, lowest byte first; this is the layout that the PTX documentation gives for
``scale_vec::4X``, and cuBLAS's "128x4" in global memory. Tiles follow one another along k first.
"""

import jax.numpy as jnp

from fp4jax.core.typing import Array, Shaped

#: Rows and blocks of a tile.
ROWS, BLOCKS = 128, 4
#: Lines of 16 bytes of a tile.
LINES = 32


def to_128x4(scales: Shaped[Array, "rows blocks"]) -> Shaped[Array, "tiles steps 32 16"]:
    """Tiles of the scales of a matrix, padded with zeros to multiples of (128, 4).

    Args:
        scales: one for each row and 16 elements of k.

    Example:
        >>> import jax.numpy as jnp
        >>> tiles = to_128x4(jnp.arange(128 * 4).reshape(128, 4))
        >>> tiles.shape
        (1, 1, 32, 16)
        >>> tiles[0, 0, 1].tolist()  # rows 1, 33, 65 and 97
        [4, 5, 6, 7, 132, 133, 134, 135, 260, 261, 262, 263, 388, 389, 390, 391]
    """
    rows, blocks = scales.shape
    tiles, steps = -(-rows // ROWS), -(-blocks // BLOCKS)
    scales = jnp.pad(scales, ((0, tiles * ROWS - rows), (0, steps * BLOCKS - blocks)))
    parts = scales.reshape(tiles, ROWS // LINES, LINES, steps, BLOCKS)
    return parts.transpose(0, 3, 2, 1, 4).reshape(tiles, steps, LINES, ROWS // LINES * BLOCKS)


def from_128x4(
    tiles: Shaped[Array, "tiles steps 32 16"], rows: int, blocks: int
) -> Shaped[Array, "{rows} {blocks}"]:
    """The scales of a matrix from their tiles: the inverse of :func:`to_128x4`.

    Example:
        >>> import jax.numpy as jnp
        >>> scales = jnp.arange(130 * 5).reshape(130, 5)
        >>> bool((from_128x4(to_128x4(scales), 130, 5) == scales).all())
        True
    """
    count, steps = tiles.shape[:2]
    parts = tiles.reshape(count, steps, LINES, ROWS // LINES, BLOCKS).transpose(0, 3, 2, 1, 4)
    return parts.reshape(count * ROWS, steps * BLOCKS)[:rows, :blocks]
