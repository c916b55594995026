"""QTensor: a quantized array as it is stored; of NVFP4 4.5 bits per value plus one float."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, formats, hadamard, scale_types
from fp4jax.core.blocks import BLOCK
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped, UInt8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QTensor:
    """Codes, block scales and the tensor's amax; of NVFP4 packed E2M1 codes and E4M3 scales.

    Invariants, for an array of ``shape`` blocked along ``axes``:

    * the blocked axes (one, or the two of 16x16 tiles) are moved last, the others keep their order
    * ``codes``: two codes per byte along the last axis, low nibble = even index; each blocked axis
      is zero-padded to a multiple of 16
    * ``block_scales``: the same axis order, ceil(n / 16) along each blocked axis
    * ``amax``: float32 scalar; tensor_scale = amax / bound. With ``spec.amax`` "example" or "row"
      it has the rank of ``codes`` and their axis order, and 1 along the axes that it spans
    * value = code value * block scale * tensor scale; with ``spec.hadamard`` these are values of
      the rotated array, whose blocked axis is ``n`` padded to a multiple of 16

    Of other formats: 16 is the length of their blocks; elements of more than 4 bits have a byte
    each, integers in two's complement; block scales are float8_e4m3fn, float8_e8m0fnu or float32.
    What a format does not have, block scales or a tensor scale, is None. Without blocks nothing is
    padded, but an odd length of the last axis to whole bytes.

    A pytree with the leaves (codes, block_scales, amax). The static part knows the blocked axes
    counted from the end, their lengths ``n`` and the spec, not the rest of the shape, so a QTensor
    passes through ``jit``, ``vmap`` and ``scan``, and stacked QTensors are a QTensor. ``==`` is
    identity.

    Example:
        >>> from fp4jax import quantize
        >>> q = quantize(jnp.ones((2, 20)), TensorSpec(hadamard=True))
        >>> q.shape, q.unpacked_codes().shape, q.dequantize().shape
        ((2, 20), (2, 32), (2, 20))
    """

    # Any, not Array: pytrees also carry shapes, shardings and None through these fields.
    # uint8 (*rows, n / 2)
    codes: Any
    # float8_e4m3fn (*rows, n / 16); for tiles one row for 16; None without
    block_scales: Any
    # float32 (), (n, 1, ...) or (*rows, 1); with leading (*batch) for stacked QTensors; or None
    amax: Any
    axes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    lengths: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    spec: TensorSpec = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The original array's."""
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
        leaves = jax.tree.leaves((self.codes, self.block_scales, self.amax))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    @property
    def bound(self) -> float:
        """amax / tensor_scale: 2688 = 6 * 448, or what the spec has in its place (448 for fp8)."""
        return float(self.spec.bound)

    @property
    def tensor_scale(self) -> Float[Array, "..."]:
        """amax / bound; 1 without a tensor scale."""
        if self.amax is None:
            return jnp.ones((), jnp.float32)
        return exact.divide(self.amax, self.bound)

    def unpacked_codes(self) -> UInt8[Array, "..."]:
        """One code per element, in the low bits, in the array's shape and axis order.

        Of a rotated array the blocked axis is as long as it was padded to be rotated.
        """
        return self.in_rotated_basis()._restore(self._codes())

    def _codes(self) -> UInt8[Array, "..."]:
        return formats.unpack(self.codes) if self.spec.format.stored_bits == 4 else self.codes

    def in_rotated_basis(self) -> "QTensor":
        """The rotated, padded array itself: the same codes, which dequantize as they are.

        Of an array that is not rotated this is ``self``.

        Example:
            >>> from fp4jax import quantize
            >>> q = quantize(jnp.ones((2, 20)), TensorSpec(hadamard=True))
            >>> q.in_rotated_basis().shape
            (2, 32)
        """
        if not self.spec.hadamard:
            return self
        return dataclasses.replace(
            self,
            lengths=tuple(-(-n // BLOCK) * BLOCK for n in self.lengths),
            spec=dataclasses.replace(self.spec, hadamard=False),
        )

    def dequantize(
        self, dtype: DTypeLike | None = None, *, rotated: bool = False
    ) -> Shaped[Array, "..."]:
        """((scale * amax) * fl(1/bound)) * code value, TransformerEngine's dequantize bit for bit.

        Of other formats: code value * block scale, or code value * fl(amax / bound) without blocks.

        What was rotated (``spec.hadamard``) is rotated back and cut to the original length.

        Args:
            dtype: of the result; float32 by default.
            rotated: leave it rotated and padded, as it enters a product of two rotated operands.
        """
        if rotated or not self.spec.hadamard:
            return self.in_rotated_basis()._values().astype(dtype or jnp.float32)
        (axis,), (length,) = self.axes, self.lengths
        # Behind a barrier, so that the rotation is computed as in fake_quantize: XLA would merge it
        # with the transposition of the codes, and add in another order.
        values = exact.barrier(self.in_rotated_basis()._values())
        y = hadamard.inverse_random_hadamard(values, axis)
        return lax.slice_in_dim(y, 0, length, axis=axis).astype(dtype or jnp.float32)

    def _values(self) -> Float[Array, "..."]:
        """Code value * scales, in the basis of the codes."""
        format, amax = self.spec.format, self.amax
        kind, values = scale_types.of(format), format.elements.decode(self._codes())
        if amax is not None:
            amax = amax.reshape(amax.shape + (1,) * (self.ndim - amax.ndim))
        multiplier = kind.multiplier(kind.load(self.block_scales), amax, self.spec)
        for axis in range(-len(self.axes), 0) if format.block else ():
            multiplier = jnp.repeat(multiplier, format.block, axis=axis)
        return self._restore(kind.times(values, multiplier))

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
