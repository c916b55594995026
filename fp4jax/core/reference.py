"""The quantizer in jax.numpy: what every other implementation is compared with, bit for bit.

Each function takes a checked array, a key or its seed (None unless the spec is stochastic), the
spec and the blocked axes (non-negative; row first). Fused kernels have the same functions with the
same bits.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from fp4jax.core import formats, hadamard, rounding, scale_types, scaling
from fp4jax.core.blocks import BlockView
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped

#: Elements of a piece, from which pieces of blocks are faster than padding, on two CPU cores: 24
#: and 36 channels (8 and 4) take 0.5 and 0.6 of the time, 18 channels (2) would take 1.2 of it.
#: ``python -m benchmarks.bench_quantize`` measures 24 and 36 again.
SMALLEST_PIECE = 4


class Encoded(NamedTuple):
    """A quantized array in its blocked view, before it is packed, decoded or multiplied.

    ``values`` are code values (-6 to 6), ``scales`` the block scales, with 1 at the inner axes:
    E4M3 numbers as float32, or what :mod:`fp4jax.core.scale_types` has for other formats. NVFP4's
    ``values * scales`` is exact, has at most 6 significant bits, and is x in units of the tensor
    scale amax / bound.
    """

    values: Float[Array, "..."]
    scales: scale_types.Scales
    # see scaling.Amax; None without a tensor scale
    tensor_amax: Float[Array, "*parts"] | None
    view: BlockView

    @property
    def amax(self) -> Float[Array, "*parts"] | None:
        """That of the tensor, or of its parts in the array's rank."""
        return None if self.tensor_amax is None else _per_block(self.tensor_amax, self.view)


def encode(
    x: Array,
    spec: TensorSpec,
    axes: tuple[int, ...],
    key: Any,
    amax_of_all: Float[Array, "*parts"] | None = None,
    apart: tuple[int, ...] | None = None,
    pads: bool = True,
) -> Encoded:
    """Rotates, cuts into blocks, scales and rounds.

    ``amax_of_all`` replaces the tensor amax where x is a part of a larger tensor, or where the
    amax is given. ``apart``: axes along which each place has a tensor amax of its own; what the
    spec says of x by default. ``pads``: whether an axis that is shorter than a block is padded to
    one, as packed codes are; else the block is as short, with the same bits.

    Example:
        >>> encoded = encode(jnp.array([6.0, -3.2, 0.5]), TensorSpec(), (0,), None)
        >>> encoded.values[0, :3].tolist(), encoded.scales.tolist()
        ([6.0, -3.0, 0.5], [[448.0]])
    """
    blocked, view = _cut(x, spec, axes, pads)
    apart = apart_of(spec, axes, x.ndim) if apart is None else apart
    amax = scaling.find_amax(blocked, view, () if amax_of_all is not None else apart)
    if amax_of_all is not None:
        several = amax_of_all.ndim > 0
        amax = amax._replace(tensor=view.per_element(amax_of_all) if several else amax_of_all)
    if amax_of_all is not None and spec.given:
        # Nothing else would tell it from a large number: those are clamped to a given amax.
        if view.axes:
            amax = amax._replace(block=scaling.infinite_as_nan(amax.block, amax.tensor))
        else:
            blocked = scaling.infinite_as_nan(blocked, amax.tensor)
    if spec.scaling == "four_over_six":
        values, scales = scaling.choose_four_over_six(blocked, amax, spec, view)
        return Encoded(values, scales, amax.tensor, view)
    y, scales = scale_types.of(spec.format).scale(blocked, amax, spec)
    grid = spec.format.elements
    if spec.stochastic:
        values = rounding.round_stochastic(y, _random_bits(key, x.shape, axes, spec, view), grid)
    else:
        values = rounding.round_nearest(y, grid)
    return Encoded(values, scales, amax.tensor if spec.has_tensor_scale else None, view)


