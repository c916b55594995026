"""quantize(x, spec, axis, key) -> QTensor, and fake_quantize with a straight-through gradient."""

import dataclasses
import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, formats, hooks, implementations, reference, sharding
from fp4jax.core.blocks import Axis, normalize_axes
from fp4jax.core.qtensor import QTensor
from fp4jax.core.scaling import MAGNITUDE_BITS
from fp4jax.core.seeds import AxisName, Seed, seed, shard_word
from fp4jax.core.spec import TensorSpec, shown
from fp4jax.core.typing import Array, ArrayLike, Float, Shaped

#: What profiles call the work of quantizers: ``jax.named_scope`` changes names alone.
SCOPE = "fp4_quantize"


def quantize(
    x: Shaped[ArrayLike, "..."],
    spec: TensorSpec,
    axis: Axis = -1,
    key: Array | None = None,
    *,
    amax: Shaped[ArrayLike, "..."] | None = None,
    axis_name: AxisName = None,
    implementation: str = "auto",
) -> QTensor:
    """Quantizes an array, to NVFP4 or to the spec's format.

    Args:
        x: float32, bfloat16 or float16, rank >= 1 (>= 2 for 16x16 tiles), any size.
        spec: how; see :class:`TensorSpec`.
        axis: the axis along which 16 values share a scale, that is the contracted axis of the
            product the tensor enters; a (row, column) pair for 16x16 tiles, default the last two.
        key: a ``jax.random`` key, needed if the spec rounds stochastically.
        amax: A, in place of the tensor's own: one non-negative number, such as another array's
            ``quantize(...).amax``. ``spec.amax="static"`` needs it; with "tensor" the result's
            spec says "static" then. With ``spec.hadamard`` that of the rotated array. For "learned"
            too; there None and 0 mean x's own.
        axis_name: of one or several mapped axes (``jax.vmap``, ``jax.shard_map``) of whose parts x
            is one: amax is the largest of all (``lax.pmax``), as that of the whole array, and
            shards that hold one key round with bits of their own. For ``spec.amax="tensor"``.
            (Formats without a tensor scale have no amax to reduce; the bits differ all the same.)
        implementation: who computes it; the bits are the same. "auto": fused kernels on a GPU that
            they are written for, else jax.numpy (:func:`fp4jax.kernels.explain_quantize` says
            which, and why); "reference": jax.numpy; "fused": the kernels, or a ValueError.

    Returns:
        A :class:`QTensor` of x's shape. With ``spec.hadamard`` its codes are those of the rotated
        array, and its ``dequantize()`` rotates back.

    Raises:
        ValueError: for a dtype, rank or axis that cannot be quantized, a missing key or static
            amax, an amax or axis_name that the spec has no use for, an unknown implementation, or
            "fused" where no kernel can do it.
        NameError: from JAX, for an axis_name that is not mapped.

    The gradient of ``quantize(x, ...).dequantize()`` is zero; :func:`fake_quantize` passes it on.

    Zeros give exact zeros; a NaN anywhere makes every value NaN; an Inf makes every value NaN or
    Inf, as in TransformerEngine. (Of the blocks alone in which they are, where a format has no
    tensor scale. With a given amax, to which larger numbers are clamped, a NaN or an Inf makes its
    block NaN, or itself in formats without blocks: neither is taken for a large number.)
    One thing is not fp4jax's to say: in which order XLA:CPU adds the 16 numbers of a rotation
    along the last axis (``spec.hadamard``; see :mod:`fp4jax.core.hadamard`).

    Example:
        >>> import jax.numpy as jnp
        >>> q = quantize(jnp.linspace(-1.0, 1.0, 32).reshape(2, 16), TensorSpec())
        >>> q.shape, q.nbytes, q.codes.dtype.name
        ((2, 16), 22, 'uint8')
        >>> static = TensorSpec(amax="static")
        >>> float(quantize(jnp.ones((2, 16)), static, amax=2.0).amax)
        2.0
        >>> quantize(jnp.ones((2, 16)), TensorSpec(amax="row")).tensor_scale.shape
        (2, 1)
    """
    spec = _with_given(spec, amax)
    array, axes = _checked(x, spec, axis, key)
    fused = _choose(implementation, array, spec, axes, "packed")
    amax = _amax(array, spec, axes, amax, axis_name)
    return _quantize(array, spec, axes, fused, _seed(array, spec, key, axis_name), amax)


