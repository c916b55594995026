"""What quantizing does to one operand, as sums that batches and parts of a tensor add up to."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core import exact, hadamard, scale_types
from fp4jax.core.reference import encode
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float
from fp4jax.ops.gemm import BlockAxes

# Smallest normal number of E4M3.
_MIN_NORMAL = np.float32(2.0**-6)
# The quantizer's own rounding may take the tensor's maximum past 6 by some ulps.
_MARGIN = np.float32(1 + 1e-5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OperandSums:
    """Sums over the elements and blocks of an operand; ``+`` merges those of two parts."""

    # of x ** 2 and (Q(x) - x) ** 2
    signal: Any
    noise: Any
    # elements that are not zero; those of them that become zero; those beyond 6 block scales
    nonzero: Any
    underflow: Any
    saturated: Any
    # blocks that are not all zero; those of them with scale byte 0; with a subnormal one
    blocks: Any
    scale_zero: Any
    scale_subnormal: Any

    def __add__(self, other: "OperandSums") -> "OperandSums":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def quantities(self) -> dict[str, float]:
        """SQNR in dB, 10 log10(sum x**2 / sum (Q(x) - x)**2), and shares of elements and blocks.

        The SQNR is inf without error. Shares are of the elements, or blocks, that are not zero.

        Example:
            >>> sums = OperandSums(100.0, 1.0, 8.0, 2.0, 1.0, 4.0, 0.0, 1.0)
            >>> sums.quantities()["sqnr_db"], sums.quantities()["underflow"]
            (20.0, 0.25)
        """
        signal, noise = float(self.signal), float(self.noise)
        sqnr = (
            10 * math.log10(signal / noise)
            if noise and signal
            else math.inf
            if not noise
            else (-math.inf)
        )
        elements, blocks = max(float(self.nonzero), 1.0), max(float(self.blocks), 1.0)
        return {
            "sqnr_db": sqnr,
            "underflow": float(self.underflow) / elements,
            "saturated": float(self.saturated) / elements,
            "scale_zero": float(self.scale_zero) / blocks,
            "scale_subnormal": float(self.scale_subnormal) / blocks,
        }


def tally(
    x: Float[Array, "..."],
    spec: TensorSpec | None,
    axes: BlockAxes,
    key: Any = None,
    amax_of_all: Float[Array, ""] | None = None,
) -> OperandSums:
    """Quantizes x as a GEMM does, and compares; with hadamard in the rotated basis.

    (The rotation keeps sums of squares, so the SQNR is that of the operand rotated back.) An
    element counts as underflowed if it becomes zero, by its code or by its block's scale; as
    saturated if it is larger than 6 block scales x tensor scale, the largest value of its block:
    block maxima are, by up to 6 %, wherever the scale was rounded down to E4M3.

    Args:
        x: the operand, or a part of one whose amax is ``amax_of_all``.
        spec: None for high precision, which has no errors.
        axes: where the blocks lie.
        key: of stochastic rounding.

    Example:
        >>> x = jnp.array([6.0, 0.1] + [0.0] * 14)
        >>> quantities = tally(x, TensorSpec(), BlockAxes(-1, None)).quantities()
        >>> quantities["underflow"], round(quantities["sqnr_db"], 1)
        (0.5, 35.6)
    """
    if spec is None:
        target = x.astype(jnp.float32)
        zero = jnp.zeros((), jnp.float32)
        filled = _count(target != 0)
        return OperandSums(jnp.sum(target * target), zero, filled, zero, zero, zero, zero, zero)
    if spec.tiles and axes.tile is None:
        raise ValueError(f"block={spec.block} is for weights.")
    where = tuple(a % x.ndim for a in ((axes.tile or ()) if spec.tiles else (axes.contracted,)))
    encoded = encode(x, spec, where, key, amax_of_all)
    rotated = hadamard.random_hadamard(x, where[0]) if spec.hadamard else x
    target = encoded.view.split(rotated.astype(jnp.float32))
    one = jnp.ones((), jnp.float32)
    unit = one if encoded.amax is None else exact.divide(encoded.amax, float(spec.bound))
    kind, maximum = scale_types.of(spec.format), spec.format.elements.maximum
    relative = kind.product(encoded.values, encoded.scales)
    # Of formats without block scales the tensor scale is that of the block.
    scales = kind.product(one, encoded.scales)
    error = relative * unit - target
    largest = scales * (unit * (maximum * _MARGIN))
    # Only E4M3 scales are subnormal before float32 numbers are.
    smallest = _MIN_NORMAL if spec.format.scale == "e4m3" else np.float32(0)
    filled = target != 0
    blocks = jnp.any(filled, axis=encoded.view.inner_axes, keepdims=True)
    return OperandSums(
        signal=jnp.sum(target * target),
        noise=jnp.sum(error * error),
        nonzero=_count(filled),
        underflow=_count(filled & (relative == 0)),
        saturated=_count((jnp.abs(target) > largest) & (scales > 0)),
        blocks=_count(blocks),
        scale_zero=_count(blocks & (scales == 0)),
        scale_subnormal=_count((scales > 0) & (scales < smallest)),
    )


def _count(where: Array) -> Array:
    return jnp.sum(where, dtype=jnp.float32)
