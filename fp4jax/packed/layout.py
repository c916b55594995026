"""Kernels of layers -> packed matrices, with the codes that the forward pass of a recipe has."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import fake_quantize, quantize
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Shaped


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a kernel's dimensions are: hashable, so that equal layers share a compilation.

    Example:
        >>> layer = nnx.LinearGeneral((2, 16), 8, axis=(-2, -1), rngs=nnx.Rngs(0))
        >>> layout = Layout.of(layer, "dot_general")
        >>> layout.pack(layer.kernel[...], None, TensorSpec(), jnp.float32).shape
        (32, 8)
    """

    # the injection slot of the layer
    slot: str
    # of one layer's kernel, without the leading dimensions of a stack
    rank: int
    # numbers of batch and of contracted dimensions, for dot_general
    batch: int = 0
    inner: int = 1
    groups: int = 1
    # whether a transposed convolution's kernel is flipped, with its channels exchanged
    flip: bool = False

    @classmethod
    def of(cls, layer: Any, slot: str) -> "Layout":
        """That of a layer."""
        if slot != "dot_general":
            groups = getattr(layer, "feature_group_count", 1)
            flip = getattr(layer, "transpose_kernel", False)
            return cls(slot, len(layer.kernel_size) + 2, groups=groups, flip=flip)
        if not isinstance(layer, nnx.LinearGeneral):
            return cls(slot, 2)
        batch, inner = len(layer.batch_axis), len(layer.in_features)
        return cls(slot, batch + inner + len(layer.out_features), batch, inner)

    def pack(self, kernel: Any, mask: Any, spec: TensorSpec, dtype: Any) -> QTensor:
        """The packed matrix; of shapes alone if the kernel is one."""
        function = functools.partial(_packed, self, spec, jnp.dtype(dtype))
        if isinstance(kernel, jax.ShapeDtypeStruct):
            return jax.eval_shape(function, kernel, mask)
        return function(kernel, mask)

    def on_grid(self, kernel: Array, mask: Any, spec: TensorSpec, dtype: Any) -> Array:
        """The kernel with the values of its codes, in its own shape and dtype.

        What a layer multiplies that decodes its weights first; rotated ones are rotated back.

        Example:
            >>> layout = Layout("conv_general_dilated", 4)
            >>> kernel = jnp.full((3, 3, 16, 8), 0.3)
            >>> bool((layout.on_grid(kernel, None, TensorSpec(), jnp.float32) == kernel).all())
            True
        """
        return _on_grid(self, spec, jnp.dtype(dtype), kernel, mask)

    def view(self, kernel: Array) -> tuple[Array, int, int]:
        """One layer's kernel with axes of its own for what blocks and tiles lie along: (k, n)."""
        if self.slot == "dot_general":
            shape, inner = kernel.shape, self.batch + self.inner
            matrix = (math.prod(shape[self.batch : inner]), math.prod(shape[inner:]))
            return kernel.reshape(*shape[: self.batch], *matrix), -2, -1
        if self.slot == "conv_general_dilated":
            *rest, o = kernel.shape
            return kernel.reshape(*rest, self.groups, o // self.groups), -3, -1
        return (kernel, -1, -2) if self.flip else (kernel, -2, -1)

    def shape(self, kernel: Any) -> tuple[int, ...]:
        """Of one layer's kernel, input channels before output channels."""
        return self.inputs_first(kernel.shape[kernel.ndim - self.rank :])

    def inputs_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A flipped kernel's shape with its channels exchanged; any other shape as it is."""
        return (*shape[:-2], shape[-1], shape[-2]) if self.flip else tuple(shape)

    def matrix(self, kernel: Array, spec: TensorSpec) -> QTensor:
        """The packed matrix of one layer."""
        if self.slot == "dot_general":
            return dot_matrix(kernel, self.batch, self.inner, spec)
        if self.slot == "conv_general_dilated":
            return conv_matrix(kernel, self.groups, spec)
        if self.flip:
            kernel = lax.rev(kernel, tuple(range(kernel.ndim - 2))).swapaxes(-1, -2)
        return transposed_matrix(kernel, spec)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _packed(layout: Layout, spec: TensorSpec, dtype: Any, kernel: Array, mask: Any) -> QTensor:
    def matrix(kernel: Array) -> QTensor:
        return layout.matrix(_masked(kernel, mask).astype(dtype), spec)

    for _ in range(kernel.ndim - layout.rank):
        matrix = jax.vmap(matrix)
    return matrix(kernel)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _on_grid(layout: Layout, spec: TensorSpec, dtype: Any, kernel: Array, mask: Any) -> Array:
    def values(kernel: Array) -> Array:
        view, k, n = layout.view(_masked(kernel, mask).astype(dtype))
        axes = (n, k) if spec.tiles else k
        return fake_quantize(view, spec, axes).reshape(kernel.shape).astype(kernel.dtype)

    for _ in range(kernel.ndim - layout.rank):
        values = jax.vmap(values)
    return values(kernel)


def _masked(kernel: Array, mask: Any) -> Array:
    return kernel if mask is None else kernel * jnp.asarray(mask, kernel.dtype)


def dot_matrix(
    kernel: Shaped[Array, "*batch_in_out"], batch: int, inner: int, spec: TensorSpec
) -> QTensor:
    """(*batch, *in, *out) -> (b, k, n), or (k, n) without batch dimensions.

    Example:
        >>> dot_matrix(jnp.ones((2, 16, 8)), 0, 2, TensorSpec()).shape
        (32, 8)
    """
    shape = kernel.shape
    leading = (math.prod(shape[:batch]),) if batch else ()
    k, n = math.prod(shape[batch : batch + inner]), math.prod(shape[batch + inner :])
    return quantize(kernel.reshape(*leading, k, n), spec, _axes(spec, -2, -1))


def conv_matrix(
    kernel: Shaped[Array, "*taps i groups_o"], groups: int, spec: TensorSpec
) -> QTensor:
    """(*taps, i, groups o) -> (group, taps i', o), or without the first; i' = i padded to 16.

    Example:
        >>> conv_matrix(jnp.ones((3, 3, 20, 8)), 1, TensorSpec()).shape
        (288, 8)
    """
    *taps, i, o = kernel.shape
    q = quantize(kernel.reshape(*taps, i, groups, o // groups), spec, _axes(spec, -3, -1))
    # codes (*taps, group, o, i'/2) -> (group, o, taps i'/2)
    space = len(taps)

    def arranged(a: Array) -> Array:
        a = jnp.moveaxis(a, range(space), range(2, 2 + space))
        a = a.reshape(*a.shape[:2], -1)
        return a if groups > 1 else a[0]

    k, o = math.prod(taps) * 2 * q.codes.shape[-1], o // groups
    return _matrix(q, arranged(q.codes), arranged(q.block_scales), k, o)


def transposed_matrix(kernel: Shaped[Array, "*taps i o"], spec: TensorSpec) -> QTensor:
    """(*taps, i, o) -> (i, taps o'), taps in reverse order; o' = o, padded to 16 for tiles.

    Example:
        >>> transposed_matrix(jnp.ones((4, 4, 20, 8)), TensorSpec()).shape
        (20, 128)
    """
    space = tuple(range(kernel.ndim - 2))
    reversed_taps = lax.rev(kernel, space)
    q = quantize(reversed_taps, spec, _axes(spec, -2, -1))

    def arranged(a: Array) -> Array:
        return a.reshape(-1, a.shape[-1])

    codes = arranged(q.codes)
    # with hadamard k is the padded length
    k = q.in_rotated_basis().lengths[-1]
    return _matrix(q, codes, arranged(q.block_scales), k, codes.shape[0])


def _axes(spec: TensorSpec, k: int, n: int) -> int | tuple[int, int]:
    """Blocks along k, or tiles over (n, k)."""
    return k if spec.block[0] == 1 else (n, k)


def _matrix(q: QTensor, codes: Array, scales: Array, k: int, n: int) -> QTensor:
    """q's amax and spec with other codes (*batch, n, k / 2)."""
    tiles = len(q.axes) == 2
    return dataclasses.replace(
        q,
        codes=codes,
        block_scales=scales,
        axes=(-1, -2) if tiles else (-2,),
        lengths=(n, k) if tiles else (k,),
    )
