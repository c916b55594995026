"""Convolutions of packed kernels, channels last: as one GEMM, or dequantized first.

As a GEMM, a convolution is (patches of x) @ (taps i, n), and a transposed convolution is
x @ (i, taps n) followed by an overlap-add: w is read as it is stored. This is done

* where every pixel enters one patch: 1 x 1 kernels, and kernels as large as their stride;
* where patches (or what is added up) are no larger than the float kernel: at most as many
  positions as w has columns (transposed: rows). There the weights are what has to be read.

Elsewhere patches would be ``taps / stride`` times x, several times more than the weights, and the
kernel is dequantized (to values that are exact in bfloat16) for an ordinary convolution. The
result is the same up to the order of float32 sums. A kernel that is decoded already always enters
an ordinary convolution.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core.qtensor import QTensor
from fp4jax.core.typing import Array
from fp4jax.kernels import Decoded
from fp4jax.ops import gemm
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.geometry import Geometry, Window, merge_groups, resolve
from fp4jax.ops.convolution.taps import columns, overlap_add
from fp4jax.ops.gemm import Operand
from fp4jax.packed.matmul import accumulate, kernel_operand, matmul, precision_of, scaled
from fp4jax.packed.product import Product


@dataclasses.dataclass(frozen=True)
class Convolution(Product):
    """x (n, *in, groups c) and w (*group, taps c', o), c' = c padded to 16, to (n, *out, groups o).

    ``hadamard`` pads the channels of x to c' as well.
    """

    window: Window
    # zeros between the pixels of x
    input_dilation: tuple[int, ...]
    # c, of a group
    channels: int

    @classmethod
    def of(cls, x: Any, kernel: Any, arguments: dict[str, Any], **options: Any) -> "Convolution":
        """From what a layer calls ``lax.conv_general_dilated`` with; it resolves the padding."""
        geometry = _geometry(lax.conv_general_dilated, x, kernel, arguments)
        return cls(
            **options,
            window=geometry.window,
            input_dilation=geometry.input_dilation,
            channels=kernel.shape[-2],
        )

    def prepare(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.window.groups, self.channels)

    def multiply(self, x: Any, w: QTensor | Decoded, *, plain: bool = False) -> Array:
        merged = merge_groups(x.values)
        space = ((0, 0, d - 1) for d in self.input_dilation)
        config = [(0, 0, 0), *space, (0, 0, 0)]
        image = Operand(lax.pad(merged, jnp.zeros((), merged.dtype), config), x.scale)
        outputs = w.shape[-1]
        positions = image.values.shape[0] * math.prod(self.window.grid)
        as_gemm = not plain and (_no_overlap(self.window) or positions <= outputs)
        if as_gemm and not isinstance(w, Decoded):
            return self._as_gemm(image, w)
        values, scale = kernel_operand(w)
        kernel = self.kernel(values, x.values.shape[-1])
        gather = functools.partial(windows.gather, window=self.window)
        precision = precision_of(image) if as_gemm else self.precision
        return gemm.contract(image, Operand(kernel, scale), gather, self.out_dtype, precision)

    def kernel(self, values: Array, channels: int) -> Array:
        """(*group, o, taps c') -> (*taps, c, group o), of the first channels of each tap."""
        o, columns = values.shape[-2:]
        kernel = values.reshape(-1, o, *self.window.taps, columns // self._taps)[..., :channels]
        return jnp.moveaxis(kernel, (0, 1), (-2, -1)).reshape(*kernel.shape[2:], -1)

    @property
    def _taps(self) -> int:
        return self.window.number_of_taps

    def _as_gemm(self, image: Operand, w: QTensor) -> Array:
        groups = self.window.groups
        patches = columns(image.values, self.window)
        n, *grid, _ = patches.shape
        taps, c = self._taps, image.values.shape[-1]
        padded = w.shape[-2] // taps
        split = patches.reshape(n * math.prod(grid), taps, groups, c // groups)
        split = jnp.pad(split, ((0, 0), (0, 0), (0, 0), (0, padded - c // groups)))
        rows = jnp.moveaxis(split, 2, 0).reshape(groups, split.shape[0], taps * padded)
        rows = rows if w.ndim == 3 else rows[0]
        y = matmul(Operand(rows, image.scale), w, self.out_dtype)
        y = y if y.ndim == 2 else jnp.moveaxis(y, 0, 1)
        return y.reshape(n, *grid, groups * w.shape[-1])


@dataclasses.dataclass(frozen=True)
class TransposedConvolution(Product):
    """x (n, *in, c) and w (c, taps o'), o' = o or, for tiles, o padded to 16, to (n, *out, o).

    The taps of w are in reverse order, so that tap t of x's pixel q adds to y's pixel
    q stride + t dilation - low.
    """

    window: Window
    # o
    outputs: int

    @classmethod
    def of(
        cls, x: Any, kernel: Any, arguments: dict[str, Any], **options: Any
    ) -> "TransposedConvolution":
        """From what a layer calls ``lax.conv_transpose`` with; it resolves the padding."""
        window = _geometry(lax.conv_transpose, x, kernel, arguments).window
        return cls(**options, window=window, outputs=kernel.shape[-1])

    def prepare(self, x: Array) -> Array:
        return x

    def multiply(self, x: Any, w: QTensor | Decoded, *, plain: bool = False) -> Array:
        n, *grid, c = x.values.shape
        if _is_empty(x, self.window):
            return jnp.zeros((n, *self.window.image, self.outputs), self.out_dtype)
        taps, k = self.window.number_of_taps, w.shape[-2]
        positions = n * math.prod(grid)
        as_gemm = not plain and (_no_overlap(self.window) or positions <= k)
        if as_gemm and not isinstance(w, Decoded):
            rows = Operand(x.values.reshape(positions, c), x.scale)
            parts = accumulate(rows, w).reshape(n, *grid, *self.window.taps, w.shape[-1] // taps)
            sums = overlap_add(parts[..., : self.outputs], self.window)
            return scaled(sums, x, w, self.out_dtype)
        values, scale = kernel_operand(w)
        scatter = functools.partial(windows.scatter, window=self.window)
        kernel = Operand(self.kernel(values, k), scale)
        precision = precision_of(x) if as_gemm else self.precision
        return gemm.contract(x, kernel, scatter, self.out_dtype, precision)

    def kernel(self, values: Array, channels: int) -> Array:
        """(taps o', c) -> (*taps, o, c), of the first channels."""
        taps = self.window.taps
        kernel = values.reshape(*taps, values.shape[-2] // math.prod(taps), values.shape[-1])
        return kernel[..., : self.outputs, :channels]


def _geometry(function: Any, x: Any, kernel: Any, arguments: dict[str, Any]) -> Geometry:
    """The geometry of a layer's call of lax, channels last."""
    types = (jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (x, kernel))
    call = functools.partial(function, **arguments)
    return resolve(call, *types, mirrored=function is lax.conv_transpose).geometry


def _is_empty(x: Operand, window: Window) -> bool:
    """True if no value of x reaches the result: no examples, or no pixels on one side."""
    return 0 in (x.values.shape[0], *window.image, *window.grid)


def _no_overlap(window: Window) -> bool:
    """True if no pixel of the image belongs to two patches."""
    return all(reach < stride for reach, stride in zip(window.reach, window.stride, strict=True))
