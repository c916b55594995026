"""U-Net with max pooling, equal to MONAI 1.6's ``BasicUNet``, in two and three dimensions."""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models.conv_unit import Activation, ConvUnit, Norm
from fp4jax.models.convolutions import conv, pointwise, upsample
from fp4jax.models.dropout import Seeds
from fp4jax.models.layers import checked_dims, checked_images


class TwoConv(nnx.Module):
    """Two units of conv3 -> norm -> dropout -> LeakyReLU 0.1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        spatial_dims: int,
        unit: dict[str, Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.units = nnx.List([])
        for i in range(2):
            layer = conv(outputs if i else inputs, outputs, 3, spatial_dims=spatial_dims, **common)
            self.units.append(ConvUnit(layer, outputs, **unit, **common))

    def __call__(self, x: Float[Array, "b *space c"], seeds: Seeds) -> Float[Array, "b *space d"]:
        for unit in self.units:
            x = unit(x, seeds)
        return x


class Up(nnx.Module):
    """TwoConv of [skip, transposed conv of x], its last row repeated where the skip is odd."""

    def __init__(
        self, inputs: int, features: int, skip: int, outputs: int, *, spatial_dims: int, **options
    ):
        common = {"dtype": options["dtype"], "rngs": options["rngs"]}
        self.deconv = upsample(inputs, features, use_bias=True, spatial_dims=spatial_dims, **common)
        self.convs = TwoConv(skip + features, outputs, spatial_dims=spatial_dims, **options)

    def __call__(
        self, x: Float[Array, "b *half c"], skip: Float[Array, "b *space d"], seeds: Seeds
    ) -> Float[Array, "b *space e"]:
        x = self.deconv(x)
        missing = [(0, n - m) for n, m in zip(skip.shape[1:-1], x.shape[1:-1], strict=True)]
        x = jnp.pad(x, [(0, 0), *missing, (0, 0)], mode="edge")
        return self.convs(jnp.concatenate([skip, x], -1), seeds)


class BasicUNet(nnx.Module):
    """Two convolutions a level, max pooling of 2 down, transposed convolutions of 2 up.

    Any size of at least 16 along each axis, 32 along one: odd sizes are rounded down on the way
    down and padded with their last row on the way up.

    Parameters with 3 inputs and 1 output in 2D: MONAI's default (32, 32, 64, 128, 256, 32) has
    1,979,009; scale "500k" 496,193, "4m" 3,630,273, "15m" 13,930,609.

    Args:
        in_channels, num_classes: of the images and of the float32 logits.
        image_size: accepted and not used.
        spatial_dims: 2 for images, 3 for volumes (b, depth, h, w, c).
        features: channels of the five levels from the top, and of the last level on the way up.
        norm: "instance" (with scale and bias) or "batch".
        act: "leakyrelu" (0.1), "relu" or "prelu".
        dropout: rate.
        dtype: of the computation, float32 if None. Parameters and statistics are float32.
        rngs: ``params`` stream.

    Source: Falk et al., Nature Methods 16 (2019), doi 10.1038/s41592-018-0261-2.

    Raises:
        ValueError: for sizes that do not fit, or an unknown norm or activation.

    Example:
        >>> import jax.numpy as jnp
        >>> features = (4, 4, 8, 8, 16, 4)
        >>> model = nnx.eval_shape(lambda: BasicUNet(features=features, rngs=nnx.Rngs(0)))
        >>> nnx.eval_shape(lambda m: m(jnp.ones((1, 35, 32, 3))), model).shape
        (1, 35, 32, 1)
    """

    #: Whether it has attention, whose products a recipe may quantize.
    attends: ClassVar[bool] = False
    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"features": (16, 16, 32, 64, 128, 16)},
        "4m": {"features": (32, 48, 96, 176, 336, 32)},
        "15m": {"features": (96, 96, 176, 336, 672, 96)},
    }
    default_scale: ClassVar[str | None] = None
    sized_by: ClassVar[str] = "features"

    #: Layers that stay in high precision: what sees the image, and the logits.
    high_precision: ClassVar[tuple[str, ...]] = (r"stem\.units\.0\.", r"head$")

    torch_names: ClassVar[tuple[tuple[str, Any], ...]] = (
        (r"^stem\.", "conv_0."),
        (r"^downs\.(\d)\.", lambda m: f"down_{int(m[1]) + 1}.convs."),
        (r"^ups\.(\d)\.", lambda m: f"upcat_{4 - int(m[1])}."),
        (r"\.deconv\.", ".upsample.deconv."),
        (r"\.units\.(\d)\.", r".conv_\1."),
        (r"\.norm\.", ".adn.N."),
        (r"\.act\.", ".adn.A."),
        (r"^head\.", "final_conv."),
    )

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, ...] = 256,
        spatial_dims: int = 2,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        norm: Norm = "instance",
        act: Activation = "leakyrelu",
        dropout: float | int = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        del image_size
        if len(features) != 6 or min(features) < 1:
            raise ValueError(f"features are {features}; give six numbers of at least 1.")
        self.spatial_dims = checked_dims(spatial_dims)
        self.in_channels = in_channels
        self.dtype = jnp.dtype(dtype or jnp.float32)
        *levels, last = features
        unit = {
            "norm": norm,
            "act": act,
            "affine": True,
            "negative_slope": 0.1,
            "dropout": dropout,
        }
        common: dict[str, Any] = {"spatial_dims": spatial_dims, "dtype": self.dtype, "rngs": rngs}
        self.stem = TwoConv(in_channels, levels[0], unit=unit, **common)
        self.downs = nnx.List(
            [TwoConv(a, b, unit=unit, **common) for a, b in itertools.pairwise(levels)]
        )
        self.ups = nnx.List([])
        for skip, inputs in reversed(list(itertools.pairwise(levels))):
            top = len(self.ups) == len(levels) - 2
            channels, outputs = (inputs, last) if top else (inputs // 2, skip)
            self.ups.append(Up(inputs, channels, skip, outputs, unit=unit, **common))
        self.head = pointwise(last, num_classes, **common)

    def __call__(
        self, x: Shaped[Array, "..."], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b *space k"]:
        """Logits in float32; ``rngs`` with a ``dropout`` stream if the rate is above 0."""
        checked_images(x, self.in_channels, spatial_dims=self.spatial_dims)
        if min(x.shape[1:-1]) < 16:
            raise ValueError(
                f"images are {' x '.join(map(str, x.shape[1:-1]))}; each side must be at least "
                "16, for four levels of pooling. Pad or resize them."
            )
        seeds = Seeds(rngs)
        with jax.named_scope("stem"):
            states = [self.stem(x.astype(self.dtype), seeds)]
        for i, convs in enumerate(self.downs):
            with jax.named_scope(f"downs.{i}"):
                states.append(convs(max_pool(states[-1]), seeds))
        y = states.pop()
        for i, up in enumerate(self.ups):
            with jax.named_scope(f"ups.{i}"):
                y = up(y, states.pop(), seeds)
        return self.head(y).astype(jnp.float32)


def max_pool(x: Float[Array, "b *space c"]) -> Float[Array, "b *half c"]:
    """The largest of each 2**d neighbours; an odd end is dropped.

    Of equal ones the first gets the gradient, and a NaN wins, as in torch.

    Example:
        >>> max_pool(jnp.arange(10.0).reshape(1, 2, 5, 1)).ravel().tolist()
        [6.0, 8.0]
    """
    b, *space, c = x.shape
    even = jax.lax.slice(x, (0,) * x.ndim, (b, *(n // 2 * 2 for n in space), c))
    pairs = even.reshape(b, *(m for n in space for m in (n // 2, 2)), c)
    every, result = slice(None), None
    for offset in itertools.product(range(2), repeat=len(space)):
        part = pairs[:, *(i for o in offset for i in (every, o))]
        larger = part if result is None else (part > result) | (part != part)
        result = part if result is None else jnp.where(larger, part, result)
    assert result is not None
    return result