# Jitted so that eager calls are one fused program, too; inlined into a surrounding jit.
@functools.partial(jax.jit, static_argnums=(1, 2, 3), inline=True)
@jax.named_scope(SCOPE)
def _quantize(
    x: Array,
    spec: TensorSpec,
    axes: tuple[int, ...],
    fused: bool,
    seed: Seed | None,
    amax: Array | None,
) -> QTensor:
    blocks = sharding.blocks_of(x, axes)
    shardings = None
    if blocks is not None:
        has_blocks, has_amax = spec.format.block is not None, spec.has_tensor_scale
        scales = blocks if has_blocks else None
        shardings = (blocks, scales, sharding.replicated() if has_amax else None)

    def compute(x: Array, seed: Seed | None, amax: Array | None) -> tuple[Array, Any, Any]:
        return implementations.of(fused).packed(x, seed, _one_tensor(spec), axes, amax)

    codes, block_scales, amax = sharding.automatic(compute, shardings)(x, seed, amax)
    return QTensor(
        codes=codes,
        block_scales=block_scales,
        amax=amax,
        axes=tuple(a - x.ndim for a in axes),
        lengths=tuple(x.shape[a] for a in axes),
        spec=spec,
    )


def fake_quantize(
    x: Shaped[ArrayLike, "..."],
    spec: TensorSpec,
    axis: Axis = -1,
    key: Array | None = None,
    *,
    amax: Shaped[ArrayLike, "..."] | None = None,
    axis_name: AxisName = None,
    implementation: str = "auto",
) -> Shaped[Array, "..."]:
    """Quantizes and dequantizes, in x's dtype and shape; the gradient passes straight through.

    Equivalent to ``quantize(x, spec, axis, key).dequantize(x.dtype)``, with
    ``d fake_quantize(x) / dx = 1``, beyond a static amax too; with ``spec.clip`` and a learned amax
    the gradients are those of :mod:`fp4jax.core.hooks`. Under ``shard_map`` amax is that of
    each shard, of all of them with ``axis_name``, and shards that hold one key draw bits of their
    own (with ``check_vma=False``, give ``axis_name``, or fold ``jax.lax.axis_index`` into the key).
    In float16, values that are rounded up beyond 65504 (which "stochastic_unbiased"
    and hadamard may do) become Inf.

    Args, raises: as :func:`quantize`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([0.1, 0.24, 0.9, 6.0])
        >>> fake_quantize(x, TensorSpec()).tolist()
        [0.0, 0.0, 1.0, 6.0]
        >>> jax.grad(lambda x: fake_quantize(x, TensorSpec()).sum())(x).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    spec = _with_given(spec, amax)
    array, axes = _checked(x, spec, axis, key)
    fused = _choose(implementation, array, spec, axes, "fake")
    used = _amax(array, spec, axes, amax, axis_name)
    seeds = _seed(array, spec, key, axis_name)
    if spec.hooked and used is not None:

        def fake(x: Array, used: Array) -> Array:
            return _fake_quantize(x, spec, axes, fused, None, used)

        array, used = hooks.hooked(spec, array, amax, used, fake)
    return _fake_quantize(array, spec, axes, fused, seeds, used)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
@jax.named_scope(SCOPE)
def _straight_through(
    x: Array,
    spec: TensorSpec,
    axes: tuple[int, ...],
    fused: bool,
    seed: Seed | None,
    amax: Array | None,
) -> Array:
    def compute(x: Array, seed: Seed | None, amax: Array | None) -> Array:
        return implementations.of(fused).fake(x, seed, _one_tensor(spec), axes, amax)

    return sharding.automatic(compute, sharding.of(x))(x, seed, amax)


@_straight_through.defjvp
def _identity_gradient(spec, axes, fused, primals, tangents):
    x, seed, amax = primals
    return _straight_through(x, spec, axes, fused, seed, amax), tangents[0]


_fake_quantize = jax.jit(_straight_through, static_argnums=(1, 2, 3), inline=True)


@jax.named_scope(SCOPE)
def operand(
    x: Array,
    seed: Array | Seed | None,
    amax: Array | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    apart: tuple[int, ...] = (),
) -> tuple[Shaped[Array, "..."], Float[Array, "*parts"] | None]:
    """As :func:`fp4jax.core.reference.operand`, by whom "auto" chooses: operands of recipes."""
    if apart:
        return reference.operand(x, seed, amax, spec, axes, apart)
    if amax is None and spec.clip != 1:
        amax = tensor_amax(x, spec, axes)
    fused = _choose("auto", x, spec, axes, "operand")
    return implementations.of(fused).operand(x, seed, amax, _one_tensor(spec), axes)


@jax.named_scope(SCOPE)
def tensor_amax(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], apart: tuple[int, ...] = ()
) -> Float[Array, "*parts"]:
    """As :func:`fp4jax.core.reference.tensor_amax`, by whom "auto" chooses; times ``spec.clip``."""
    if apart:
        return reference.tensor_amax(x, spec, axes, apart)
    fused = _choose("auto", x, spec, axes, "operand")
    amax = implementations.of(fused).tensor_amax(x, _one_tensor(spec), axes)
    return amax if spec.clip == 1 else amax * np.float32(spec.clip)


def largest_of_shards(amax: Float[Array, "*parts"], axis_name: AxisName) -> Float[Array, "*parts"]:
    """The largest along mapped axes; NaN and Inf are kept."""
    bits = exact.bits(lax.stop_gradient(amax)) & MAGNITUDE_BITS
    return exact.from_bits(lax.pmax(bits, axis_name))


def static_amax(amax: Any, what: str) -> Float[Array, ""]:
    """A given amax as a float32 scalar; ``what`` starts the message of the ValueError."""
    if amax is None:
        raise ValueError(
            f"{what} has amax='static' but none is given; pass it, for example quantize(x, "
            "TensorSpec()).amax of a calibration batch, or use amax='tensor'."
        )
    try:
        array = jnp.asarray(amax)
    except TypeError:
        raise ValueError(
            f"the amax of {what} is {shown(amax)}; give one non-negative float."
        ) from None
    if array.ndim or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"the amax of {what} has shape {array.shape} and dtype {array.dtype}; give one "
            "non-negative float (several by jax.vmap)."
        )
    # Of what the host holds alone: to look at a device's number is to wait for it.
    if isinstance(amax, float | np.floating) and amax < 0:
        raise ValueError(f"the amax of {what} is {amax}; give one non-negative float.")
    return array.astype(jnp.float32)


def _one_tensor(spec: TensorSpec) -> TensorSpec:
    """As implementations know it: an amax is the tensor's, or it is given."""
    if not spec.given and spec.clip == 1:
        return spec
    return dataclasses.replace(spec, amax="static" if spec.given else "tensor", clip=1.0)


