"""The kernels' quantizer of whole arrays: amax, then quantize; two passes over the array.

The functions of :mod:`fp4jax.core.reference`, with its bits (``operand`` in bfloat16, where it is
exact), for arrays without an :func:`~fp4jax.kernels.fused_quantizer.view.obstacle`. XLA's own code
for the same takes two to five times the memory traffic on a GPU. ``interpret`` evaluates the
kernels with XLA, on any device: slowly, for tests.
"""

import jax
import jax.numpy as jnp

from fp4jax.core import scaling, seeds
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.kernels.fused_quantizer import pallas_triton
from fp4jax.kernels.fused_quantizer.arithmetic import Scalars
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.kernels.fused_quantizer.view import KernelView


def packed(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
    *,
    interpret: bool = False,
) -> tuple[Array, Array, Array]:
    """Codes, E4M3 block scales and amax (that which is given, if any), as QTensor stores them."""
    view, plan = KernelView(x.shape, axes), Plan(spec, "packed", interpret)
    (codes, scales), amax = _run(view.split(x), key, plan, amax)
    # Tiles are packed along the columns the kernel sees, which is the higher axis.
    if plan.tiles and axes[0] > axes[1]:
        codes = _packed_along_rows(codes)
    last = (1,) * (len(axes) - 1)
    codes = view.blocks_last(codes, (*last, 2))
    scales = view.blocks_last(scales, (16,) * len(axes))
    return codes, jax.lax.bitcast_convert_type(scales, jnp.float8_e4m3fn), amax


def operand(
    x: Array,
    key: Array | Seed | None,
    amax: Array | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    *,
    interpret: bool = False,
) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
    """Code value * block scale in bfloat16, where it is exact, and amax."""
    view, plan = KernelView(x.shape, axes), Plan(spec, "operand", interpret)
    (values,), amax = _run(view.split(x), key, plan, amax)
    return view.merge(values, padded=spec.hadamard), amax


def fake(
    x: Array,
    key: Array | Seed | None,
    spec: TensorSpec,
    axes: tuple[int, ...],
    amax: Array | None = None,
    *,
    interpret: bool = False,
) -> Shaped[Array, "..."]:
    """Quantized, dequantized and rotated back, in x's dtype and shape."""
    view, plan = KernelView(x.shape, axes), Plan(spec, "fake", interpret)
    (values,), _ = _run(view.split(x), key, plan, amax)
    return view.merge(values)


def tensor_amax(
    x: Array, spec: TensorSpec, axes: tuple[int, ...], *, interpret: bool = False
) -> Float[Array, ""]:
    """Largest magnitude, after the rotation if the spec has one."""
    plan = Plan(spec, "operand", interpret)
    return pallas_triton.find_amax(KernelView(x.shape, axes).split(x), plan)


def _run(
    x: Array, key: Array | Seed | None, plan: Plan, amax: Array | None
) -> tuple[tuple[Array, ...], Array]:
    amax = pallas_triton.find_amax(x, plan) if amax is None else amax
    # The draw of fp4jax.core.rounding.random_bits.
    seed = None
    if key is not None and plan.spec.stochastic:
        seed = seeds.seed(key).words
    return pallas_triton.quantize(x, seed, _scalars(amax, plan.spec), plan), amax


def _scalars(amax: Array, spec: TensorSpec) -> Scalars:
    """What scaling.find_scale derives from the tensor's amax."""
    tensor = scaling.tensor_factors(amax, spec.bound)
    per_block = tensor.encode * scaling.code_per_amax(spec)
    return Scalars(per_block, tensor.decode, tensor.unit, amax)


def _packed_along_rows(codes: Array) -> Array:
    """Bytes that hold columns 2i and 2i + 1 (r, 16, c / 2) -> rows 2i and 2i + 1 (r, 8, c)."""
    upper, lower = codes[:, 0::2], codes[:, 1::2]
    even = (upper & jnp.uint8(15)) | (lower << 4)
    odd = (upper >> 4) | (lower & jnp.uint8(0xF0))
    return jnp.stack([even, odd], axis=-1).reshape(codes.shape[0], 8, -1)
