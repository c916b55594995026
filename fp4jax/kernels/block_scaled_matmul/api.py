"""scaled_matmul: an array or QTensor times a QTensor, and the choice of who computes it."""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from fp4jax.core import hadamard
from fp4jax.core.qtensor import QTensor
from fp4jax.core.two_modes import two_modes
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.kernels import backend, placement
from fp4jax.kernels.block_scaled_matmul import base, cudnn, pallas_triton
from fp4jax.kernels.block_scaled_matmul.checks import check, rotated
from fp4jax.kernels.block_scaled_matmul.operands import Decoded, Packed
from fp4jax.kernels.block_scaled_matmul.tiles import LARGEST_M, Tile, choose_tile
from fp4jax.kernels.experimental import mosaic

_log = logging.getLogger("fp4jax.kernels")


def scaled_matmul(
    a: Shaped[ArrayLike, "..."] | QTensor,
    # An array is refused, with the reason.
    b: QTensor | Decoded | Shaped[ArrayLike, "..."],
    *,
    implementation: str = "auto",
    preferred_element_type: DTypeLike | None = None,
    interpret: bool = False,
) -> Shaped[Array, "m n"]:
    """``a @ b`` with b in 4 bits: exact products, float32 sums, then the tensor scales.

        accumulator = sum_k a[m, k] * (code * block scale of b)[k, n]
        result = accumulator * tensor scale of b

    and, for a QTensor ``a``, (code * block scale) of a in the place of a[m, k], and accumulator *
    tensor scale of a * tensor scale of b: what the Blackwell NVFP4 GEMM computes. Implementations
    differ in the order of summation only; where all block scales are 1 and ``a`` is a QTensor,
    in nothing.

    Args:
        a: float32 or bfloat16 (W4A16), or a QTensor quantized along axis 1 (W4A4).
        b: a QTensor of shape (k, n), quantized along axis 0, or in 16x16 tiles with
            ``axis=(1, 0)``; or :func:`fp4jax.kernels.decode` of one, for repeated products of many
            rows.
        implementation: "reference" decodes b to bfloat16 and multiplies, on any device; "pallas"
            is a kernel that decodes on the way from memory, for NVIDIA GPUs since Ampere;
            "cudnn" Blackwell's FP4 units, for two QTensors; "mosaic" the same units by a kernel of
            our own, for sm_100 and sm_110 (experimental: never executed on hardware yet; it has
            to pass a check at its first use, or else the reference takes its place); "auto"
            chooses among the others, see :func:`explain`.
        preferred_element_type: dtype of the result; a's by default, float32 for a QTensor.
        interpret: evaluate the Pallas kernel without a GPU, slowly.

    Returns:
        The product, in ``preferred_element_type``. Works under ``jit``, ``vmap`` (over a, or
        stacks of QTensors), ``grad`` and ``jvp``: the gradient of a is ``g @ dequantized(b).T``,
        its tangent the product of da; those of a QTensor are zero.

    Raises:
        ValueError: for shapes, dtypes, quantized axes or scale layouts that do not fit, or an
            implementation that the device does not have; and for a QTensor ``a`` that is rotated
            by the random Hadamard transform where b is not, or the other way round.

    Where b is rotated (``b.spec.hadamard``), an array ``a`` is rotated along k as well, in its own
    dtype: the product is that of ``a`` and ``b.dequantize()``, up to rounding. Two rotated QTensors
    are multiplied as they are stored, ``a.dequantize(rotated=True) @ b.dequantize(rotated=True)``.

    Example:
        >>> import jax, jax.numpy as jnp, fp4jax as fp4
        >>> w = jax.random.normal(jax.random.key(0), (64, 8))
        >>> q = fp4.quantize(w, fp4.TensorSpec(), axis=0)
        >>> a = jax.random.normal(jax.random.key(1), (4, 64))
        >>> y = scaled_matmul(a, q)
        >>> bool(jnp.allclose(y, a @ q.dequantize(), atol=1e-4))
        True
    """
    if getattr(a, "dtype", None) in (jnp.float32, jnp.bfloat16) and not isinstance(a, QTensor):
        a = jnp.asarray(a)  # NumPy's float64 would become float32: it is refused instead
    check(a, b, implementation, interpret)
    a, b = _in_one_basis(a, b)
    a_dtype = None if isinstance(a, QTensor) else jnp.dtype(a.dtype)  # pyright: ignore
    plan = _Plan(
        implementation=implementation,
        interpret=interpret,
        a_dtype=a_dtype,
        out_dtype=jnp.dtype(preferred_element_type or a_dtype or jnp.float32),
        device=Device.current(),
    )
    _choose(plan, a, b)  # raises before anything is traced
    return _jitted(plan, a, b)