def _with_given(spec: Any, amax: Any) -> Any:
    """A spec that takes the tensor's own amax as one that takes the amax that is given."""
    plain = isinstance(spec, TensorSpec) and spec.amax == "tensor" and spec.clip == 1
    if amax is None or not plain or not spec.has_tensor_scale:
        return spec
    return dataclasses.replace(spec, amax="static")


def _choose(
    implementation: str, x: Array, spec: TensorSpec, axes: tuple[int, ...], result: str
) -> bool:
    spec = _one_tensor(spec)
    return implementations.choose(implementation, x.shape, x.dtype, spec, axes, result)


def _amax(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], amax: Any, axis_name: AxisName
) -> Array | None:
    """The amax of another tensor than x: the given one, or that of all shards; None for x's own."""
    if axis_name is not None and spec.amax != "tensor":
        raise ValueError(
            f"axis_name is {axis_name!r} with TensorSpec.amax={spec.amax!r}; one amax is reduced "
            "over mapped axes, that of amax='tensor'."
        )
    if spec.amax == "static":
        return static_amax(amax, "the spec")
    if spec.amax == "learned":
        own = tensor_amax(x, spec, axes)
        return own if amax is None else hooks.known(static_amax(amax, "the spec"), own)
    if amax is not None and not spec.has_tensor_scale:
        raise ValueError(
            f"amax is given, but {spec.format.name} has no tensor scale, only those of blocks: "
            "leave it out, or use a format that has one, as nvfp4, fp8 and int8."
        )
    if amax is not None:
        raise ValueError(
            f"amax is given, but the spec, with amax={spec.amax!r} and clip={spec.clip}, in "
            f"{spec.format.name}, has no use for it: use TensorSpec(amax='static')."
        )
    if (axis_name is None and spec.clip == 1) or not spec.has_tensor_scale:
        return None
    own = tensor_amax(x, spec, axes)
    return own if axis_name is None else largest_of_shards(own, axis_name)


