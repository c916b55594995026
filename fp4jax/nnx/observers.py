"""What a calibration notes of a layer's x: its largest magnitude, a histogram, errors.

Watches (:mod:`fp4jax.nnx.watches`) that let x be quantized by its own amax, so that the layers
after it see what they see in dynamic quantization.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from fp4jax.core import exact, hadamard
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float
from fp4jax.ops import gemm
from fp4jax.ops.gemm import BlockAxes

#: Intervals of a histogram of magnitudes: the upper half of float32's bits but the sign.
BINS = 1 << 15
#: Candidates of an amax, as shares of the largest magnitude: 2 ** (i / 8), from 1/16 to 1.
CANDIDATES = np.float32(2.0) ** (np.arange(-32, 1, dtype=np.float32) / np.float32(8))


class Observation(nnx.Variable):
    """What a layer's observer has seen in a batch."""


class Observer(nnx.Module):
    """Counts calls; subclasses note more.

    Args:
        stack: leading dimensions of a stack of layers.
        clip: the share of the largest magnitude at which the layer clips x.
    """

    def __init__(self, stack: tuple[int, ...], clip: float = 1.0):
        self.calls, self.clip = Observation(jnp.zeros(stack, jnp.int32)), clip

    def __call__(self, x: Array, spec: TensorSpec, axes: BlockAxes, amax: Any) -> Float[Array, ""]:
        own = lax.stop_gradient(gemm.amax_of(x, spec, axes)) * np.float32(self.clip)
        self.calls.set_value(self.calls.get_value() + 1)
        self.see(lax.stop_gradient(x), spec, axes, own)
        return own

    @abc.abstractmethod
    def see(self, x: Array, spec: TensorSpec, axes: BlockAxes, own: Float[Array, ""]) -> None:
        """Notes what it needs of a call's x, whose amax is ``own``."""


class Largest(Observer):
    """The largest amax of all calls."""

    def __init__(self, stack: tuple[int, ...], clip: float = 1.0):
        super().__init__(stack, clip)
        self.amax = Observation(jnp.zeros(stack))

    def see(self, x: Array, spec: TensorSpec, axes: BlockAxes, own: Array) -> None:
        self.amax.set_value(jnp.maximum(self.amax.get_value(), own))


class Magnitudes(Largest):
    """How many magnitudes of x, rotated if the spec says so, lie in each interval."""

    def __init__(self, stack: tuple[int, ...], clip: float = 1.0):
        super().__init__(stack, clip)
        self.counts = Observation(jnp.zeros((*stack, BINS), jnp.int32))

    def see(self, x: Array, spec: TensorSpec, axes: BlockAxes, own: Array) -> None:
        super().see(x, spec, axes, own)
        bits = exact.bits(_rotated(x, spec, axes)).reshape(-1)
        places = (bits >> 16) & (BINS - 1)
        self.counts.set_value(self.counts.get_value().at[places].add(1))


class Errors(Observer):
    """The sum of squared errors of x under each of the :data:`CANDIDATES`, rounded to nearest.

    Args:
        top: the largest amax that was found before, float32 (*stack).
    """

    def __init__(self, stack: tuple[int, ...], clip: float, top: Float[Array, "*stack"]):
        super().__init__(stack, clip)
        self.top = Observation(jnp.asarray(top, jnp.float32))
        self.errors = Observation(jnp.zeros((*stack, len(CANDIDATES))))

    def see(self, x: Array, spec: TensorSpec, axes: BlockAxes, own: Array) -> None:
        spec = dataclasses.replace(spec, amax="static", clip=1.0, rounding="nearest")
        exactly = _rotated(x, spec, axes)

        def error(amax: Array) -> Array:
            found = gemm.dequantized(gemm.operand(x, spec, axes, None, amax))
            return jnp.square(found - exactly).sum()

        errors = jax.lax.map(error, self.top.get_value() * CANDIDATES)
        self.errors.set_value(self.errors.get_value() + errors)


def percentile_of(counts: np.ndarray, percent: int | float) -> np.ndarray:
    """The end of the interval below which ``percent`` of the magnitudes lie, (*stack).

    Args:
        counts: (*stack, BINS).
        percent: above 0, at most 100.

    Example:
        >>> counts = np.zeros(BINS, np.int64)
        >>> counts[np.float32([1.0, 8.0]).view(np.int32) >> 16] = 99, 1
        >>> float(percentile_of(counts, 99.0)), float(percentile_of(counts, 99.5))
        (1.0078125, 8.0625)
    """
    below = counts.cumsum(-1, dtype=np.float64)
    # A share such as 0.99 is not exact in binary.
    reached = below >= below[..., -1:] * (percent / 100) * (1 - 1e-12)
    ends = (np.arange(1, BINS + 1, dtype=np.int64) << 16).clip(max=0x7F7FFFFF)
    return np.asarray(ends.astype(np.int32).view(np.float32)[reached.argmax(-1)])


def _rotated(x: Array, spec: TensorSpec, axes: BlockAxes) -> Float[Array, "..."]:
    """What is cut into blocks, float32."""
    if spec.hadamard:
        x = hadamard.random_hadamard(x, axes.contracted % x.ndim)
    return x.astype(jnp.float32)
