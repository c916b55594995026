"""Initial weights: torch's defaults, and normal distributions by fan-in."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array, DTypeLike

Initializer = Callable[[Any, Sequence[int], DTypeLike], Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in): torch's default for weights and biases of a layer."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def he_normal(fan_in: int) -> Initializer:
    """N(0, 2 / fan_in)."""
    return normal(math.sqrt(2 / fan_in))


def normal(std: float) -> Initializer:
    """N(0, std**2), not truncated (torch's default cut of trunc_normal_ is at +-2, absolute)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)

    return init


def torch_default(fan_in: int) -> dict[str, Any]:
    """``kernel_init`` and ``bias_init`` of a Flax layer with torch's defaults.

    fan_in of Linear: inputs; of Conv: inputs x taps; of ConvTranspose torch takes *outputs* x taps.

    Example:
        >>> from flax import nnx
        >>> layer = nnx.Linear(64, 8, **torch_default(64), rngs=nnx.Rngs(0))
        >>> bool(abs(layer.bias[...]).max() <= 1 / 8)
        True
    """
    init = uniform_fan_in(fan_in)
    return {"kernel_init": init, "bias_init": init}
