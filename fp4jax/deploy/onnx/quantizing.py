"""Quantizing activations with standard operators: the arithmetic of :mod:`fp4jax.core.scaling`.

Every operator rounds once in float32, as there; ONNX's runtimes keep subnormal numbers, so that
nothing needs other units.
"""

from typing import NamedTuple

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.formats import E2M1_MAX, E4M3_MAX, FLT_MAX
from fp4jax.core.scaling import code_per_amax
from fp4jax.core.spec import TensorSpec
from fp4jax.deploy.onnx.arithmetic import Array, Number
from fp4jax.deploy.onnx.values import Value


class Quantized(NamedTuple):
    """Code values (b, m, blocks, 16), scales (b, m, blocks, 1) and the amax (b, 1, 1, 1)."""

    values: Array
    scales: Array
    amax: Array


def quantized(
    x: Array, spec: TensorSpec, amax: Number | None, *, in_steps: bool = False
) -> Quantized:
    """x (b, m, k), k a multiple of 16, by the spec.

    Args:
        x: rotated already, where the spec rotates.
        amax: that of the whole operand; None: of each example of the leading axis its own.
        in_steps: for runtimes whose 8-bit floats are not exact, see
            :mod:`fp4jax.deploy.onnx.arithmetic`.
    """
    b, m, k = x.shape
    blocks = x.reshape((b, m, k // BLOCK, BLOCK))
    largest = blocks.absolute().largest([-1])
    whole = largest.largest([1, 2]) if amax is None else amax
    if amax is None and spec.clip != 1:
        whole = whole * np.float32(spec.clip)
    if not isinstance(whole, Array):
        whole = Array(x.graph, Value.known(np.full((1, 1, 1, 1), whole, np.float32)))
    encode = (float(spec.bound) / whole).minimum(FLT_MAX)
    encode = Array(x.graph, Value.known(np.float32(1))).where(encode.equal(0.0), encode)
    if spec.scaling == "four_over_six":
        return Quantized(*_four_over_six(blocks, largest, encode, whole, spec, in_steps), whole)
    per_amax = encode * code_per_amax(spec)
    return Quantized(*_candidate(blocks, largest * per_amax, encode, in_steps), whole)


def dequantized(q: Quantized, spec: TensorSpec, shape: tuple) -> Array:
    """Code values times (block scale times tensor scale), in the operand's shape."""
    return (q.values * (q.scales * (q.amax / np.float32(spec.bound)))).reshape(shape)


def _candidate(blocks: Array, scale: Array, encode: Array, in_steps: bool) -> tuple[Array, Array]:
    """Code values and E4M3 scales, given the latter before they are rounded."""
    rounded = scale.minimum(E4M3_MAX).rounded_to_e4m3(in_steps=in_steps)
    # The minimum changes nothing, but onnxruntime would make one division of 1 / a * b, which is
    # rounded once instead of twice.
    decode = rounded * (1.0 / encode).minimum(FLT_MAX)
    return to_e2m1(blocks * (1.0 / decode).minimum(FLT_MAX)), rounded


def to_e2m1(y: Array) -> Array:
    """The nearest code values, ties to the even code; beyond 6 they are 6.

    In units of the grid's step, 1/2 below 2, 1 below 4 and 2 above, it is rounding to integers.
    """
    magnitude = y.absolute().minimum(E2M1_MAX)
    two, one, half = (Array(y.graph, Value.known(np.float32(n))) for n in (2, 1, 0.5))
    per_step = two.where(magnitude.less(2.0), one.where(magnitude.less(4.0), 0.5))
    step = half.where(magnitude.less(2.0), one.where(magnitude.less(4.0), 2.0))
    return y.sign() * ((magnitude * per_step).round() * step)


def _four_over_six(
    blocks: Array, largest: Array, encode: Array, amax: Array, spec: TensorSpec, in_steps: bool
) -> tuple[Array, Array]:
    """The candidate whose block maximum is 6, or that with 4 where it errs less."""
    base = (largest / 6.0) * encode
    found = []
    for factor in (1.0, 1.5):
        values, scale = _candidate(blocks, base * factor, encode, in_steps)
        difference = ((values * scale) * amax) / np.float32(spec.bound) - blocks
        found.append((values, scale, _error(difference, amax, spec)))
    (values6, scale6, error6), (values4, scale4, error4) = found
    four = error4.less(error6)
    return values4.where(four, values6), scale4.where(four, scale6)


def _error(difference: Array, amax: Array, spec: TensorSpec) -> Array:
    """The error of a block, added one column after the other."""
    if spec.four_over_six_error == "mae":
        error = difference.absolute()
    else:
        # Only comparisons follow: tiny errors are squared in other units.
        unit = Array(difference.graph, Value.known(np.float32(2.0**60)))
        scaled = difference * unit.where(amax.less(1e-6), 1.0)
        error = scaled * scaled
    total = error.column(0)
    for i in range(1, BLOCK):
        total = total + error.column(i)
    return total
