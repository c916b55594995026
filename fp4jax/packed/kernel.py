"""A layer's kernel as it is stored: codes, block scales and amax of a matrix; or as it decodes.

Whatever the layer, its weights are kept as the matrix that enters the GEMM, so that a kernel
reads them as they lie (codes (n, k / 2), two to a byte along k):

    Linear           (k, n)               k inputs, n outputs
    LinearGeneral    (*batch, k, n)       batch dimensions flattened to one
    Conv             (*group, taps i, n)  i channels of a group, padded to 16 in every tap
    ConvTranspose    (i, taps n)          16x16 tiles: n padded to 16 in every tap; taps reversed

Codes and scale bytes are those of the fake-quantized layer; only their order is another.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.qtensor import QTensor
from fp4jax.kernels import Decoded


class Packed(nnx.Variable):
    """A part of a packed or decoded kernel: no parameter, so optimizers pass it by."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """What stands for a float kernel between a packed layer's parts."""

    values: QTensor | Decoded
    # of the float kernel: (in, out), (*batch, *in, *out) or (*taps, in / groups, out)
    shape: tuple[int, ...]
    # in which the layer computes
    dtype: np.dtype


class PackedKernel(nnx.Module):
    """Stands in a layer's ``kernel`` attribute: three variables and what is static.

    Args:
        values: the matrix, see the module's text; stacked for a stack of layers.
        shape: of one layer's float kernel.
        dtype: of the float kernel that was quantized.

    Example:
        >>> import fp4jax
        >>> q = fp4jax.quantize(jnp.ones((32, 8)), fp4jax.TensorSpec(), axis=-2)
        >>> kernel = PackedKernel(q, (32, 8), jnp.float32)
        >>> kernel.codes.get_value().shape, kernel.nbytes
        ((8, 16), 148)
    """

    def __init__(self, values: QTensor, shape: Sequence[int], dtype: Any):
        self.codes = Packed(values.codes)
        self.block_scales = Packed(values.block_scales)
        self.amax = Packed(values.amax)
        self.axes, self.lengths, self.spec = values.axes, values.lengths, values.spec
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def values(self) -> QTensor:
        """The matrix as a QTensor."""
        leaves = (v.get_value() for v in (self.codes, self.block_scales, self.amax))
        return QTensor(*leaves, axes=self.axes, lengths=self.lengths, spec=self.spec)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, block scales and amax."""
        return self.values.nbytes

    @property
    def stack(self) -> tuple[int, ...]:
        """The leading dimensions of a stack of layers."""
        return tuple(self.amax.get_value().shape)

    def get_value(self) -> Weight:
        """What a layer's operation takes; has the float kernel's shape and dtype."""
        return Weight(self.values, self.shape, self.dtype)

    def __getitem__(self, index: Any) -> Weight:
        """``kernel[...]``, as layers read it.

        Raises:
            ValueError: for any other index.
        """
        _check_index(index)
        return self.get_value()


class DecodedKernel(nnx.Module):
    """Stands in a layer's ``kernel`` attribute in place of a :class:`PackedKernel`: its values.

    Args:
        values: the matrices (*stack, *batch, n, k), in the rotated basis where there is one.
        shape, dtype: of the packed kernel.
    """

    def __init__(self, values: Decoded, shape: Sequence[int], dtype: Any):
        self.decoded = Packed(values.values)
        self.scale = Packed(values.scale)
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def stack(self) -> tuple[int, ...]:
        """As :attr:`PackedKernel.stack`."""
        return tuple(self.scale.get_value().shape)

    def get_value(self) -> Weight:
        """As :meth:`PackedKernel.get_value`."""
        values = Decoded(self.decoded.get_value(), self.scale.get_value())
        return Weight(values, self.shape, self.dtype)

    def __getitem__(self, index: Any) -> Weight:
        """As :meth:`PackedKernel.__getitem__`."""
        _check_index(index)
        return self.get_value()


def _check_index(index: Any) -> None:
    if index is not Ellipsis:
        raise ValueError("a packed kernel can only be read whole, kernel[...].")


@dataclasses.dataclass(frozen=True)
class Promote:
    """A layer's ``promote_dtype`` that lets a :class:`Weight` through, marked with the dtype."""

    inner: Callable[..., Any]

    def __call__(self, args: Sequence[Any], /, **options: Any) -> tuple[Any, ...]:
        plain = [jnp.zeros((), a.dtype) if isinstance(a, Weight) else a for a in args]
        done = self.inner(plain, **options)
        return tuple(
            dataclasses.replace(arg, dtype=np.dtype(new.dtype)) if isinstance(arg, Weight) else new
            for arg, new in zip(args, done, strict=True)
        )
