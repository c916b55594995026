"""Shapes that tests and benchmarks share, and operands of such shapes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.core.qtensor import QTensor
from fp4jax.core.quantizer import quantize
from fp4jax.core.spec import TensorSpec


@dataclasses.dataclass(frozen=True)
class Layer:
    """Weights of (k, n) and where they are from."""

    name: str
    k: int
    n: int


#: The linear layers of the paper's ViT and Swin, and one that is as large as those of an LLM.
LAYERS = (
    Layer("4m projection", 192, 192),
    Layer("4m MLP in, qkv", 192, 576),
    Layer("4m MLP out", 576, 192),
    Layer("15m projection", 448, 448),
    Layer("15m MLP in", 448, 896),
    Layer("15m MLP out", 896, 448),
    Layer("15m qkv", 448, 1344),
    Layer("large", 8192, 8192),
)

#: Rows of the left operand: a vector, decoding, small and large batches of tokens.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

#: Shapes (m, k, n) that are hard: one row, lengths that no tile or block divides, several parts.
AWKWARD = ((1, 16, 1), (1, 32, 16), (3, 20, 5), (5, 70, 33), (17, 304, 130), (33, 1024, 64))


def axis_of(spec: TensorSpec) -> int | tuple[int, int]:
    """The axis along which weights of (k, n) are quantized to be a right operand."""
    return 0 if spec.block[0] == 1 else (1, 0)


def weights(layer: Layer, spec: TensorSpec | None = None, seed: int = 0) -> QTensor:
    """Normal weights, quantized along k.

    Example:
        >>> weights(Layer("tiny", 32, 8)).codes.shape
        (8, 16)
    """
    spec = spec or TensorSpec()
    w = jax.random.normal(jax.random.key(seed), (layer.k, layer.n))
    return quantize(w, spec, axis=axis_of(spec))


def shapes(
    m: int, k: int, n: int, *, a: Any = jnp.bfloat16, spec: TensorSpec | None = None
) -> tuple[Any, QTensor]:
    """Operands without values: ``a`` of a dtype, or quantized if that is a TensorSpec.

    Example:
        >>> a, b = shapes(4, 64, 8)
        >>> a.shape, b.shape
        ((4, 64), (64, 8))
    """
    left = jax.ShapeDtypeStruct((m, k), jnp.float32 if isinstance(a, TensorSpec) else a)
    if isinstance(a, TensorSpec):
        left = jax.eval_shape(lambda x: quantize(x, a), left)
    layer = Layer("", k, n)
    return left, jax.eval_shape(lambda: weights(layer, spec))
