"""Compares the kernels with jnp on the device, on a small array whose every sum is exact.

Elements are integers of 8 bits times a power of two for each block, so that the sums of the
Hadamard transform are exact: every byte must agree, whatever a compiler makes of their order.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.spec import TensorSpec
from fp4jax.kernels.fused_quantizer import base, fused
from fp4jax.kernels.fused_quantizer.pallas_triton import Plan

#: Shapes and the axis blocks lie along; of tiles it is the last two.
_SHAPES = {"rows": ((7, 80), 1), "columns": ((80, 36), 0), "odd columns": ((80, 7), 0)}


def difference(
    spec: TensorSpec, dtype: str, result: str, kind: str, interpret: bool = False
) -> str | None:
    """What differs between a kernel's and jnp's bits, in words; None if nothing does."""
    shape, axis = _SHAPES[kind]
    axes = (0, 1) if spec.block == (16, 16) else (axis,)
    plan = Plan(spec, result, interpret)

    def compute() -> tuple:
        x = jnp.asarray(sample(shape, axis)).astype(dtype)
        key = jax.random.key(5) if spec.stochastic else None
        got = jax.jit(functools.partial(_kernel, plan=plan, axes=axes))(x, key)
        expected = jax.jit(functools.partial(_reference, plan=plan, axes=axes))(x, key)
        return jax.tree.map(np.asarray, (got, expected))

    try:
        # Usually asked for while a function is traced; in a thread of its own nothing is.
        with ThreadPoolExecutor(1) as thread:
            got, expected = thread.submit(compute).result()
    except Exception as error:  # whatever a device's compiler makes of a kernel
        return f"the kernel cannot run ({type(error).__name__}: {str(error)[:200]})"
    for name, a, b in zip(("result", "block scales", "amax"), got, expected, strict=False):
        if not _agree(a, b, summed=result == "fake" and spec.hadamard):
            return f"the kernel's {name} differs from jnp's for {spec}, {dtype}, {kind}"
    return None


def sample(shape: tuple[int, int], axis: int) -> np.ndarray:
    """float32 (rows, columns) with a power of two for each 16 along ``axis``; one block is 0."""
    rng = np.random.default_rng(0)
    x = rng.integers(-255, 256, shape)
    blocks = list(shape)
    blocks[axis] = -(-blocks[axis] // 16)
    exponents = np.repeat(rng.integers(-14, 1, blocks), 16, axis=axis)
    x = x * 2.0 ** exponents[: shape[0], : shape[1]]
    x[:16, :16] = 0
    return x.astype(np.float32)


def _agree(a: np.ndarray, b: np.ndarray, summed: bool) -> bool:
    """Every byte; where dequantized values were summed, up to float32 roundings of these sums."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not summed:
        return a.tobytes() == b.tobytes()
    places = 2.0**-20 if a.dtype == np.float32 else 2.0**-7
    error = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
    return bool(error <= places * np.abs(b.astype(np.float64)).max())


def _kernel(x, key, plan: Plan, axes: tuple[int, ...]):
    if plan.result == "packed":
        return fused.packed(x, key, plan, axes)
    if plan.result == "fake":
        return (fused.fake(x, key, plan, axes),)
    values, amax = fused.operand(x, key, None, plan, axes)
    return values.astype(jnp.float32), amax, fused.tensor_amax(x, plan, axes)


def _reference(x, key, plan: Plan, axes: tuple[int, ...]):
    if plan.result == "packed":
        return base.packed(x, key, plan.spec, axes)
    if plan.result == "fake":
        return (base.fake(x, key, plan.spec, axes),)
    values, amax = base.operand(x, key, None, plan.spec, axes)
    return values, amax, base.tensor_amax(x, plan.spec, axes)
