"""quantize(x, spec, axis, key) -> QTensor, and fake_quantize with a straight-through gradient."""

import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fp4jax.core import formats, hadamard, rounding, scaling, sharding
from fp4jax.core.blocks import Axis, BlockView, normalize_axes
from fp4jax.core.qtensor import QTensor
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.core.typing import Array, ArrayLike, Float, Shaped
from fp4jax.ops.recipe import Recipe


class Encoded(NamedTuple):
    """A quantized array in its blocked view, before it is packed, decoded or multiplied.

    ``values`` are code values (-6 to 6), ``scales`` the E4M3 block scales as float32 with 1 at the
    inner axes: ``values * scales`` is exact, has at most 6 significant bits, and is x in units of
    the tensor scale amax / bound.
    """

    values: Float[Array, "..."]
    scales: Float[Array, "..."]
    amax: Float[Array, ""]
    view: BlockView


def quantize(
    x: Shaped[ArrayLike, "..."], spec: TensorSpec, axis: Axis = -1, key: Array | None = None
) -> QTensor:
    """Quantizes an array to NVFP4.

    Args:
        x: float32, bfloat16 or float16, rank >= 1 (>= 2 for 16x16 tiles), any size.
        spec: how; see :class:`TensorSpec`.
        axis: the axis along which 16 values share a scale, that is the contracted axis of the
            product the tensor enters; a (row, column) pair for 16x16 tiles, default the last two.
        key: a ``jax.random`` key, needed if the spec rounds stochastically.

    Returns:
        A :class:`QTensor` of x's shape. With ``spec.hadamard`` it holds the rotated array, whose
        ``axis`` is padded to a multiple of 16.

    Raises:
        ValueError: for a dtype, rank or axis that cannot be quantized, or a missing key.

    The gradient of ``quantize(x, ...).dequantize()`` is zero; :func:`fake_quantize` passes it on.

    Zeros give exact zeros; a NaN anywhere makes every value NaN; an Inf makes every value NaN or
    Inf, as in TransformerEngine.

    Example:
        >>> import jax.numpy as jnp
        >>> q = quantize(jnp.linspace(-1.0, 1.0, 32).reshape(2, 16), TensorSpec())
        >>> q.shape, q.nbytes, q.codes.dtype.name
        ((2, 16), 22, 'uint8')
    """
    x, axes = _checked(x, spec, axis, key)
    return _quantize(x, spec, axes, key)


# Jitted so that eager calls are one fused program, too; inlined into a surrounding jit.
@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _quantize(x: Array, spec: TensorSpec, axes: tuple[int, ...], key: Array | None) -> QTensor:
    blocks = sharding.blocks_of(x, axes)
    compute = functools.partial(_pack, spec=spec, axes=axes)
    shardings = None if blocks is None else (blocks, blocks, sharding.replicated())
    codes, block_scales, amax = sharding.automatic(compute, shardings)(x, key)
    view = BlockView(x.shape, axes)
    lengths = view.padded_shape if spec.hadamard else view.shape
    return QTensor(
        codes=codes,
        block_scales=block_scales,
        amax=amax,
        axes=tuple(a - x.ndim for a in axes),
        lengths=tuple(lengths[a] for a in axes),
        bound=float(spec.bound),
    )