def _in_one_basis(a: Any, b: Any) -> tuple[Any, QTensor | Decoded]:
    """Both operands as they are multiplied: rotated and without the mark, if b is rotated."""
    if not rotated(b):
        return a, b
    rotated_a = a.in_rotated_basis() if isinstance(a, QTensor) else hadamard.random_hadamard(a)
    return rotated_a, b.in_rotated_basis()


def explain(a: Any, b: Any, *, implementation: str = "auto", interpret: bool = False) -> str:
    """Which implementation :func:`scaled_matmul` takes for these operands here, and why.

    Operands may be shapes (``jax.ShapeDtypeStruct``, or QTensors of them from ``jax.eval_shape``).

    Example:
        >>> import jax, jax.numpy as jnp, fp4jax as fp4
        >>> w = jax.random.normal(jax.random.key(0), (64, 8))
        >>> q = fp4.quantize(w, fp4.TensorSpec(), axis=0)
        >>> print(explain(jnp.ones((4, 64)), q, implementation="reference"))
        reference: as asked for
    """
    check(a, b, implementation, interpret)
    a, b = jax.eval_shape(_in_one_basis, a, b)
    plan = _Plan(implementation, interpret, None, None, Device.current())
    return str(_choose(plan, a, b))


@dataclasses.dataclass(frozen=True)
class Device:
    """What the choice depends on."""

    name: str
    capability: tuple[int, int] | None
    cores: int

    @staticmethod
    def current() -> "Device":
        return Device(backend.device_name(), backend.compute_capability(), backend.cores())


@dataclasses.dataclass(frozen=True)
class Choice:
    """Who multiplies, why, and with which tile."""

    implementation: str
    reason: str
    tile: Tile | None = None

    def __str__(self) -> str:
        return f"{self.implementation}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that is static, shapes apart."""

    implementation: str
    interpret: bool
    # None for a QTensor
    a_dtype: Any
    out_dtype: Any
    device: Device


def _choose(plan: _Plan, a: Any, b: Any) -> Choice:
    """The implementation for these shapes; ValueError if the one asked for cannot be had."""
    (m, k), (_, n) = a.shape, b.shape
    device, asked = plan.device, plan.implementation
    quantized = isinstance(a, QTensor)
    has_fp4 = device.capability is not None and device.capability[0] in cudnn.MAJORS
    has_pallas = device.capability is not None and device.capability >= backend.OLDEST
    if asked == "reference":
        return Choice("reference", "as asked for")
    if isinstance(b, Decoded):
        if asked != "auto":
            raise ValueError(f"b is decoded already, which implementation={asked!r} is not for.")
        return Choice("reference", "b is decoded already")
    if (where := placement.obstacle()) is not None:
        if asked != "auto":
            raise ValueError(
                f"implementation={asked!r}, but {where}: call it inside jax.shard_map over them, "
                "or use 'auto'."
            )
        return Choice("reference", where)
    if asked == "cudnn":
        if not (quantized and has_fp4):
            raise ValueError(
                "implementation='cudnn' needs two QTensors and a Blackwell GPU, but a is "
                f"{'a QTensor' if quantized else 'an array'} and the device is {device.name}."
            )
        return _cudnn_or(device, Choice("reference", "as cuDNN cannot be used"))
    if asked == "mosaic":
        return _mosaic(device, quantized, empty=0 in (m, n, k))
    if asked == "pallas" and not (has_pallas or plan.interpret):
        raise ValueError(
            f"implementation='pallas' needs an NVIDIA GPU since Ampere, but the device is "
            f"{device.name}; pass interpret=True to evaluate the kernel without one."
        )
    if 0 in (m, n, k):
        return Choice("reference", f"({m}, {k}) @ ({k}, {n}) is empty")
    if asked == "auto" and not has_pallas:
        return Choice("reference", f"{device.name} is no NVIDIA GPU since Ampere")
    rows = 3 * m if not quantized and a.dtype == jnp.float32 else m
    parts = ", as float32 enters in three parts" if rows != m else ""
    own = _pallas(rows, n, k, parts, plan)
    if asked == "pallas":
        return own
    if rows > LARGEST_M:
        size = 2 * n * k / 2**20
        reason = f"{rows} rows{parts}, more than {LARGEST_M}: b is decoded to bfloat16"
        own = Choice("reference", f"{reason} ({size:,.1f} MiB, once if by fp4jax.kernels.decode)")
    return _cudnn_or(device, own) if quantized and has_fp4 else own


def _pallas(rows: int, n: int, k: int, parts: str, plan: _Plan) -> Choice:
    device = plan.device
    tile = choose_tile(rows, n, k, capability=device.capability, cores=device.cores)
    reason = f"{rows} rows{parts}, decoded on the way from memory, {tile}"
    if n % tile.n or k % tile.k:
        reason += f"; ({k}, {n}) is padded, that is copied, to multiples of {(tile.k, tile.n)}"
    return Choice("pallas", reason, tile)


