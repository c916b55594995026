"""One quantized GEMM: what enters it and what comes out.

    acc = sum over the contracted index of (code x block scale)_a * (code x block scale)_b
    result = (acc * tensor_scale_a) * tensor_scale_b

The products are exact and the sum is taken in float64. An operand whose spec is None enters as
itself with scale 1. With RHT both operands are rotated by the same orthogonal R along the
contracted axis, so R cancels: (a R)(b R)^T = a b^T.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .blocks import padded_shape
from .nvfp4 import Quantized, quantize

# bits(role, padded shape) -> random integers, e.g. role "dgrad.g"
Bits = Callable[[str, tuple[int, ...]], np.ndarray]


@dataclass
class Operand:
    """What enters a GEMM.

    values     float64, code x block scale, or the array itself
    scale      the tensor scale, or 1
    quantized  or None
    """

    values: np.ndarray
    scale: float
    quantized: Quantized | None

    def map(self, rearrange: Callable[[np.ndarray], np.ndarray]) -> "Operand":
        """The same operand with its values rearranged (reshape, patches)."""
        return replace(self, values=rearrange(self.values))


@dataclass
class View:
    """An array as one GEMM sees it.

    axis  the contracted axis
    tile  the axes of 16x16 tiles (None: undefined)
    """

    array: np.ndarray
    axis: int
    tile: tuple[int, int] | None = None


def enter(
    roles: tuple[str, str], views: tuple[View, View], specs: tuple, bits: Bits | None
) -> tuple[Operand, Operand]:
    """Quantize both operands of a GEMM; roles name them, for example ("wgrad.x", "wgrad.g")."""
    hadamard = [spec is not None and spec.hadamard for spec in specs]
    if hadamard[0] != hadamard[1]:
        raise ValueError(
            f"{roles[0]} and {roles[1]} must both be rotated or both not: "
            "the RHT cancels only in pairs"
        )
    first, second = (_enter(*each, bits) for each in zip(roles, views, specs, strict=True))
    return first, second


def _enter(role: str, view: View, spec, bits: Bits | None) -> Operand:
    if spec is None:
        return Operand(view.array.astype(np.float64), 1.0, None)
    axis = view.axis if tuple(spec.block) == (1, 16) else view.tile
    if axis is None:
        raise ValueError(f"16x16 tiles are not defined for {role}")
    axes = (axis,) if isinstance(axis, int) else axis
    draw = None if spec.rounding == "nearest" else bits(role, padded_shape(view.array.shape, axes))
    q = quantize(view.array, spec, axis, draw)
    return Operand(q.operand().astype(np.float64), float(q.tensor_scale), q)


def contract(equation: str, a: Operand, b: Operand) -> np.ndarray:
    """np.einsum of the two operands in float64, then (accumulator x scale of a) x scale of b."""
    with np.errstate(all="ignore"):
        return (np.einsum(equation, a.values, b.values, optimize=True) * a.scale) * b.scale


def residual(operand: Operand, array: np.ndarray, recipe) -> np.ndarray:
    """Where the backward pass starts.

    array, or with residuals="quantized" the dequantized forward operand, float32.
    """
    if recipe.residuals == "original" or operand.quantized is None:
        return array
    return operand.quantized.restore()


def through(dx: np.ndarray, x: np.ndarray, spec) -> np.ndarray:
    """The gradient of x: dx, or with a clip 0 where |x| exceeds clip * max|x|."""
    if spec is None or spec.clip == 1:
        return dx
    magnitude = np.abs(x.astype(np.float32))
    return np.where(magnitude <= magnitude.max() * np.float32(spec.clip), dx, 0)


def operands(*six: Operand) -> dict[str, Quantized | None]:
    """What entered the three GEMMs, by role."""
    roles = ("fprop.x", "fprop.w", "dgrad.g", "dgrad.w", "wgrad.x", "wgrad.g")
    return {role: operand.quantized for role, operand in zip(roles, six, strict=True)}
