"""The vision transformer: patch tokens, global attention, a convolutional decoder."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models import transformer
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.initializers import normal
from fp4jax.models.layers import checked_images, layer_norm


class ViT(nnx.Module):
    """Patches -> class token and position table -> pre-norm blocks -> upsampling decoder.

    The class token takes part in attention and is dropped before the decoder.

    Args:
        dim: channels of the embedding.
        depth: number of blocks.
        heads: attention heads.
        hidden: channels inside the MLPs.
        patch: pixels per side of a patch, a power of two.
        in_channels, num_classes: of the images and of the logits.
        image_size: height and width in pixels, a multiple of the patch.
        dropout: rate after the embedding, in attention and in MLPs.
        drop_path: rate of stochastic depth in the last block, growing from 0 in the first.
        matched_init: False: torch's default init of Linear layers, as in the reference. True:
            the Swin model's, N(0, 0.02**2) with zero bias, so that the two models can be compared.
        prior: expected share of positive pixels: the last layer's bias starts at
            log(prior / (1 - prior)), which saves a short run its first epochs. None: torch's
            default, as in the reference.
        dtype: of the computation, float32 if None. Parameters, norms, softmax are float32.
        rngs: ``params`` stream.

    Raises:
        ValueError: for sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> options = {"dim": 16, "depth": 1, "heads": 2, "hidden": 32, "image_size": 32}
        >>> model = nnx.eval_shape(lambda: ViT(**options, rngs=nnx.Rngs(0)))
        >>> model.eval()
        >>> nnx.eval_shape(lambda m: m(jnp.ones((1, 32, 32, 3))), model).shape
        (1, 32, 32, 1)
    """

    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"dim": 64, "depth": 10, "heads": 2, "hidden": 192},
        "4m": {"dim": 192, "depth": 9, "heads": 6, "hidden": 576},
        "15m": {"dim": 448, "depth": 8, "heads": 14, "hidden": 896},
    }

    #: Layers that stay in high precision: ``keep`` of ``apply_recipe``.
    high_precision: ClassVar[tuple[str, ...]] = (r"patch_embed\.", r"decoder\.")

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        patch: int = 16,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int = 256,
        dropout: float | int = 0.1,
        drop_path: float | int = 0.1,
        matched_init: bool = False,
        prior: float | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.grid = transformer.grid_size(image_size, patch)
        self.in_channels = in_channels
        self.image_size = image_size
        self.dtype = jnp.dtype(dtype or jnp.float32)
        init = "normal" if matched_init else "torch"
        table = normal(transformer.STD)
        self.cls_token = nnx.Param(table(rngs.params(), (1, 1, dim), jnp.float32))
        self.pos_embed = nnx.Param(table(rngs.params(), (1, self.grid**2 + 1, dim), jnp.float32))
        self.patch_embed = transformer.PatchEmbed(in_channels, dim, patch, self.dtype, rngs)
        self.drop = Dropout(dropout)
        self.blocks = nnx.List([])
        for rate in transformer.drop_path_rates(drop_path, depth):
            attn = transformer.Attention(dim, heads, dropout, init, self.dtype, rngs)
            self.blocks.append(
                transformer.Block(attn, dim, hidden, dropout, rate, init, self.dtype, rngs)
            )
        self.norm = layer_norm(dim, rngs)
        self.decoder = transformer.Decoder(dim, patch, num_classes, self.dtype, rngs, prior)

    def __call__(
        self, x: Shaped[Array, "..."], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w k"]:
        """Logits in float32; ``rngs`` with a ``dropout`` stream is needed in training mode."""
        checked_images(x, self.in_channels, (self.image_size, self.image_size))
        seeds = Seeds(rngs)
        with jax.named_scope("patch_embed"):
            x = self.patch_embed(x.astype(self.dtype))
            b, _, dim = x.shape
            cls = jnp.broadcast_to(self.cls_token[...], (b, 1, dim))
            x = jnp.concatenate([cls, x], 1) + self.pos_embed[...]
            x = self.drop(x.astype(self.dtype), seeds)
        for i, block in enumerate(self.blocks):
            with jax.named_scope(f"blocks.{i}"):
                x = block(x, seeds)
        x = self.norm(x)[:, 1:]
        with jax.named_scope("decoder"):
            return self.decoder(x.reshape(b, self.grid, self.grid, dim))
