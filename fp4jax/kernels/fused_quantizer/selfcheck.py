"""Compares the kernels with jnp on the device, on a small array whose every sum is exact.

Elements are integers of 8 bits times a power of two for each block, so that the sums of the
Hadamard transform are exact: every byte must agree, whatever a compiler makes of their order.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core import reference
from fp4jax.core.spec import TensorSpec
from fp4jax.kernels.fused_quantizer import fused

#: Shapes and the axis blocks lie along; of tiles it is the last two.
_SHAPES = {"rows": ((7, 80), 1), "columns": ((80, 36), 0), "odd columns": ((80, 7), 0)}


def difference(
    spec: TensorSpec, dtype: str, result: str, kind: str, interpret: bool = False
) -> str | None:
    """What differs between a kernel's and jnp's bits, in words; None if nothing does.

    Args:
        spec, dtype: how an array of which dtype is quantized.
        result: "packed", "operand" or "fake".
        kind: "rows", "columns" or "odd columns": how the kernel loads the array.
        interpret: evaluate the kernels with XLA, on any device.
    """
    shape, axis = _SHAPES[kind]
    axes = (0, 1) if spec.block == (16, 16) else (axis,)
    x = jnp.asarray(sample(shape, axis)).astype(dtype)
    key = jax.random.key(5) if spec.stochastic else None

    def run(implementation: ModuleType, **options: Any) -> list[np.ndarray]:
        compute = jax.jit(lambda x, key: _all(implementation, result, x, key, spec, axes, options))
        return [np.asarray(part) for part in compute(x, key)]

    options = {"interpret": True} if interpret else {}
    got, expected = run(fused, **options), run(reference)
    for name, a, b in zip(("result", "block scales", "amax"), got, expected, strict=False):
        if not _agree(a, b, summed=result == "fake" and spec.hadamard):
            return f"the kernel's {name} differs from jnp's for {spec}, {dtype}, {kind}"
    return None


def _all(implementation: Any, result: str, x, key, spec, axes, options: dict) -> tuple:
    if result == "packed":
        return implementation.packed(x, key, spec, axes, **options)
    if result == "fake":
        return (implementation.fake(x, key, spec, axes, **options),)
    values, amax = implementation.operand(x, key, None, spec, axes, **options)
    found = implementation.tensor_amax(x, spec, axes, **options)
    return values.astype(jnp.float32), amax, found


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
