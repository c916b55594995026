"""The convolutional encoder-decoder: strided convolutions down, transposed ones up, skips."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.initializers import he_normal
from fp4jax.models.layers import checked_images
from fp4jax.models.norms import RELU, BatchNorm, leaky_relu

# Kernel 4, stride 2: every output pixel of a transposed convolution is reached by 4 of 16 taps.
_TAPS, _TAPS_PER_OUTPUT = 16, 4


class CNN(nnx.Module):
    """S stages down (conv 4, stride 2), S up (transposed conv 4, stride 2), C channels throughout.

    Encoder stage: conv -> BatchNorm -> LeakyReLU 0.2 (stage 0) or ReLU -> dropout.
    Decoder stage: transposed conv -> BatchNorm -> ReLU -> concat [decoder, skip] -> dropout; the
    last one returns the logits. Skips are the encoder's outputs after dropout, so that they are
    dropped twice, as in the reference; ``skip_dropout_once`` takes them before.

    Args:
        stages: S, 2 to 8; images must be multiples of 2**S.
        channels: C.
        in_channels, num_classes: of the images and of the logits.
        image_size: height and width; only checked against 2**S, other sizes can be passed later.
        dropout: rate.
        skip_dropout_once: drop skips once instead of twice.
        init: "fixed": He initialization with the true fan-in and, in the logit layer, a bias
            log(prior / (1 - prior)). "ref": the reference's, which takes the fan-*out* x 16 as
            fan-in of transposed convolutions; logits start with a standard deviation above 10.
        prior: expected share of positive pixels, for ``init="fixed"``.
        dtype: of the computation, float32 if None. Parameters and statistics are float32.
        rngs: ``params`` stream.

    Raises:
        ValueError: for sizes that do not fit or an unknown init.

    Example:
        >>> import jax.numpy as jnp
        >>> model = CNN(stages=2, channels=16, image_size=16, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> nnx.eval_shape(lambda: model(jnp.ones((1, 16, 16, 3)))).shape
        (1, 16, 16, 1)
    """

    #: Whether it has attention, whose products a recipe may quantize.
    attends: ClassVar[bool] = False
    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"stages": 4, "channels": 64},
        "4m": {"stages": 6, "channels": 128},
        "15m": {"stages": 7, "channels": 224},
    }

    def __init__(
        self,
        *,
        stages: int,
        channels: int,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int = 256,
        dropout: float | int = 0.5,
        skip_dropout_once: bool = False,
        init: Literal["fixed", "ref"] = "fixed",
        prior: float = 0.01,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if not 2 <= stages <= 8:
            raise ValueError(f"stages is {stages}; 2 to 8 are allowed.")
        if init not in ("fixed", "ref"):
            raise ValueError(f"init is {init!r}; allowed: 'fixed', 'ref'.")
        if not 0 < prior < 1:
            raise ValueError(f"prior is {prior}; it must lie between 0 and 1.")
        if image_size % 2**stages or image_size <= 0:
            raise ValueError(
                f"image_size is {image_size}; a CNN of {stages} stages takes multiples of "
                f"{2**stages}. Take a smaller scale, or pad the images."
            )
        self.in_channels = in_channels
        self.stages = stages
        self.skip_dropout_once = skip_dropout_once
        self.dtype = jnp.dtype(dtype or jnp.float32)
        norm = lambda: BatchNorm(channels, dtype=self.dtype, rngs=rngs)  # noqa: E731
        shape = {"kernel_size": (4, 4), "strides": (2, 2), "dtype": self.dtype, "rngs": rngs}

        def encoder(inputs: int) -> nnx.Conv:
            kernel_init = he_normal(inputs * _TAPS)
            return nnx.Conv(inputs, channels, padding=1, kernel_init=kernel_init, **shape)

        def decoder(inputs: int, outputs: int) -> nnx.ConvTranspose:
            fan_in = inputs * _TAPS_PER_OUTPUT if init == "fixed" else outputs * _TAPS
            kernel_init = he_normal(fan_in)
            return nnx.ConvTranspose(inputs, outputs, kernel_init=kernel_init, **shape)

        inputs = [in_channels] + [channels] * (stages - 1)
        self.encoders = nnx.List([encoder(n) for n in inputs])
        self.encoder_norms = nnx.List([norm() for _ in range(stages)])
        inputs = [channels] + [2 * channels] * (stages - 1)
        outputs = [channels] * (stages - 1) + [num_classes]
        self.decoders = nnx.List([decoder(*n) for n in zip(inputs, outputs, strict=True)])
        self.decoder_norms = nnx.List([norm() for _ in range(stages - 1)])
        self.drop = Dropout(dropout)
        if init == "fixed":
            bias: Any = self.decoders[-1].bias
            bias.set_value(jnp.full_like(bias[...], jnp.log(prior / (1 - prior))))

    @property
    def bottleneck(self) -> str:
        """The pattern of the deepest convolution, one of :attr:`high_precision`."""
        return rf"encoders\.{self.stages - 1}$"

    @property
    def high_precision(self) -> tuple[str, ...]:
        """First convolution, bottleneck and logit layer: ``keep`` of ``apply_recipe``."""
        return (r"encoders\.0$", self.bottleneck, rf"decoders\.{self.stages - 1}$")

    def __call__(
        self, x: Shaped[Array, "..."], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w k"]:
        """Logits in float32; ``rngs`` with a ``dropout`` stream is needed in training mode."""
        checked_images(x, self.in_channels, multiple=2**self.stages)
        seeds = Seeds(rngs)
        x = x.astype(self.dtype)
        skips = []
        for i, (conv, norm) in enumerate(zip(self.encoders, self.encoder_norms, strict=True)):
            with jax.named_scope(f"encoders.{i}"):
                x = norm(conv(x), RELU if i else leaky_relu(0.2))
                dropped = self.drop(x, seeds)
                skips.append(x if self.skip_dropout_once else dropped)
                x = dropped
        skips.pop()
        for i, (conv, norm) in enumerate(zip(self.decoders, self.decoder_norms, strict=False)):
            with jax.named_scope(f"decoders.{i}"):
                x = jnp.concatenate([norm(conv(x), RELU), skips.pop()], -1)
                x = self.drop(x, seeds)
        with jax.named_scope(f"decoders.{self.stages - 1}"):
            return self.decoders[-1](x).astype(jnp.float32)
