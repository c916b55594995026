"""Swin UNETR: a Swin transformer that halves its grid four times, and a U-Net on its states.

Equal to MONAI 1.6's ``SwinUNETR``, weights included, in two and three dimensions.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.exact import materialize
from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models import transformer
from fp4jax.models.convolutions import ResidualConv, pointwise, upsample
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.initializers import torch_default
from fp4jax.models.layers import (
    Downsample,
    checked_dims,
    checked_images,
    checked_size,
    layer_norm,
    space_to_channels,
)
from fp4jax.models.windows import WindowAttention

#: Patches of 2, then four halvings of the grid.
MULTIPLE = 32

# Offsets of the 2**d neighbours that patch merging concatenates, along (d,) h and w.
Merging = Literal["merging", "mergingv2"]

_ORDERS: dict[tuple[str, int], tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((("merging", 2), ("mergingv2", 2)), ((0, 0), (1, 0), (0, 1), (1, 1))),
    ("merging", 3): (
        *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    ),
    ("mergingv2", 3): tuple(np.ndindex(2, 2, 2)),
}


class PatchMerging(nnx.Module):
    """2**d neighbouring tokens side by side, LayerNorm, Linear to twice the channels, no bias.

    Args:
        dim: channels of a token.
        order: "merging" or "mergingv2", which differ in the order of the neighbours in 3D only.
        spatial_dims: d.
    """

    def __init__(self, dim: int, order: str, spatial_dims: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.order = _ORDERS[order, spatial_dims]
        merged = dim * 2**spatial_dims
        self.norm = layer_norm(merged, rngs)
        self.reduction = nnx.Linear(
            merged, 2 * dim, use_bias=False, dtype=dtype, rngs=rngs, **torch_default(merged)
        )

    def __call__(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b *half d"]:
        b, *grid, c = x.shape
        pairs = x.reshape(b, *(m for n in grid for m in (n // 2, 2)), c)
        every = slice(None)
        parts = [pairs[:, *(i for o in offset for i in (every, o))] for offset in self.order]
        return self.reduction(self.norm(jnp.concatenate(parts, -1)))


class Stage(nnx.Module):
    """[residual convolutions], blocks whose windows are shifted in every second one, merging."""

    def __init__(
        self,
        dim: int,
        heads: int,
        rates: list[float],
        *,
        window: tuple[int, ...],
        mlp_ratio: float | int,
        qkv_bias: bool,
        dropout: float | int,
        attention_dropout: float | int,
        use_v2: bool,
        patch_merging: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        spatial_dims, common = len(window), {"dtype": dtype, "rngs": rngs}
        self.conv = nnx.data(
            ResidualConv(dim, dim, spatial_dims=spatial_dims, **common) if use_v2 else None
        )
        self.blocks = nnx.List([])
        for i, rate in enumerate(rates):
            attn = WindowAttention(
                dim=dim,
                heads=heads,
                window=window,
                shifted=i % 2 == 1,
                qkv_bias=qkv_bias,
                dropout=dropout,
                attention_dropout=attention_dropout,
                **common,
            )
            block = transformer.Block(
                attn,
                dim=dim,
                hidden=int(dim * mlp_ratio),
                dropout=dropout,
                drop_path=rate,
                init="torch",
                **common,
            )
            self.blocks.append(block)
        self.downsample = PatchMerging(dim, patch_merging, spatial_dims, **common)

    def __call__(self, x: Float[Array, "b *grid c"], seeds: Seeds) -> Float[Array, "b *half d"]:
        if self.conv is not None:
            with jax.named_scope("conv"):
                x = self.conv(x)
        for i, block in enumerate(self.blocks):
            with jax.named_scope(f"blocks.{i}"):
                x = block(x, seeds)
        return self.downsample(x)


class SwinTransformer(nnx.Module):
    """Patches of 2, then the stages; returns the five states between them."""

    def __init__(
        self,
        in_channels: int,
        feature_size: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: tuple[int, ...],
        drop_path: float | int,
        normalize: bool,
        dropout: float | int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        **options,
    ):
        spatial_dims = len(window)
        self.patch_embed = Downsample(
            in_channels,
            feature_size,
            patch=2,
            spatial_dims=spatial_dims,
            dtype=dtype,
            rngs=rngs,
            **torch_default(in_channels * 2**spatial_dims),
        )
        self.drop = Dropout(dropout)
        self.normalize = normalize
        rates = transformer.drop_path_rates(drop_path, sum(depths))
        self.stages = nnx.List([])
        for i, (depth, h) in enumerate(zip(depths, heads, strict=True)):
            own, rates = rates[:depth], rates[depth:]
            stage = Stage(
                feature_size * 2**i,
                h,
                own,
                window=window,
                dropout=dropout,
                dtype=dtype,
                rngs=rngs,
                **options,
            )
            self.stages.append(stage)

    def __call__(self, x: Float[Array, "b *space c"], seeds: Seeds) -> list[Array]:
        """f channels at 1/2, then 2f, 4f, 8f and 16f, each at half the size, normalized."""
        with jax.named_scope("patch_embed"):
            x = self.drop(self.patch_embed(space_to_channels(x, 2)), seeds)
        states = [x]
        for i, stage in enumerate(self.stages):
            with jax.named_scope(f"stages.{i}"):
                states.append(stage(states[-1], seeds))
        return [_normalized(state) for state in states] if self.normalize else states


def _normalized(x: Float[Array, "b *grid c"]) -> Float[Array, "b *grid c"]:
    """LayerNorm over channels without scale and bias."""
    z = x.astype(jnp.float32)
    centred = z - z.mean(-1, keepdims=True)
    var = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(var + np.float32(1e-5))).astype(x.dtype)


class Up(nnx.Module):
    """R(concat [transposed convolution of x, skip]): twice the size, ``outputs`` channels."""

    def __init__(
        self, inputs: int, outputs: int, spatial_dims: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        common: dict[str, Any] = {"spatial_dims": spatial_dims, "dtype": dtype, "rngs": rngs}
        self.transp_conv = upsample(inputs, outputs, use_bias=False, **common)
        self.conv_block = ResidualConv(2 * outputs, outputs, **common)

    def __call__(
        self, x: Float[Array, "b *half c"], skip: Float[Array, "b *space d"]
    ) -> Float[Array, "b *space d"]:
        both = jnp.concatenate([self.transp_conv(x), skip], -1)
        # Two convolutions read it, and XLA would compute it for each, and the sum of their
        # gradients in every pass over it.
        return self.conv_block(materialize(both))


class SwinUNETR(nnx.Module):
    """Swin transformer stages as encoder, residual convolutions as skips and decoder.

    States h0 .. h4 of the transformer (f channels at 1/2 of the size .. 16f at 1/32), R residual
    convolutions, U(x, skip) = R([transposed conv of x, skip]):

        b = R(h4), u5 = U(b, h3), u4 = U(u5, R(h2)), u3 = U(u4, R(h1)), u2 = U(u3, R(h0)),
        u1 = U(u2, R(image)), logits = conv1(u1)

    Instance norm throughout the convolutions, so that a batch of one trains as well.

    Parameters with 3 inputs and 1 output in 2D: MONAI's default (f = 24) has 6,302,875; scale
    "500k" 519,039 (f = 6), "4m" 3,611,517 (f = 16), "15m" 14,352,157 (f = 32).

    Args:
        in_channels, num_classes: of the images and of the float32 logits.
        image_size: height and width, or the size along each axis; only checked to be a multiple
            of 32. Other sizes can be passed later. One side at least must be 64, or the deepest
            instance norm has one value.
        spatial_dims: 2 for images, 3 for volumes (b, depth, h, w, c).
        feature_size: f.
        depths: blocks of the four stages.
        num_heads: of the four stages; each must divide its stage's channels, f * 2**i. None for
            3, 6, 12, 24, halved or thirded (2 .. or 1 ..) where 3 does not divide f.
        window_size: tokens along each axis, cut where the grid is smaller.
        mlp_ratio: hidden channels of the blocks over channels.
        qkv_bias: whether q, k and v have a bias.
        dropout: rate behind projections and in MLPs.
        attention_dropout: rate of the attention weights.
        drop_path: rate of stochastic depth in the last block, growing from 0 in the first.
        normalize: whether the states are normalized before they leave the transformer.
        use_v2: residual convolutions before each stage ("Swin UNETR v2").
        patch_merging: "merging" or "mergingv2", MONAI's two orders of neighbours.
        dtype: of the computation, float32 if None. Parameters are float32.
        rngs: ``params`` stream.

    Source: Hatamizadeh et al., arXiv 2201.01266; v2: He et al., MICCAI 2023.

    Raises:
        ValueError: for sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> model = nnx.eval_shape(lambda: SwinUNETR(spatial_dims=3, rngs=nnx.Rngs(0)))
        >>> nnx.eval_shape(lambda m: m(jnp.ones((1, 32, 32, 64, 3))), model).shape
        (1, 32, 32, 64, 1)
    """

    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"feature_size": 6, "depths": (2, 2, 2, 6), "num_heads": (1, 2, 4, 8)},
        "4m": {"feature_size": 16, "depths": (2, 2, 2, 6), "num_heads": (2, 4, 8, 16)},
        "15m": {"feature_size": 32, "depths": (2, 2, 2, 6), "num_heads": (2, 4, 8, 16)},
    }
    default_scale: ClassVar[str | None] = None
    sized_by: ClassVar[str] = "feature_size"

    #: Layers that stay in high precision: what sees the image, and the logits.
    high_precision: ClassVar[tuple[str, ...]] = (
        r"swin\.patch_embed$",
        r"encoder1\.conv[13]$",
        r"out$",
    )

    torch_names: ClassVar[tuple[tuple[str, str], ...]] = (
        *((rf"^swin\.stages\.{i}\.conv\.", f"swinViT.layers{i + 1}c.0.layer.") for i in range(4)),
        *((rf"^swin\.stages\.{i}\.", f"swinViT.layers{i + 1}.0.") for i in range(4)),
        (r"^swin\.patch_embed\.", "swinViT.patch_embed.proj."),
        (r"\.mlp\.fc(\d)\.", r".mlp.linear\1."),
        (r"^(encoder\d+)\.", r"\1.layer."),
        (r"\.(conv[123]|transp_conv)\.", r".\1.conv."),
        (r"^out\.", "out.conv.conv."),
    )

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, ...] = 256,
        spatial_dims: int = 2,
        feature_size: int = 24,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] | None = None,
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float | int = 4,
        qkv_bias: bool = True,
        dropout: float | int = 0.0,
        attention_dropout: float | int = 0.0,
        drop_path: float | int = 0.0,
        normalize: bool = True,
        use_v2: bool = False,
        patch_merging: Merging = "merging",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        checked_size(image_size, MULTIPLE)
        self.spatial_dims = checked_dims(spatial_dims)
        self.in_channels = in_channels
        self.dtype = jnp.dtype(dtype or jnp.float32)
        f, common = feature_size, {"dtype": self.dtype, "rngs": rngs}
        self.swin = SwinTransformer(
            in_channels,
            f,
            _four("depths", depths),
            _heads(f, num_heads),
            _window(window_size, spatial_dims),
            drop_path,
            normalize,
            dropout,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            attention_dropout=attention_dropout,
            use_v2=use_v2,
            patch_merging=_merging(patch_merging),
            **common,
        )
        block: dict[str, Any] = {"spatial_dims": spatial_dims, **common}
        self.encoder1 = ResidualConv(in_channels, f, **block)
        self.encoder2 = ResidualConv(f, f, **block)
        self.encoder3 = ResidualConv(2 * f, 2 * f, **block)
        self.encoder4 = ResidualConv(4 * f, 4 * f, **block)
        self.encoder10 = ResidualConv(16 * f, 16 * f, **block)
        self.decoder5 = Up(16 * f, 8 * f, **block)
        self.decoder4 = Up(8 * f, 4 * f, **block)
        self.decoder3 = Up(4 * f, 2 * f, **block)
        self.decoder2 = Up(2 * f, f, **block)
        self.decoder1 = Up(f, f, **block)
        self.out = pointwise(f, num_classes, **block)

    def __call__(
        self, x: Shaped[Array, "..."], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b *space k"]:
        """Logits in float32; ``rngs`` with a ``dropout`` stream if a rate is above 0."""
        checked_images(x, self.in_channels, multiple=MULTIPLE, spatial_dims=self.spatial_dims)
        x = x.astype(self.dtype)
        with jax.named_scope("swin"):
            h0, h1, h2, h3, h4 = self.swin(x, Seeds(rngs))
        y = self.encoder10(h4)
        y = self.decoder5(y, h3)
        y = self.decoder4(y, self.encoder4(h2))
        y = self.decoder3(y, self.encoder3(h1))
        y = self.decoder2(y, self.encoder2(h0))
        y = self.decoder1(y, self.encoder1(x))
        return self.out(y).astype(jnp.float32)


def _four(name: str, values: Any) -> tuple[int, ...]:
    if len(values) != 4 or any(n < 1 for n in values):
        raise ValueError(f"{name} is {values}; give four numbers of at least 1, one for a stage.")
    return tuple(values)


def _heads(feature_size: int, heads: Any) -> tuple[int, ...]:
    """One for each stage, dividing its channels."""
    if feature_size < 1:
        raise ValueError(f"feature_size is {feature_size}; give at least 1.")
    if heads is None:
        first = next(n for n in (3, 2, 1) if feature_size % n == 0)
        heads = tuple(first * 2**i for i in range(4))
    for i, n in enumerate(_four("num_heads", heads)):
        if feature_size * 2**i % n:
            raise ValueError(
                f"num_heads is {tuple(heads)}: {n} heads do not divide the {feature_size * 2**i} "
                f"channels of stage {i}; change num_heads or feature_size."
            )
    return tuple(heads)


def _window(size: Any, spatial_dims: int) -> tuple[int, ...]:
    window = (size,) * spatial_dims if isinstance(size, int) else tuple(size)
    if len(window) != spatial_dims or any(w < 1 for w in window):
        raise ValueError(
            f"window_size is {size}; give a number of at least 1, or one for each of the "
            f"{spatial_dims} dimensions."
        )
    return window


def _merging(name: str) -> str:
    if name not in (allowed := get_args(Merging)):
        raise ValueError(f"patch_merging is {name!r}; allowed: {', '.join(map(repr, allowed))}.")
    return name
