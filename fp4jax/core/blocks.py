"""1x16 and 16x16 block views of any axis: pad to 16, split in place, merge back.

A blocked axis of length n becomes two axes ``(ceil(n/16), 16)`` at the same place; nothing is
transposed. Per-block arrays keep a 1 where the 16 was, so that they broadcast against the view.
Blocks of other formats have other lengths than 16, all else is the same.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Shaped

#: NVFP4's, and what a random Hadamard transform rotates.
BLOCK = 16

Axis = int | tuple[int, int]


def normalize_axes(axis: Axis, block: tuple[int, int] | None, ndim: int) -> tuple[int, ...]:
    """The blocked axes as non-negative integers: one for 1x16, two (row, column) for 16x16.

    For 16x16 the default ``axis=-1`` of the public functions means the last two axes. A format
    without blocks (None) has one axis, the contracted one.

    Raises:
        ValueError: for an axis out of range, or of the wrong kind for the block.
    """
    two_dimensional = block is not None and block[0] > 1
    what = "formats without blocks" if block is None else f"blocks of {block[0]}x{block[1]}"
    axes = (int(axis),) if isinstance(axis, int | np.integer) else tuple(axis)
    if two_dimensional and axes == (-1,):
        axes = (-2, -1)
    if len(axes) != (2 if two_dimensional else 1):
        raise ValueError(
            f"axis is {axis!r}; {what} take "
            + ("a pair of axes, for example (-2, -1)." if two_dimensional else "one axis (an int).")
        )
    if ndim < len(axes):
        raise ValueError(
            f"an array of rank {ndim} cannot hold {what}: rank {len(axes)} or more is needed. "
            "Reshape it first."
        )
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"axis {a} is out of range for rank {ndim}: use {-ndim} to {ndim - 1}."
            )
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        tile = what.removeprefix("blocks of ")
        raise ValueError(f"axis is {axis!r}; the two axes of a {tile} block must differ.")
    return axes


def pad_to_blocks(
    x: Shaped[Array, "..."], axes: tuple[int, ...], length: int = BLOCK
) -> Shaped[Array, "..."]:
    """Zero-pads the given axes to multiples of 16 (zeros change neither amax nor sums)."""
    config = [(0, -x.shape[a] % length if a in axes else 0, 0) for a in range(x.ndim)]
    if not any(high for _, high, _ in config):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), config)


@dataclasses.dataclass(frozen=True)
class BlockView:
    """How an array of ``shape`` is cut into blocks along ``axes`` (non-negative, row first).

    Without axes there are no blocks, and all views are the array itself. With ``pieces`` above 1 a
    block has that many pieces, of ``length`` each, and the array is cut into these: 24 = 3 * 8 need
    no padding, two blocks of 16 would be a quarter zeros.

    Example:
        >>> view = BlockView((4, 24), (1,), length=8, pieces=2)
        >>> view.split_shape, BlockView((4, 24), (1,)).split_shape
        ((4, 3, 8), (4, 2, 16))
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    length: int = BLOCK
    pieces: int = 1

    @property
    def padded_shape(self) -> tuple[int, ...]:
        return tuple(
            -(-n // self.length) * self.length if a in self.axes else n
            for a, n in enumerate(self.shape)
        )

    @property
    def split_shape(self) -> tuple[int, ...]:
        parts = (
            (n // self.length, self.length) if a in self.axes else (n,)
            for a, n in enumerate(self.padded_shape)
        )
        return tuple(n for part in parts for n in part)

    @property
    def inner_axes(self) -> tuple[int, ...]:
        """Positions of the 16s in the split shape, in the order of ``axes``."""
        return tuple(a + 1 + sum(b < a for b in self.axes) for a in self.axes)

    def split(self, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The blocked view of an array of ``shape``."""
        return pad_to_blocks(x, self.axes, self.length).reshape(self.split_shape)

    def merge(self, blocked: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The inverse of :meth:`split`: drops the padding."""
        padded = blocked.reshape(self.padded_shape)
        if self.padded_shape == self.shape:
            return padded
        return lax.slice(padded, (0,) * len(self.shape), self.shape)

    def per_block(self, blocked: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """A per-block array (1 at each inner axis) without these ones: ceil(n/16) per axis."""
        return lax.squeeze(blocked, self.inner_axes)

    def of_whole_blocks(self, largest: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The largest number of each whole block, at each of its pieces; none may be negative.

        Takes and returns what :meth:`per_block` has the shape of, with pieces for blocks.

        Example:
            >>> view = BlockView((24,), (0,), length=8, pieces=2)
            >>> view.of_whole_blocks(jnp.array([1, 5, 2])).tolist()
            [5, 5, 2]
        """
        if self.pieces == 1:
            return largest
        (axis,), shape = self.axes, largest.shape
        padded = pad_to_blocks(largest, self.axes, self.pieces)
        blocks = padded.shape[axis] // self.pieces
        split = padded.reshape(*shape[:axis], blocks, self.pieces, *shape[axis + 1 :])
        whole = jnp.max(split, axis + 1, keepdims=True)
        together = jnp.broadcast_to(whole, split.shape).reshape(padded.shape)
        return lax.slice_in_dim(together, 0, shape[axis], axis=axis)

    def per_element(self, per_block: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """The inverse of :meth:`per_block`: 1 at each inner axis."""
        return lax.expand_dims(per_block, sorted(self.inner_axes))