def apart_of(spec: TensorSpec, axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The axes of an array along which each place has a tensor amax of its own.

    Example:
        >>> apart_of(TensorSpec(amax="row"), (1,), 3), apart_of(TensorSpec(amax="example"), (1,), 3)
        ((0, 2), (0,))
    """
    if spec.amax == "row":
        return tuple(a for a in range(ndim) if a not in axes)
    return (0,) if spec.amax == "example" else ()


def packed(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Codes and block scales with the blocked axes moved last, and amax: as a QTensor stores them.

    None for block scales, or the amax, that the format does not have.

    Example:
        >>> codes, scales, amax = packed(jnp.ones((2, 20)), None, TensorSpec(), (1,))
        >>> codes.shape, scales.shape, float(amax)
        ((2, 16), (2, 2), 1.0)
    """
    encoded = encode(x, spec, axes, key, amax)
    view, format = encoded.view, spec.format

    def blocks_last(a: Array) -> Array:
        return jnp.moveaxis(a, axes, tuple(range(-len(axes), 0)))

    codes = format.elements.encode(encoded.values).reshape(view.padded_shape)
    scales, found = encoded.scales, encoded.amax
    if scales is not None:
        scales = scale_types.of(format).store(view.per_block(scales))
    codes = blocks_last(codes)
    return (
        formats.pack(codes) if format.stored_bits == 4 else codes,
        None if scales is None else blocks_last(scales),
        blocks_last(found) if found is not None and found.ndim else found,
    )


def operand(
    x: Array,
    key: Array | Seed | None,
    amax: Array | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    apart: tuple[int, ...] = (),
) -> tuple[Shaped[Array, "..."], Float[Array, "*parts"] | None]:
    """Code value * block scale in float32, and amax (None without): what enters a GEMM.

    With hadamard the blocked axis comes out padded to a multiple of 16, in the rotated basis.
    ``amax`` is that of a larger tensor of which x is a part, or given, or None. ``apart``: axes
    along which each place has an amax of its own; then amax has x's rank, and 1 elsewhere.

    Example:
        >>> values, amax = operand(jnp.array([6.0, 3.2]), None, None, TensorSpec(), (0,))
        >>> values.tolist(), float(amax)
        ([2688.0, 1344.0], 6.0)
    """
    encoded = encode(x, spec, axes, key, amax, apart, pads=False)
    product = scale_types.of(spec.format).product(encoded.values, encoded.scales)
    return encoded.view.merge(product), encoded.amax


def fake(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
) -> Shaped[Array, "..."]:
    """Quantized, dequantized and rotated back, in x's dtype and shape.

    Example:
        >>> fake(jnp.array([6.0, -3.2, 0.1]), None, TensorSpec(), (0,)).tolist()
        [6.0, -3.0, 0.0]
    """
    encoded = encode(x, spec, axes, key, amax, pads=False)
    kind = scale_types.of(spec.format)
    multiplier = kind.multiplier(encoded.scales, encoded.tensor_amax, spec)
    y = encoded.view.merge(kind.times(encoded.values, multiplier))
    if spec.hadamard:
        y = hadamard.inverse_random_hadamard(y, axes[0])
        y = lax.slice_in_dim(y, 0, x.shape[axes[0]], axis=axes[0])
    return y.astype(x.dtype)


def tensor_amax(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], apart: tuple[int, ...] = ()
) -> Float[Array, "*parts"]:
    """The tensor amax that :func:`encode` finds: after the rotation, if there is one.

    With ``apart`` it has x's rank, and 1 along all other axes.

    Example:
        >>> float(tensor_amax(jnp.array([1.0, -3.0]), TensorSpec(), (0,)))
        3.0
    """
    blocked, view = _cut(x, spec, axes, pads=False)
    return _per_block(scaling.find_amax(blocked, view, apart).tensor, view)


def _per_block(amax: Array, view: BlockView) -> Array:
    return view.per_block(amax) if amax.ndim else amax


def _cut(x: Array, spec: TensorSpec, axes: tuple[int, ...], pads: bool) -> tuple[Array, BlockView]:
    """Rotates if the spec says so, and cuts into blocks; float32."""
    if spec.hadamard:
        x = hadamard.random_hadamard(x, axes[0])
    view = _view(x.shape, spec, axes)
    if not pads and len(view.axes) == 1 and spec.scaling == "amax":
        view = _without_padding(view)
    return view.split(x.astype(jnp.float32)), view


def _without_padding(view: BlockView) -> BlockView:
    """Of an axis shorter than a block, or of pieces of blocks: padding costs passes over memory."""
    size, length = view.shape[view.axes[0]], view.length
    if 0 < size < length:
        return dataclasses.replace(view, length=size)
    piece = math.gcd(size, length)
    if SMALLEST_PIECE <= piece < length:
        return dataclasses.replace(view, length=piece, pieces=length // piece)
    return view


def _view(shape: tuple[int, ...], spec: TensorSpec, axes: tuple[int, ...]) -> BlockView:
    length = spec.format.block
    return BlockView(shape, ()) if length is None else BlockView(shape, axes, length)


def _random_bits(
    key: Any, shape: tuple[int, ...], axes: tuple[int, ...], spec: TensorSpec, view: BlockView
) -> Array:
    """Those of a padded array of ``shape``, in a view that may not be padded."""
    if spec.hadamard:
        shape = view.padded_shape
    bits = rounding.random_bits(key, _view(shape, spec, axes).padded_shape, spec.random_bits)
    own = lax.slice(bits, (0,) * bits.ndim, view.padded_shape)
    return own.reshape(view.split_shape)
