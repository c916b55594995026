"""QTensor: an NVFP4 array as it is stored, 4.5 bits per value plus one float."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core import exact, formats
from fp4jax.core.blocks import BLOCK
from fp4jax.core.scaling import decode_multiplier
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped, UInt8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QTensor:
    """Packed E2M1 codes, E4M3 block scales and the tensor's amax.

    Invariants, for an array of ``shape`` blocked along ``axes``:

    * the blocked axes (one, or the two of 16x16 tiles) are moved last, the others keep their order
    * ``codes``: two codes per byte along the last axis, low nibble = even index; each blocked axis
      is zero-padded to a multiple of 16
    * ``block_scales``: the same axis order, ceil(n / 16) along each blocked axis
    * ``amax``: float32 scalar; tensor_scale = amax / bound
    * value = code value * block scale * tensor scale

    A pytree with the leaves (codes, block_scales, amax). The static part knows the blocked axes
    counted from the end and their lengths, not the rest of the shape, so a QTensor passes through
    ``jit``, ``vmap`` and ``scan``, and stacked QTensors are a QTensor. ``==`` is identity.
    """

    # Any, not Array: pytrees also carry shapes, shardings and None through these fields.
    # uint8 (*rows, n / 2)
    codes: Any
    # float8_e4m3fn (*rows, n / 16); for tiles one row for 16
    block_scales: Any
    # float32 (), or (*batch) for stacked QTensors
    amax: Any
    axes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    lengths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    bound: float = dataclasses.field(default=2688.0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of :meth:`dequantize`'s result (with hadamard: the padded length)."""
        return _unmove(self.codes.shape[: -len(self.axes)], self.lengths, self.axes)

    @property
    def ndim(self) -> int:
        return self.codes.ndim

    @property
    def dtype(self) -> np.dtype:
        """float32, the dtype in which values are exact and that dequantize returns by default."""
        return np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, block scales and amax."""
        leaves = (self.codes, self.block_scales, self.amax)
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    @property
    def tensor_scale(self) -> Float[Array, "*batch"]:
        """amax / bound: 2688 = 6 * 448, or 6 * 256 for four-over-six with bound 256."""
        return exact.divide(self.amax, self.bound)

    def unpacked_codes(self) -> UInt8[Array, "..."]:
        """One 4-bit code per element, in the array's shape and axis order."""
        return self._restore(formats.unpack(self.codes))

    def dequantize(self, dtype: DTypeLike | None = None) -> Shaped[Array, "..."]:
        """((scale * amax) * fl(1/bound)) * code value, TransformerEngine's dequantize bit for bit.

        Args:
            dtype: of the result; float32 by default.
        """
        values = formats.decode_e2m1(formats.unpack(self.codes))
        amax = self.amax.reshape(self.amax.shape + (1,) * (self.ndim - self.amax.ndim))
        scale = decode_multiplier(
            self.block_scales.astype(jnp.float32), amax, np.float32(self.bound)
        )
        for axis in range(-len(self.axes), 0):
            scale = jnp.repeat(scale, BLOCK, axis=axis)
        return self._restore(values * scale).astype(dtype or jnp.float32)

    def _restore(self, padded: Array) -> Array:
        """Drops the padding and moves the blocked axes back."""
        n = len(self.axes)
        index = (Ellipsis, *(slice(length) for length in self.lengths))
        return jnp.moveaxis(padded[index], range(-n, 0), self.axes)


def _unmove(
    rest: tuple[int, ...], lengths: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape before the blocked axes were moved last."""
    ndim = len(rest) + len(lengths)
    blocked = {axis % ndim: n for axis, n in zip(axes, lengths, strict=True)}
    others = iter(rest)
    return tuple(blocked[a] if a in blocked else next(others) for a in range(ndim))
