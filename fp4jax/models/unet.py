"""U-Net with strided convolutions down, transposed ones up, and residual units.

Equal to MONAI 1.6's ``UNet``, weights included, in two and three dimensions.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models.conv_unit import Activation, ConvUnit, Norm
from fp4jax.models.convolutions import conv, pointwise, transposed
from fp4jax.models.dropout import Seeds
from fp4jax.models.layers import checked_dims, checked_images, checked_size

Strides = tuple[int, ...]


class ResidualUnit(nnx.Module):
    """units(x) + shortcut(x), with no activation behind the sum.

    The first unit carries the stride. The shortcut is x if the unit keeps size and channels, a
    convolution of kernel 1 if only the channels change, else one of kernel 3 with the same stride.
    ``last`` makes the last unit a convolution alone.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        strides: Strides,
        units: int,
        *,
        last: bool = False,
        unit: dict[str, Any],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        space: dict[str, Any] = {"spatial_dims": len(strides), **common}
        self.units = nnx.List([])
        for i in range(units):
            layer = conv(outputs if i else inputs, outputs, 3, strides=1 if i else strides, **space)
            conv_only = last and i == units - 1
            self.units.append(layer if conv_only else ConvUnit(layer, outputs, **unit, **common))
        self.last = last
        shortcut = None
        if math.prod(strides) > 1:
            shortcut = conv(inputs, outputs, 3, strides=strides, **space)
        elif inputs != outputs:
            shortcut = pointwise(inputs, outputs, **space)
        self.residual = nnx.data(shortcut)

    def __call__(self, x: Float[Array, "b *space c"], seeds: Seeds) -> Float[Array, "b *out d"]:
        y = x
        for unit in self.units:
            y = unit(y, seeds) if isinstance(unit, ConvUnit) else unit(y)
        return y + (x if self.residual is None else self.residual(x))


