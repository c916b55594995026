"""The reference: each of the kernels' results, computed in jnp by fp4jax.quantize.

Every function takes an array, a key (None unless the spec is stochastic) and, where it says so,
the amax of a larger tensor of which the array is a part (None: its own).
"""

from fp4jax.core.quantizer import _fake_quantize, _pack, _tensor_amax, encode
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Shaped


def packed(
    x: Array, key: Array | None, spec: TensorSpec, axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Codes, block scales and amax, as a QTensor stores them."""
    return _pack(x, key, spec=spec, axes=axes)


def operand(
    x: Array, key: Array | None, amax: Array | None, spec: TensorSpec, axes: tuple[int, ...]
) -> tuple[Shaped[Array, "..."], Float[Array, ""]]:
    """Code value * block scale in float32, and amax: what enters a GEMM."""
    encoded = encode(x, spec, axes, key, amax)
    return encoded.view.merge(encoded.values * encoded.scales), encoded.amax


def fake(
    x: Array, key: Array | None, spec: TensorSpec, axes: tuple[int, ...]
) -> Shaped[Array, "..."]:
    """Quantized, dequantized and rotated back, in x's dtype and shape."""
    return _fake_quantize(x, spec, axes, key)


def tensor_amax(x: Array, spec: TensorSpec, axes: tuple[int, ...]) -> Float[Array, ""]:
    """Largest magnitude, after the rotation if the spec has one."""
    return _tensor_amax(x, spec, axes)
