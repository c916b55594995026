"""What several tests share: every TensorSpec, data that is easy to get wrong, bits, comparisons."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax import TensorSpec
from fp4jax.core.blocks import BlockView, normalize_axes
from fp4jax.core.rounding import random_bits

ROUNDINGS = ("nearest", "stochastic", "stochastic_unbiased")
_VIEWS = ({}, {"hadamard": True}, {"block": (16, 16)})
#: All 21 of them.
SPECS = [TensorSpec(**view, rounding=rounding) for view in _VIEWS for rounding in ROUNDINGS] + [
    TensorSpec(
        **view, scaling="four_over_six", four_over_six_error=error, four_over_six_bound=bound
    )
    for view in _VIEWS
    for error in ("mse", "mae")
    for bound in (256, 448)
]


#: A test that takes ``way`` runs twice: way(function) is the function itself, then jax.jit of it.
eager_and_jit = pytest.mark.parametrize("way", [lambda f: f, jax.jit], ids=["eager", "jit"])


def spec_id(spec: TensorSpec) -> str:
    """A name for test ids, for example 1x16-hadamard-stochastic."""
    parts = [f"{spec.block[0]}x{spec.block[1]}", "hadamard" * spec.hadamard, spec.rounding]
    if spec.scaling == "four_over_six":
        parts[2:] = ["4o6", spec.four_over_six_error, str(spec.four_over_six_bound)]
    return "-".join(filter(None, parts))


def _wide(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Every 16 values along the last axis share a magnitude between 2**-16 and 1."""
    exponents = rng.uniform(-16, 0, (*shape[:-1], -(-shape[-1] // 16)))
    return rng.standard_normal(shape) * 2 ** np.repeat(exponents, 16, axis=-1)[..., : shape[-1]]


KINDS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy": lambda rng, shape: rng.standard_t(2, shape),
    "wide": _wide,
}


def sample(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 data of a kind: the same for the same arguments, and never all zeros."""
    rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])
    x = KINDS[kind](rng, shape).astype(np.float32)
    assert x.any()
    return x


def normal(seed: int, *shape: int) -> jax.Array:
    """float32 numbers of NumPy's, since jax.random.normal is compiled for each shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def on_grid(x: np.ndarray) -> np.ndarray:
    """x rounded to 15 bits below its maximum: sums of 16 are then exact in any order.

    A float32 rotation has no defined order of summation; on such data that makes no difference.
    """
    unit = 2 ** np.floor(np.log2(np.abs(x).max()) - 14)
    return (np.round(x / unit) * unit).astype(np.float32)


def bits_for(key: jax.Array, spec: TensorSpec, shape: tuple[int, ...], axis) -> np.ndarray | None:
    """The random bits that quantize draws for an array of this shape, for the oracle."""
    if not spec.stochastic:
        return None
    view = BlockView(shape, normalize_axes(axis, spec.block, len(shape)))
    return np.asarray(random_bits(key, view.padded_shape, spec.random_bits))


def unsigned_zero(codes: np.ndarray) -> np.ndarray:
    """Codes with -0 (8) replaced by 0: its sign is not defined by TransformerEngine."""
    codes = np.asarray(codes)
    return np.where(codes == 8, 0, codes)


def scale_bytes(scales: jax.Array) -> np.ndarray:
    """E4M3 scales as bytes."""
    assert scales.dtype == jnp.float8_e4m3fn
    return np.asarray(scales).view(np.uint8)


def assert_same_bits(a: jax.Array, b: jax.Array) -> None:
    """Equal dtypes, shapes and values; NaN equals NaN, and -0 differs from 0."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    a, b = a.astype(np.float32), b.astype(np.float32)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(b) & ~np.isnan(b))
