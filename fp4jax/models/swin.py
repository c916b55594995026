"""The windowed transformer: attention in w x w windows, shifted by half a window in odd blocks.

Isotropic: one grid throughout, no patch merging.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float, Shaped
from fp4jax.models import transformer
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.initializers import normal
from fp4jax.models.layers import checked_images, layer_norm


class WindowAttention(transformer.Attention):
    """Attention within w x w windows of a g x g grid that is rolled by -s on both axes.

    logits + relative position bias + mask; the mask is -100 between tokens that the roll has
    brought together from opposite ends of the grid.

    Args:
        grid: g, tokens per side, a multiple of the window.
        window: w.
        shift: s, 0 <= s < w.
        ...: as for Attention.
    """

    def __init__(self, grid: int, window: int, shift: int, *, dim, heads, rngs, **options):
        super().__init__(dim, heads, rngs=rngs, **options)
        self.grid, self.window, self.shift = grid, window, shift
        self.relative_position_bias_table = nnx.Param(
            normal(transformer.STD)(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32)
        )

    def __call__(self, x: Float[Array, "b n d"], seeds: Seeds) -> Float[Array, "b n d"]:
        b, n, dim = x.shape
        g, w, s = self.grid, self.window, self.shift
        x = x.reshape(b, g, g, dim)
        if s:
            x = jnp.roll(x, (-s, -s), (1, 2))
        x = x.reshape(b, g // w, w, g // w, w, dim).swapaxes(2, 3).reshape(b, -1, w * w, dim)
        y = super().__call__(x, seeds, self.bias()[None])
        y = y.reshape(b, g // w, g // w, w, w, dim).swapaxes(2, 3).reshape(b, g, g, dim)
        if s:
            y = jnp.roll(y, (s, s), (1, 2))
        return y.reshape(b, n, dim)

    def bias(self) -> Float[Array, "windows heads n n"]:
        """What is added to the logits: relative position bias and, if shifted, the mask."""
        table = self.relative_position_bias_table[...]
        n = self.window**2
        # A product with a constant 0/1 matrix would be dense; a gather of rows has a cheap adjoint.
        rows = table[relative_position_index(self.window).ravel()]
        bias = rows.reshape(n, n, self.heads).transpose(2, 0, 1)[None]
        if not self.shift:
            return bias
        mask = shift_mask(self.grid, self.window, self.shift)
        return bias + jnp.asarray(mask)[:, None]


@functools.cache
def relative_position_index(window: int) -> np.ndarray:
    """(w**2, w**2) rows of the bias table: (dy + w - 1)(2 w - 1) + dx + w - 1, query minus key.

    Example:
        >>> relative_position_index(2)[0].tolist()
        [4, 3, 1, 0]
    """
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


@functools.cache
def shift_mask(grid: int, window: int, shift: int) -> np.ndarray:
    """(windows, w**2, w**2) float32: 0 between tokens of one region of the rolled grid, else -100.

    Regions are the products of [0, g - w), [g - w, g - s), [g - s, g) on both axes.

    Example:
        >>> sorted(set(shift_mask(4, 2, 1)[-1].ravel().tolist()))
        [-100.0, 0.0]
    """
    edges = (grid - window, grid - shift)
    part = np.digitize(np.arange(grid), edges)
    label = part[:, None] * 3 + part[None]
    k = grid // window
    label = label.reshape(k, window, k, window).swapaxes(1, 2).reshape(k * k, window**2)
    return np.where(label[:, :, None] == label[:, None], 0, -100).astype(np.float32)


class Swin(nnx.Module):
    """Patches -> position table -> windowed pre-norm blocks -> upsampling decoder.

    Args:
        window: tokens per side of a window; one larger than the grid is cut to the grid, otherwise
            it must divide the grid.
        shift_when_global: what odd blocks do when one window spans the grid. True, as in the
            reference: they still shift by half, and the mask confines attention to quadrants.
            False, as in the Swin paper: no shift, every block is global.
        matched_init: changes nothing here: Linear weights are N(0, 0.02**2) with zero bias in any
            case. It exists so that the same options make a ViT comparable.
        dim: channels of the embedding.
        depth: number of blocks.
        heads: attention heads.
        hidden: channels inside the MLPs.
        patch: pixels per side of a patch, a power of two.
        dropout: rate after the embedding, in attention and in MLPs.
        drop_path: rate of stochastic depth in the last block, growing from 0 in the first.
        prior: expected share of positive pixels, which the last layer's bias starts from; None:
            torch's default, as in the reference.
        in_channels, num_classes, image_size, dtype, rngs: as for :class:`fp4jax.models.vit.ViT`.

    Source: Liu et al., arXiv 2103.14030, for windows, shifts and relative position bias.

    Raises:
        ValueError: for sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> options = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "window": 2}
        >>> model = nnx.eval_shape(lambda: Swin(**options, image_size=64, rngs=nnx.Rngs(0)))
        >>> model.eval()
        >>> nnx.eval_shape(lambda m: m(jnp.ones((1, 64, 64, 3))), model).shape
        (1, 64, 64, 1)
    """

    scales: ClassVar[dict[str, dict[str, Any]]] = {
        "500k": {"dim": 64, "depth": 10, "heads": 4, "hidden": 192, "window": 4},
        "4m": {"dim": 192, "depth": 9, "heads": 6, "hidden": 576, "window": 8},
        "15m": {"dim": 448, "depth": 8, "heads": 14, "hidden": 896, "window": 16},
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
        window: int,
        patch: int = 16,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int = 256,
        dropout: float | int = 0.1,
        drop_path: float | int = 0.1,
        shift_when_global: bool = True,
        matched_init: bool = False,
        prior: float | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        del matched_init
        self.grid = transformer.grid_size(image_size, patch)
        self.in_channels = in_channels
        self.image_size = image_size
        self.dtype = jnp.dtype(dtype or jnp.float32)
        window = _fit(window, self.grid, image_size)
        shift = window // 2 if window < self.grid or shift_when_global else 0
        table = normal(transformer.STD)
        self.pos_embed = nnx.Param(table(rngs.params(), (1, self.grid**2, dim), jnp.float32))
        self.patch_embed = transformer.PatchEmbed(in_channels, dim, patch, self.dtype, rngs)
        self.drop = Dropout(dropout)
        self.blocks = nnx.List([])
        common = {"dropout": dropout, "init": "normal", "dtype": self.dtype, "rngs": rngs}
        for i, rate in enumerate(transformer.drop_path_rates(drop_path, depth)):
            attn = WindowAttention(
                self.grid, window, shift if i % 2 else 0, dim=dim, heads=heads, **common
            )
            self.blocks.append(
                transformer.Block(attn, dim=dim, hidden=hidden, drop_path=rate, **common)
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
            x = self.patch_embed(x.astype(self.dtype)) + self.pos_embed[...]
            x = self.drop(x.astype(self.dtype), seeds)
        for i, block in enumerate(self.blocks):
            with jax.named_scope(f"blocks.{i}"):
                x = block(x, seeds)
        x = self.norm(x)
        with jax.named_scope("decoder"):
            return self.decoder(x.reshape(x.shape[0], self.grid, self.grid, -1))


def _fit(window: int, grid: int, image_size: int) -> int:
    """The window cut to the grid; ValueError if it does not tile it."""
    window = min(window, grid)
    if window < 1 or grid % window:
        fitting = [w for w in range(2, grid + 1) if grid % w == 0]
        raise ValueError(
            f"window is {window}, which does not tile the {grid} x {grid} grid of image_size "
            f"{image_size}; pass window={' or '.join(map(str, fitting))}, or another image_size."
        )
    return window