class UNet(nnx.Module):
    """Levels of convolutions with skips: down, [x, next level], up.

    Unit: conv3 -> norm -> dropout -> activation. Level i goes down to ``channels[i]`` with
    ``strides[i]``, the last channels belong to the bottom, which has stride 1. Up: a transposed
    unit of the same stride. With ``num_res_units`` > 0 the way down and the bottom are residual
    units of that many units, the way up ends in one of a single unit. The topmost convolution has
    neither norm nor activation.

    Parameters with 3 inputs and 1 output in 2D, residual units of 2: MONAI's tutorials' (16, 32,
    64, 128, 256) have 1,625,420; scale "500k" 514,600, "4m" 3,660,668, "15m" 13,701,148.

    Args:
        in_channels, num_classes: of the images and of the float32 logits.
        image_size: height and width, or the size along each axis; only checked to be a multiple
            of the strides' product. Other sizes can be passed later.
        spatial_dims: 2 for images, 3 for volumes (b, depth, h, w, c).
        channels: of the levels, from the top, and of the bottom.
        strides: of the levels, numbers or one for each axis.
        num_res_units: 0 for plain units.
        norm: "instance" (without scale and bias) or "batch".
        act: "prelu" (one slope per unit), "relu" or "leakyrelu" (0.01).
        dropout: rate.
        dtype: of the computation, float32 if None. Parameters and statistics are float32.
        rngs: ``params`` stream.

    Source: Kerfoot et al., "Left-ventricle quantification using residual U-Net", STACOM 2018.

    Raises:
        ValueError: for sizes that do not fit, or an unknown norm or activation.

    Example:
        >>> import jax.numpy as jnp
        >>> options = {"channels": (4, 8, 16), "strides": (2, 2), "image_size": 16}
        >>> model = nnx.eval_shape(lambda: UNet(num_res_units=2, **options, rngs=nnx.Rngs(0)))
        >>> nnx.eval_shape(lambda m: m(jnp.ones((1, 16, 16, 3))), model).shape
        (1, 16, 16, 1)
    """

    #: Whether it has attention, whose products a recipe may quantize.
    attends: ClassVar[bool] = False
    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"channels": (16, 32, 64, 160), "strides": (2, 2, 2), "num_res_units": 2},
        "4m": {"channels": (32, 64, 128, 192, 320), "num_res_units": 2},
        "15m": {"channels": (48, 96, 192, 384, 720), "num_res_units": 2},
    }
    default_scale: ClassVar[str | None] = None
    sized_by: ClassVar[str] = "channels"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, ...] = 256,
        spatial_dims: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        num_res_units: int = 0,
        norm: Norm = "instance",
        act: Activation = "prelu",
        dropout: float | int = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.spatial_dims = checked_dims(spatial_dims)
        levels = _levels(channels, strides, spatial_dims)
        if num_res_units < 0:
            raise ValueError(f"num_res_units is {num_res_units}; give 0 for plain units, or more.")
        self.multiple = tuple(math.prod(s) for s in zip(*levels, strict=True))
        checked_size(image_size, self.multiple)
        self.in_channels = in_channels
        self.num_res_units = num_res_units
        self.dtype = jnp.dtype(dtype or jnp.float32)
        common: dict[str, Any] = {"dtype": self.dtype, "rngs": rngs}
        unit: dict[str, Any] = {"norm": norm, "act": act, "dropout": dropout}

        def down(inputs: int, outputs: int, stride: Strides) -> nnx.Module:
            if num_res_units:
                return ResidualUnit(inputs, outputs, stride, num_res_units, unit=unit, **common)
            layer = conv(inputs, outputs, 3, strides=stride, spatial_dims=spatial_dims, **common)
            return ConvUnit(layer, outputs, **unit, **common)

        above = (in_channels, *channels[:-2])
        self.downs = nnx.List([down(*n) for n in zip(above, channels[:-1], levels, strict=True)])
        one = (1,) * spatial_dims
        self.bottom = down(channels[-2], channels[-1], one)
        self.ups, self.refines = nnx.List([]), nnx.List([])
        for i, stride in enumerate(levels):
            deepest = i == len(levels) - 1
            inputs = channels[i] + channels[i + 1 if deepest else i]
            outputs = num_classes if i == 0 else channels[i - 1]
            layer = transposed(inputs, outputs, strides=stride, **common)
            conv_only = i == 0 and not num_res_units
            self.ups.append(layer if conv_only else ConvUnit(layer, outputs, **unit, **common))
            if num_res_units:
                self.refines.append(
                    ResidualUnit(outputs, outputs, one, 1, last=i == 0, unit=unit, **common)
                )

    @property
    def high_precision(self) -> tuple[str, ...]:
        """What sees the image, and the layers of the logits: ``keep`` of ``apply_recipe``."""
        if self.num_res_units:
            return (r"downs\.0\.(units\.0\.conv|residual)$", r"ups\.0\.", r"refines\.0\.")
        return (r"downs\.0\.", r"ups\.0$")

    @property
    def torch_names(self) -> tuple[tuple[str, Any], ...]:
        """Rules of :mod:`fp4jax.models.torch_weights`: MONAI nests level in level."""
        up = "2.0." if self.num_res_units else "2."
        inside = lambda level, name: "model." + "1.submodule." * int(level) + name  # noqa: E731
        return (
            # the topmost convolution, which is no unit
            (r"^(ups\.0|refines\.0\.units\.\d+)\.(weight|bias)$", r"\1.conv.\2"),
            (r"^downs\.(\d+)\.", lambda m: inside(m[1], "0.")),
            (r"^bottom\.", inside(len(self.downs), "")),
            (r"^ups\.(\d+)\.", lambda m: inside(m[1], up)),
            (r"^refines\.(\d+)\.", lambda m: inside(m[1], "2.1.")),
            (r"\.units\.(\d+)\.", r".conv.unit\1."),
            (r"\.norm\.", ".adn.N."),
            (r"\.act\.", ".adn.A."),
        )

    def __call__(
        self, x: Shaped[Array, "..."], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b *space k"]:
        """Logits in float32; ``rngs`` with a ``dropout`` stream if the rate is above 0."""
        checked_images(x, self.in_channels, multiple=self.multiple, spatial_dims=self.spatial_dims)
        seeds = Seeds(rngs)
        x = x.astype(self.dtype)
        skips = []
        for i, down in enumerate(self.downs):
            with jax.named_scope(f"downs.{i}"):
                x = down(x, seeds)
            skips.append(x)
        with jax.named_scope("bottom"):
            x = self.bottom(x, seeds)
        for i in reversed(range(len(self.ups))):
            with jax.named_scope(f"ups.{i}"):
                up, x = self.ups[i], jnp.concatenate([skips[i], x], -1)
                x = up(x, seeds) if isinstance(up, ConvUnit) else up(x)
                if self.num_res_units:
                    x = self.refines[i](x, seeds)
        return x.astype(jnp.float32)


def _levels(channels: Any, strides: Any, spatial_dims: int) -> list[Strides]:
    """The strides of each level along each axis."""
    if len(channels) < 2 or len(strides) != len(channels) - 1:
        raise ValueError(
            f"channels are {channels} and strides {strides}; give at least two channels, and one "
            "stride less than channels."
        )
    levels = [(s,) * spatial_dims if isinstance(s, int) else tuple(s) for s in strides]
    if any(len(s) != spatial_dims or min(s) < 1 for s in levels):
        raise ValueError(
            f"strides are {strides}; each must be a number of at least 1, or one for each of the "
            f"{spatial_dims} axes."
        )
    return levels