def _checked(
    x: Shaped[ArrayLike, "..."], spec: TensorSpec, axis: Axis, key: Array | None
) -> tuple[Array, tuple[int, ...]]:
    """x as an array and its block axes, non-negative; ValueError unless it can be quantized so."""
    if not isinstance(spec, TensorSpec):
        a_recipe = hasattr(spec, "fprop")
        hint = "did you mean recipe.fprop[0]?" if a_recipe else "for example TensorSpec()."
        raise ValueError(f"spec is {shown(spec)}; give a TensorSpec, {hint}")
    array = formats.float_array("x", x)
    if array.ndim == 0:
        raise ValueError("x is a scalar; blocks need an axis: reshape it to (1,) or more.")
    parts = axis if isinstance(axis, tuple | list) else (axis,)
    if not all(isinstance(a, numbers.Integral) for a in parts):
        raise ValueError(f"axis is {shown(axis)}; give an int, or two of them for 16x16 blocks.")
    axes = normalize_axes(axis, spec.block, array.ndim)
    if spec.amax == "example" and 0 in axes:
        raise ValueError(
            f"axis is {shown(axis)}, the leading one, along which amax='example' has an amax for "
            "each place: quantize along another axis, or use amax='tensor' or 'row'."
        )
    if spec.stochastic and key is None:
        raise ValueError(
            f"rounding {spec.rounding!r} needs random bits but key is None; pass "
            "key=jax.random.key(seed), a different one for every step and tensor."
        )
    if spec.stochastic:
        check_key(key)
    return array, axes


def _seed(x: Array, spec: TensorSpec, key: Array | None, axis_name: AxisName = None) -> Seed | None:
    """What x is rounded with; under ``shard_map`` another for each shard."""
    if not spec.stochastic or key is None:
        return None
    return seed(key).apart(shard_word(key, x, axis_name=axis_name))


def check_key(key: Any, name: str = "key") -> None:
    """ValueError unless ``key`` is one ``jax.random`` key, typed or raw."""
    if not hasattr(key, "dtype"):
        raise ValueError(f"{name} is {shown(key)}; pass jax.random.key(0).")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and (key.dtype != jnp.uint32 or key.ndim == 0):
        raise ValueError(f"{name} is an array of {key.dtype}; pass jax.random.key(0).")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"{name} has shape {key.shape}; pass one key, or several by jax.vmap.")
