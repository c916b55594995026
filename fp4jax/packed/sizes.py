"""How many bytes a model takes: its packed kernels, and the rest."""

import dataclasses
import math

import jax
from flax import nnx

from fp4jax.packed.kernel import DecodedKernel, Packed, PackedKernel


@dataclasses.dataclass(frozen=True)
class Size:
    """Weights and bytes of a model; ``str(size)`` is one line.

    Example:
        >>> size = Size(layers=2, weights=1000, weight_bytes=570, others=100, other_bytes=400)
        >>> print(size)
        2 layers packed: 1,000 weights in 570 bytes (4.56 bits each); 100 other numbers in 400 bytes
        >>> round(size.of_bfloat16, 3)
        0.441
    """

    # packed layers
    layers: int
    # numbers in their kernels
    weights: int
    weight_bytes: int
    # all other parameters and statistics
    others: int
    other_bytes: int

    @property
    def nbytes(self) -> int:
        return self.weight_bytes + self.other_bytes

    @property
    def bits_per_weight(self) -> float:
        """Of the packed kernels, scales included."""
        return 8 * self.weight_bytes / max(self.weights, 1)

    @property
    def of_bfloat16(self) -> float:
        """Bytes over those of the same model in bfloat16."""
        return self.nbytes / max(2 * (self.weights + self.others), 1)

    def __str__(self) -> str:
        return (
            f"{self.layers} layers packed: {self.weights:,} weights in {self.weight_bytes:,} bytes "
            f"({self.bits_per_weight:.2f} bits each); {self.others:,} other numbers in "
            f"{self.other_bytes:,} bytes"
        )


def size(model: nnx.Module) -> Size:
    """The bytes of any NNX model's parameters and statistics, packed or not.

    Keys of random streams and of rounding do not count.

    Example:
        >>> size(nnx.Linear(16, 4, rngs=nnx.Rngs(0))).nbytes
        272
    """
    kinds = (PackedKernel, DecodedKernel)
    kernels = [m for _, m in nnx.iter_modules(model) if isinstance(m, kinds)]
    weights = sum(math.prod((*m.stack, *m.shape)) for m in kernels)
    packed = jax.tree.leaves(nnx.state(model, Packed))
    others = jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return Size(
        layers=len(kernels),
        weights=weights,
        weight_bytes=sum(_nbytes(leaf) for leaf in packed),
        others=sum(math.prod(leaf.shape) for leaf in others),
        other_bytes=sum(_nbytes(leaf) for leaf in others),
    )


def _nbytes(leaf) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
