"""Whole arrays through the kernels: amax, then quantize; what fp4jax.quantize computes in jnp."""

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core import scaling
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.kernels.fused_quantizer import pallas_triton
from fp4jax.kernels.fused_quantizer.arithmetic import Scalars
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan
from fp4jax.kernels.fused_quantizer.view import KernelView


def tensor_amax(x: Array, plan: Plan, axes: tuple[int, ...]) -> Float[Array, ""]:
    """Largest magnitude, after the rotation if the spec has one."""
    return pallas_triton.find_amax(KernelView(x.shape, axes).split(x), plan)


def packed(
    x: Array, key: Array | None, plan: Plan, axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Codes, E4M3 block scales and amax, as QTensor stores them."""
    view = KernelView(x.shape, axes)
    (codes, scales), amax = _run(view.split(x), key, plan, None)
    # Tiles are packed along the columns the kernel sees, which is the higher axis.
    if plan.tiles and axes[0] > axes[1]:
        codes = _packed_along_rows(codes)
    last = (1,) * (len(axes) - 1)
    codes = view.blocks_last(codes, (*last, 2))
    scales = view.blocks_last(scales, (16,) * len(axes))
    return codes, jax.lax.bitcast_convert_type(scales, jnp.float8_e4m3fn), amax


def operand(
    x: Array, key: Array | None, amax: Array | None, plan: Plan, axes: tuple[int, ...]
) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
    """Code value * block scale in bfloat16, where it is exact, and amax."""
    view = KernelView(x.shape, axes)
    (values,), amax = _run(view.split(x), key, plan, amax)
    return view.merge(values, padded=plan.spec.hadamard), amax


def fake(x: Array, key: Array | None, plan: Plan, axes: tuple[int, ...]) -> Array:
    """Quantized, dequantized and rotated back, in x's dtype and shape."""
    view = KernelView(x.shape, axes)
    (values,), _ = _run(view.split(x), key, plan, None)
    return view.merge(values)


def _run(
    x: Array, key: Array | None, plan: Plan, amax: Array | None
) -> tuple[tuple[Array, ...], Array]:
    amax = pallas_triton.find_amax(x, plan) if amax is None else amax
    # The draw of fp4jax.rounding.random_bits.
    seed = None if key is None else jax.random.bits(key, (2,), jnp.uint32)
    seed = seed if plan.spec.stochastic else None
    return pallas_triton.quantize(x, seed, _scalars(amax, plan.spec), plan), amax


def _scalars(amax: Array, spec: TensorSpec) -> Scalars:
    """What scaling.find_scale derives from the tensor's amax."""
    tensor = scaling.tensor_factors(amax, spec.bound)
    per_code = 17 / 96 if spec.rounding == "stochastic_unbiased" else 1 / 6
    return Scalars(tensor.encode * np.float32(per_code), tensor.decode, tensor.unit, amax)


def _packed_along_rows(codes: Array) -> Array:
    """Bytes that hold columns 2i and 2i + 1 (r, 16, c / 2) -> rows 2i and 2i + 1 (r, 8, c)."""
    upper, lower = codes[:, 0::2], codes[:, 1::2]
    even = (upper & jnp.uint8(15)) | (lower << 4)
    odd = (upper >> 4) | (lower & jnp.uint8(0xF0))
    return jnp.stack([even, odd], axis=-1).reshape(codes.shape[0], 8, -1)
