"""The kinds of scales: from amax to scales, to numbers in units of them, and back.

A kind has scales as its own arithmetic wants them (``Scales``: float32 numbers, E8M0's biased
exponents as int32, None without blocks), with 1 at the inner axes of a blocked view:

    y, scales = kind.scale(blocked, amax, spec)          y is to be rounded to elements
    kind.product(values, scales)                         element * block scale
    multiplier = kind.multiplier(scales, tensor_amax, spec)
    kind.times(values, multiplier)                       element * all scales
    kind.store(scales), kind.load(stored)                to and from what a QTensor holds

Every step is one float32 rounding, or exact, in a form that XLA does not rewrite.
"""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, formats, scaling
from fp4jax.core.number_format import Format, Rule
from fp4jax.core.scaling import Amax
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float, Integer

Scales = Any

_MANTISSA_BITS = 23
_INFINITY = np.int32(0x7F800000)
# E8M0's byte of NaN.
_NAN = np.int32(255)


@runtime_checkable
class ScaleType(Protocol):
    """See the module's text."""

    def scale(self, blocked: Array, amax: Amax, spec: TensorSpec) -> tuple[Array, Scales]: ...

    def product(self, values: Array, scales: Scales) -> Array: ...

    def multiplier(self, scales: Scales, amax: Any, spec: TensorSpec) -> Array: ...

    def times(self, values: Array, multiplier: Array) -> Array: ...

    def store(self, scales: Array) -> Array: ...

    def load(self, stored: Any) -> Scales: ...


class _Numbers:
    """Scales that are float32 numbers, one for each block."""

    def product(self, values: Array, scales: Scales) -> Array:
        return values * scales

    def times(self, values: Array, multiplier: Array) -> Array:
        return values * multiplier


class E4M3Scales(_Numbers):
    """E4M3 block scales, with a tensor scale (NVFP4's arithmetic, scaling.py) or without."""

    def scale(self, blocked: Array, amax: Amax, spec: TensorSpec) -> tuple[Array, Scales]:
        scale = scaling.find_scale(amax, spec)
        # Without the barrier XLA joins the multiplier with a factor that x was multiplied with,
        # which may overflow: FLT_MAX, of blocks of zeros, times 1 / (1 - rate) of dropped paths.
        return exact.barrier(blocked) * scale.encode, scale.block

    def multiplier(self, scales: Scales, amax: Any, spec: TensorSpec) -> Array:
        return (
            scaling.decode_multiplier(scales, amax, spec.bound) if spec.has_tensor_scale else scales
        )

    def store(self, scales: Array) -> Array:
        return formats.e4m3_bytes(scales)

    def load(self, stored: Any) -> Scales:
        return stored.astype(jnp.float32)


class Float32Scales(_Numbers):
    """s = b / L for each block, and x * (1 / s), L being the largest element."""

    def scale(self, blocked: Array, amax: Amax, spec: TensorSpec) -> tuple[Array, Scales]:
        scales = exact.materialize(exact.divide(amax.block, float(spec.bound)))
        return exact.barrier(blocked) * _reciprocal(scales), scales

    def multiplier(self, scales: Scales, amax: Any, spec: TensorSpec) -> Array:
        return scales

    def store(self, scales: Array) -> Array:
        return scales

    def load(self, stored: Any) -> Scales:
        return stored


class TensorScale(_Numbers):
    """No block scales: the same with A / L for all that amax spans."""

    def scale(self, blocked: Array, amax: Amax, spec: TensorSpec) -> tuple[Array, Scales]:
        return exact.barrier(blocked) * _reciprocal(
            exact.divide(amax.tensor, float(spec.bound))
        ), None

    def product(self, values: Array, scales: Scales) -> Array:
        return values

    def multiplier(self, scales: Scales, amax: Any, spec: TensorSpec) -> Array:
        return exact.divide(amax, float(spec.bound))

    def store(self, scales: Array) -> Array:
        return scales

    def load(self, stored: Any) -> Scales:
        return stored


class E8M0Scales:
    """Powers of two, by the format's rule: products with them are exact."""

    def scale(self, blocked: Array, amax: Amax, spec: TensorSpec) -> tuple[Array, Scales]:
        # Unbiased rounding needs a scale that clips nothing.
        rule = "rceil" if spec.rounding == "stochastic_unbiased" else spec.format.rule
        biased = biased_exponent(amax.block, spec.format, rule)
        # NaN in units of NaN, too.
        down = lax.select(biased == _NAN, lax.full_like(biased, 128), 127 - biased)
        return exact.scale_by_power_of_two(exact.barrier(blocked), down), biased

    def product(self, values: Array, scales: Scales) -> Array:
        return self.times(values, scales)

    def multiplier(self, scales: Scales, amax: Any, spec: TensorSpec) -> Array:
        return scales

    def times(self, values: Array, multiplier: Array) -> Array:
        return exact.scale_by_power_of_two(values, multiplier - 127)

    def store(self, scales: Array) -> Array:
        return formats.e8m0_bytes(scales)

    def load(self, stored: Any) -> Scales:
        return formats.e8m0_exponents(stored)


_E4M3, _E8M0, _FLOAT32, _TENSOR = E4M3Scales(), E8M0Scales(), Float32Scales(), TensorScale()
_OF_BLOCKS = {"e4m3": _E4M3, "e8m0": _E8M0, "float32": _FLOAT32}


def of(format: Format) -> ScaleType:
    """The kind of scales that a format has."""
    return _TENSOR if format.block is None else _OF_BLOCKS[format.scale]


def biased_exponent(
    largest: Float[Array, "*blocks"], format: Format, rule: Rule
) -> Integer[Array, "*blocks"]:
    """E8M0 bytes, as int32, of blocks' largest magnitudes: 255 for NaN and Inf, 0 for a zero block.

    All in integers, since a float32 number's upper bits are floor(log2(b)) + 127. The exponent is
    clamped to what E8M0 has. Source: OCP Microscaling Formats (MX) v1.0, section 6.3; the other
    rules as cuBLAS and torchao document them.

    Example:
        >>> from fp4jax.core.number_format import MXFP4
        >>> b = jnp.array([4.0, 6.0, 7.0, 0.0, jnp.inf])
        >>> [biased_exponent(b, MXFP4, rule).tolist() for rule in ("floor", "rceil")]
        [[127, 127, 127, 0, 255], [127, 127, 128, 0, 255]]
    """
    bits = exact.bits(largest)
    grid = format.elements
    if rule == "rceil":
        # Of the quotient of two mantissas only matters which is larger.
        of_largest = int(grid.maximum.view(np.int32))
        exponent = (bits - of_largest + (2**_MANTISSA_BITS - 1)) >> _MANTISSA_BITS
    else:
        up = {"floor": 0, "ceil": 2**_MANTISSA_BITS - 1, "even": _half_step(format)}[rule]
        exponent = ((bits + up) >> _MANTISSA_BITS) - 127 - grid.largest_exponent
    biased = jnp.clip(exponent + 127, 0, 254)
    return lax.select(bits >= _INFINITY, lax.full_like(biased, _NAN), biased)


def _half_step(format: Format) -> int:
    """Half a unit in the last place of the largest elements, in units of float32's."""
    grid = format.elements
    mantissa = grid.largest_exponent if grid.integers else grid.mantissa
    return 1 << (_MANTISSA_BITS - mantissa - 1)


def _reciprocal(scale: Float[Array, "..."]) -> Float[Array, "..."]:
    # The barrier keeps 1 / (b / L) from becoming L / b.
    return jnp.minimum(np.float32(1) / exact.barrier(scale), formats.FLT_MAX)
