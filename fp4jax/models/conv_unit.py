"""Convolution, norm, dropout, activation: the unit that U-Nets are made of."""

from typing import Any, Literal, get_args

from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.norms import PRELU, RELU, BatchNorm, InstanceNorm, PReLU, leaky_relu

Norm = Literal["instance", "batch"]
Activation = Literal["prelu", "relu", "leakyrelu"]


class ConvUnit(nnx.Module):
    """y = f(dropout(norm(conv(x)))).

    The three activations commute with dropout, f(c z) = c f(z) for c >= 0, so that norm and
    activation are one operation and dropout comes last.

    Args:
        layer: the convolution, transposed or not.
        features: its output channels.
        norm: "instance" or "batch" (with scale and bias).
        act: "prelu" (one slope, learned, 0.25 at the start), "relu" or "leakyrelu".
        affine: whether an instance norm has scale and bias.
        negative_slope: of "leakyrelu".
        dropout: rate.

    Raises:
        ValueError: for an unknown norm or activation.

    Example:
        >>> import jax.numpy as jnp
        >>> conv = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
        >>> unit = ConvUnit(conv, 8, norm="batch", act="prelu", rngs=nnx.Rngs(0))
        >>> unit(jnp.ones((1, 4, 4, 3)), Seeds(None)).shape
        (1, 4, 4, 8)
    """

    def __init__(
        self,
        layer: nnx.Conv | nnx.ConvTranspose,
        features: int,
        *,
        norm: str,
        act: str,
        affine: bool = False,
        negative_slope: float | int = 0.01,
        dropout: float | int = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.conv = layer
        for name, value, known in (("norm", norm, Norm), ("act", act, Activation)):
            if value not in (allowed := get_args(known)):
                raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}.")
        self.norm: Any = (
            BatchNorm(features, dtype=dtype, rngs=rngs)
            if norm == "batch"
            else InstanceNorm(features, affine=affine, dtype=dtype, rngs=rngs)
        )
        self.act = nnx.data(PReLU() if act == "prelu" else None)
        self.negative_slope = 0.0 if act == "relu" else float(negative_slope)
        self.drop = Dropout(dropout)

    def __call__(self, x: Float[Array, "b *space c"], seeds: Seeds) -> Float[Array, "b *out d"]:
        y = self.conv(x)
        if self.act is None:
            f = leaky_relu(self.negative_slope) if self.negative_slope else RELU
            return self.drop(self.norm(y, f), seeds)
        return self.drop(self.norm(y, PRELU, self.act.slope[...]), seeds)
