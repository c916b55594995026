"""What tests of the fused quantizer share: every kind of number, results, equal bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.blocks import normalize_axes
from fp4jax.kernels.fused_quantizer import fused

KEY = jax.random.key(3)


def data(kind: str, shape: tuple[int, ...], axis: int = -1) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "exact sums":
        x = rng.integers(-255, 256, shape).astype(np.float32)
    elif kind == "wide":
        x *= 2.0 ** rng.integers(-30, 1, shape).astype(np.float32)
    elif kind == "zeros":
        x[:] = -0.0
    elif kind in ("nan", "inf"):
        x.flat[3] = float(kind)
    else:
        x *= np.float32({"normal": 1, "tiny": 1e-36, "subnormal": 1e-38, "huge": 2.0**125}[kind])
    return np.clip(x, -3e38, 3e38) if kind == "huge" else x


KINDS = ("normal", "exact sums", "wide", "zeros", "nan", "inf", "tiny", "subnormal", "huge")


def assert_same(got, expected, what=""):
    """Every byte of every leaf; NaN may be any NaN."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        unsigned = np.dtype(f"u{a.dtype.itemsize}")
        nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
        if a.dtype.itemsize == 1:
            nan[...] = False  # scale bytes
        np.testing.assert_array_equal(
            np.where(nan, 0, a.view(unsigned)), np.where(nan, 0, b.view(unsigned)), what
        )


def quantized(implementation, result, spec, axis, x, key=None, **options):
    """Codes, scales and amax; a GEMM's operand as float32 and amax; or dequantized values."""
    axes = normalize_axes(axis, spec.block, x.ndim)
    if result == "operand":
        values, amax = implementation.operand(x, key, None, spec, axes, **options)
        return values.astype(jnp.float32), amax
    return getattr(implementation, result)(x, key, spec, axes, **options)


interpreted = functools.partial(quantized, fused, interpret=True)
