"""The paper's CNN, at the sizes the benchmarks and memory tests speak of.

Encoder-decoder of S stages with C channels throughout: convolutions of kernel 4 and stride 2 with
batch norm, activation and dropout, transposed convolutions back up, skips concatenated. Its first
and last layer and the bottleneck stay in high precision.
"""

import jax
import jax.numpy as jnp
from flax import nnx

#: stages, channels, and the number of parameters that results
SIZES = {"500k": (4, 64, 530_753), "4m": (6, 128, 3_684_481), "15m": (7, 224, 13_674_529)}


class PaperCNN(nnx.Module):
    """(n, h, w, 3) -> logits (n, h, w, 1); h and w divisible by 2**stages."""

    def __init__(self, size: str, *, dropout: float = 0.5, rngs: nnx.Rngs):
        stages, channels, _ = SIZES[size]

        def norm() -> nnx.BatchNorm:
            return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)

        self.encoders = nnx.List(
            nnx.Conv(3 if i == 0 else channels, channels, (4, 4), strides=2, padding=1, rngs=rngs)
            for i in range(stages)
        )
        self.encoder_norms = nnx.List(norm() for _ in range(stages))
        self.decoders = nnx.List(
            nnx.ConvTranspose(
                channels if i == 0 else 2 * channels,
                1 if i == stages - 1 else channels,
                (4, 4),
                strides=(2, 2),
                padding="SAME",
                rngs=rngs,
            )
            for i in range(stages)
        )
        self.decoder_norms = nnx.List(norm() for _ in range(stages - 1))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        #: patterns for ``apply_recipe(keep=...)``
        self.keep = ("encoders.0$", f"encoders.{stages - 1}$", f"decoders.{stages - 1}$")

    def __call__(self, x: jax.Array) -> jax.Array:
        skips = []
        for i, (encoder, norm) in enumerate(zip(self.encoders, self.encoder_norms, strict=True)):
            x = norm(encoder(x))
            x = self.dropout(nnx.leaky_relu(x, 0.2) if i == 0 else nnx.relu(x))
            skips.append(x)
        for decoder, norm, skip in zip(
            self.decoders, self.decoder_norms, reversed(skips[:-1]), strict=False
        ):
            x = nnx.relu(norm(decoder(x)))
            x = self.dropout(jnp.concatenate([x, skip], -1))
        return self.decoders[-1](x)