def _cudnn_or(device: Device, other: Choice) -> Choice:
    """cuDNN, unless it failed its test."""
    objection = cudnn.objection(device.capability) if device.capability else "no GPU"
    if objection is None:
        return Choice("cudnn", f"{device.name} has FP4 units, and both operands are in FP4")
    return dataclasses.replace(other, reason=f"{other.reason} (not cuDNN: {objection})")


def _mosaic(device: Device, quantized: bool, empty: bool) -> Choice:
    """The tcgen05 kernel, unless it failed its test."""
    capability = device.capability
    if not (quantized and capability is not None and capability[0] in mosaic.MAJORS):
        raise ValueError(
            "implementation='mosaic' needs two QTensors and a GPU with tensor memory (sm_100 or "
            f"sm_110), but a is {'a QTensor' if quantized else 'an array'} and the device is "
            f"{device.name}."
        )
    if empty:
        return Choice("reference", "there is nothing to multiply")
    objection = mosaic.objection(capability)
    if objection is None:
        return Choice("mosaic", f"as asked for ({mosaic.LABEL})")
    return Choice("reference", f"as the tcgen05 kernel cannot be used (not Mosaic: {objection})")


def _value(plan: _Plan, a: Array | QTensor, b: QTensor | Decoded) -> Array:
    with jax.named_scope("fp4_scaled_matmul"):
        return _batchable(plan)(a, b)


def _forward(plan: _Plan, a, b):
    return _matmul(plan, a, b), b


def _tangent(plan: _Plan, b, tangents):
    return base.scaled_matmul(tangents[0], b, plan.out_dtype)


def _backward(plan: _Plan, b, g):
    return (base.gradient(g, b, plan.a_dtype),)


_matmul = two_modes(_forward, _tangent, _backward, wrt=1, value=_value)
_jitted = jax.jit(_matmul, static_argnums=0, inline=True)


def _batchable(plan: _Plan):
    """The product; under vmap over ``a`` alone its rows are those of all entries."""
    compute = functools.partial(_compute, plan)
    batchable = custom_vmap(compute)

    @batchable.def_vmap
    def _(axis_size, in_batched, a, b):
        a_batched, b_batched = (any(jax.tree.leaves(batched)) for batched in in_batched)
        if a_batched and not b_batched and not isinstance(a, QTensor):
            y = batchable(a.reshape(-1, a.shape[-1]), b)
            return y.reshape(axis_size, -1, y.shape[-1]), True
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        return jax.vmap(compute, in_axes=axes)(a, b), True

    return batchable


def _compute(plan: _Plan, a, b) -> Array:
    choice = _choose(plan, a, b)
    _log.debug("scaled_matmul %s @ %s: %s", a.shape, b.shape, choice)
    reference = functools.partial(base.scaled_matmul, out_dtype=plan.out_dtype)
    if choice.implementation == "reference":
        return reference(a, b)
    if choice.tile is not None:
        compute = functools.partial(_by_pallas, plan, choice.tile)
    elif choice.implementation == "mosaic":
        compute = functools.partial(_by_mosaic, plan)
    else:
        compute = functools.partial(_by_cudnn, plan)
    if plan.interpret:
        return compute(a, b)
    # A program may be placed on the CPU of a machine with a GPU, or on several devices.
    return placement.on_one_gpu(a, b, kernel=compute, reference=reference)


def _by_pallas(plan: _Plan, tile: Tile, a, b: QTensor) -> Array:
    scales = [base.tensor_scale(b)]
    if isinstance(a, QTensor):
        scales.insert(0, base.tensor_scale(a))
        a = base.decoded_rows(a)
    accumulator = pallas_triton.product(
        a, _packed(b), tile, portable=False, interpret=plan.interpret
    )
    return base.scaled(accumulator[:, : b.shape[1]], scales, plan.out_dtype)


def _by_cudnn(plan: _Plan, a: QTensor, b: QTensor) -> Array:
    accumulator = cudnn.product(_packed(a), _packed(b))[: a.shape[0], : b.shape[1]]
    return base.scaled(accumulator, [base.tensor_scale(a), base.tensor_scale(b)], plan.out_dtype)


def _by_mosaic(plan: _Plan, a: QTensor, b: QTensor) -> Array:
    factors = jnp.stack([base.tensor_scale(a), base.tensor_scale(b)])
    out = mosaic.product(
        _packed(a), _packed(b), factors, plan.out_dtype, programs=plan.device.cores
    )
    return out[: a.shape[0], : b.shape[1]]


def _packed(q: QTensor) -> Packed:
    return Packed(q.codes, q.block_scales)