def _pack(
    x: Array, key: Array | None, *, spec: TensorSpec, axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Packed codes and block scales with the blocked axes moved last, and amax."""
    encoded = encode(x, spec, axes, key)
    view = encoded.view
    last = tuple(range(-len(axes), 0))
    codes = formats.encode_e2m1(encoded.values).reshape(view.padded_shape)
    scales = formats.e4m3_bytes(view.per_block(encoded.scales))
    return (
        formats.pack(jnp.moveaxis(codes, axes, last)),
        jnp.moveaxis(scales, axes, last),
        encoded.amax,
    )


def fake_quantize(
    x: Shaped[ArrayLike, "..."], spec: TensorSpec, axis: Axis = -1, key: Array | None = None
) -> Shaped[Array, "..."]:
    """Quantizes and dequantizes, in x's dtype and shape; the gradient passes straight through.

    Equivalent to ``quantize(x, spec, axis, key).dequantize(x.dtype)``, rotated back and cut to x's
    length if the spec has hadamard, with ``d fake_quantize(x) / dx = 1``. Under ``shard_map`` and
    ``pmap`` amax and random bits are those of each shard. In float16, values that are rounded up
    beyond 65504 (which "stochastic_unbiased" and hadamard may do) become Inf.

    Args, raises: as :func:`quantize`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([0.1, 0.24, 0.9, 6.0])
        >>> fake_quantize(x, TensorSpec()).tolist()
        [0.0, 0.0, 1.0, 6.0]
        >>> jax.grad(lambda x: fake_quantize(x, TensorSpec()).sum())(x).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    x, axes = _checked(x, spec, axis, key)
    return _fake_quantize(x, spec, axes, key)


def _checked(
    x: Shaped[ArrayLike, "..."], spec: TensorSpec, axis: Axis, key: Array | None
) -> tuple[Array, tuple[int, ...]]:
    """x as an array and its block axes, non-negative; ValueError unless it can be quantized so."""
    if not isinstance(spec, TensorSpec):
        hint = (
            "did you mean recipe.fprop[0]?"
            if isinstance(spec, Recipe)
            else "for example TensorSpec()."
        )
        raise ValueError(f"spec is {shown(spec)}; give a TensorSpec, {hint}")
    array = formats.float_array("x", x)
    if array.ndim == 0:
        raise ValueError("x is a scalar; blocks need an axis: reshape it to (1,) or more.")
    parts = axis if isinstance(axis, tuple | list) else (axis,)
    if not all(isinstance(a, numbers.Integral) for a in parts):
        raise ValueError(f"axis is {shown(axis)}; give an int, or two of them for 16x16 blocks.")
    axes = normalize_axes(axis, spec.block, array.ndim)
    if spec.stochastic and key is None:
        raise ValueError(
            f"rounding {spec.rounding!r} needs random bits but key is None; pass "
            "key=jax.random.key(seed), a different one for every step and tensor."
        )
    if spec.stochastic:
        check_key(key)
    return array, axes


def check_key(key: Any, name: str = "key") -> None:
    """ValueError unless ``key`` is one ``jax.random`` key, typed or raw."""
    if not hasattr(key, "dtype"):
        raise ValueError(f"{name} is {shown(key)}; pass jax.random.key(0).")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and (key.dtype != jnp.uint32 or key.ndim == 0):
        raise ValueError(f"{name} is an array of {key.dtype}; pass jax.random.key(0).")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"{name} has shape {key.shape}; pass one key, or several by jax.vmap.")


def tensor_amax(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Float[Array, ""]:
    """The tensor amax that :func:`encode` finds (after the rotation, if any)."""
    kernels = fused(x, spec, axes)
    return _tensor_amax(x, spec, axes) if kernels is None else kernels.tensor_amax(x)


def _tensor_amax(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Float[Array, ""]:
    blocked, view = _cut(x, spec, axes)
    return scaling.find_amax(blocked, view).tensor


def fused(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Any:
    """fp4jax.kernels' quantizer of such an operand of a GEMM, where a GPU has one; else None."""
    if jax.default_backend() == "cpu":
        return None  # and Pallas is not imported
    from fp4jax.kernels.fused_quantizer import dispatch

    return dispatch.for_recipes(x, spec, axes)


def _cut(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> tuple[Array, BlockView]:
    """Rotates if the spec says so, and cuts into blocks; float32."""
    if spec.hadamard:
        x = hadamard.random_hadamard(x, axes[0])
    view = BlockView(x.shape, axes)
    return view.split(x.astype(jnp.float32)), view


def encode(
    x: Array,
    spec: TensorSpec,
    axes: tuple[int, ...],
    key: Any,
    amax_of_all: Float[Array, ""] | None = None,
) -> Encoded:
    """The quantizer itself, on checked input: rotate, cut into blocks, scale, round.

    ``amax_of_all`` replaces the tensor amax where x is a part of a larger tensor.
    """
    blocked, view = _cut(x, spec, axes)
    amax = scaling.find_amax(blocked, view)
    if amax_of_all is not None:
        amax = amax._replace(tensor=amax_of_all)
    if spec.scaling == "four_over_six":
        values, scales = scaling.choose_four_over_six(blocked, amax, spec, view)
        return Encoded(values, scales, amax.tensor, view)
    scale = scaling.find_scale(amax, spec)
    y = blocked * scale.encode
    if spec.stochastic:
        bits = rounding.random_bits(key, view.padded_shape, spec.random_bits)
        values = rounding.round_stochastic(y, bits.reshape(view.split_shape))
    else:
        values = rounding.round_nearest(y)
    return Encoded(values, scale.block, amax.tensor, view)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _straight_through(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], key: Array | None
) -> Array:
    def compute(x: Array, key: Array | None) -> Array:
        encoded = encode(x, spec, axes, key)
        multiplier = scaling.decode_multiplier(encoded.scales, encoded.amax, spec.bound)
        y = encoded.view.merge(encoded.values * multiplier)
        if spec.hadamard:
            y = hadamard.inverse_random_hadamard(y, axes[0])
            y = jax.lax.slice_in_dim(y, 0, x.shape[axes[0]], axis=axes[0])
        return y.astype(x.dtype)

    return sharding.automatic(compute, sharding.of(x))(x, key)


@_straight_through.defjvp
def _identity_gradient(spec, axes, primals, tangents):
    x, key = primals
    return _straight_through(x, spec, axes, key), tangents[0]


_fake_quantize = jax.jit(_straight_through, static_argnums=(1, 2), inline=True)
