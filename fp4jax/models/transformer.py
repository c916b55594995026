"""What ViT and Swin share: patch embedding, attention, pre-norm blocks, upsampling decoder."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.exact import materialize
from fp4jax.core.typing import Array, DTypeLike, Float
from fp4jax.models.dropout import Dropout, DropPath, Seeds
from fp4jax.models.initializers import normal, torch_default
from fp4jax.models.layers import Downsample, Upsample, gelu, layer_norm, space_to_channels
from fp4jax.models.norms import GELU, GroupNorm

#: Standard deviation of tables, tokens and (with ``init="normal"``) linear weights.
STD = 0.02


def linear(inputs: int, outputs: int, init: str, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A Linear with torch's default init, or ``"normal"``: weights N(0, 0.02**2), zero bias."""
    inits: dict[str, Any] = (
        {"kernel_init": normal(STD)} if init == "normal" else torch_default(inputs)
    )
    return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs, **inits)


class PatchEmbed(nnx.Module):
    """(b, h, w, c) -> (b, h w / p**2, d): one token per p x p patch, row by row, then LayerNorm."""

    def __init__(self, in_channels: int, dim: int, patch: int, dtype: DTypeLike, rngs: nnx.Rngs):
        inits = torch_default(in_channels * patch**2)
        self.proj = Downsample(in_channels, dim, patch=patch, dtype=dtype, rngs=rngs, **inits)
        self.norm = layer_norm(dim, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        x = self.proj(space_to_channels(x, self.proj.patch))
        return self.norm(x.reshape(x.shape[0], -1, x.shape[-1]))


class Attention(nnx.Module):
    """Multi-head self-attention within each set of n tokens.

    softmax(q k^T / sqrt(d_h) + bias) v per head, then a projection; softmax in float32.
    The fused projection's outputs are q, k, v in turn, each heads x d_h.
    """

    #: A slot: None, or what computes softmax(...) v of q, k and v (*sets, n, heads, d_h), given
    #: bias and factors of dropout (*sets, heads, n, n) by name.
    attention_fn: Any = None

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float | int,
        init: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if dim % heads:
            raise ValueError(f"heads is {heads}; it must divide the embedding's {dim} channels.")
        self.heads = heads
        self.qkv = linear(dim, 3 * dim, init, dtype, rngs)
        self.proj = linear(dim, dim, init, dtype, rngs)
        self.drop = Dropout(dropout)

    def __call__(
        self,
        x: Float[Array, "*sets n d"],
        seeds: Seeds,
        bias: Float[Array, "*some heads n n"] | None = None,
    ) -> Float[Array, "*sets n d"]:
        *sets, n, dim = x.shape
        head_dim = dim // self.heads
        qkv = self.qkv(x).reshape(*sets, n, 3, self.heads, head_dim)
        q, k, v = (jax.lax.index_in_dim(qkv, i, qkv.ndim - 3, keepdims=False) for i in range(3))
        if self.attention_fn is not None:
            factors = self.drop.factors((*sets, self.heads, n, n), seeds)
            y = self.attention_fn(q, k, v, bias=bias, dropout=factors)  # pyright: ignore
            return self.drop(self.proj(y.reshape(*sets, n, dim)), seeds)
        with jax.named_scope("qk"):
            logits = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
        logits = logits * np.float32(head_dim**-0.5)
        if bias is not None:
            logits = logits + bias
        p = self.drop(jax.nn.softmax(logits).astype(v.dtype), seeds)
        with jax.named_scope("pv"):
            y = jnp.einsum("...hqk,...khd->...qhd", p, v)
        return self.drop(self.proj(y.reshape(*sets, n, dim)), seeds)


class MLP(nnx.Module):
    """Linear, exact GELU, dropout, Linear, dropout."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        dropout: float | int,
        init: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.fc1 = linear(dim, hidden, init, dtype, rngs)
        self.fc2 = linear(hidden, dim, init, dtype, rngs)
        self.drop = Dropout(dropout)

    def __call__(self, x: Float[Array, "*b d"], seeds: Seeds) -> Float[Array, "*b d"]:
        return self.drop(self.fc2(self.drop(gelu(self.fc1(x)), seeds)), seeds)


class Block(nnx.Module):
    """Pre-norm block: x += DropPath(attn(LN x)); x += DropPath(mlp(LN x))."""

    def __init__(
        self,
        attn: nnx.Module,
        dim: int,
        hidden: int,
        dropout: float | int,
        drop_path: float | int,
        init: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = layer_norm(dim, rngs)
        self.attn = attn
        self.norm2 = layer_norm(dim, rngs)
        self.mlp = MLP(dim, hidden, dropout, init, dtype, rngs)
        self.drop_path = DropPath(drop_path)
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b *n d"], seeds: Seeds) -> Float[Array, "b *n d"]:
        with jax.named_scope("attn"):
            y = self.drop_path(self.attn(self.norm1(x).astype(self.dtype), seeds), seeds)
            x = materialize(x + y)
        with jax.named_scope("mlp"):
            return materialize(x + self.drop_path(self.mlp(self.norm2(x), seeds), seeds))


class Decoder(nnx.Module):
    """Tokens as an image, upsampled to pixels: log2(p) steps, then a 1 x 1 convolution.

    Step: transposed conv (kernel 2, stride 2) -> GroupNorm -> exact GELU. Step k has
    max(8, floor(d / 2**k)) channels, in as many groups, at most 8, as divide them.
    """

    def __init__(
        self,
        dim: int,
        patch: int,
        num_classes: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        prior: float | None = None,
    ):
        if prior is not None and not 0 < prior < 1:
            raise ValueError(f"prior is {prior}; it must lie between 0 and 1.")
        self.decoder_blocks = nnx.List([])
        inputs = dim
        for k in range(1, int(math.log2(patch)) + 1):
            outputs = max(8, dim // 2**k)
            groups = max(g for g in range(1, 9) if outputs % g == 0)
            inits = torch_default(outputs * 4)
            up = Upsample(inputs, outputs, patch=2, dtype=dtype, rngs=rngs, **inits)
            self.decoder_blocks.append(nnx.List([up, GroupNorm(outputs, groups, rngs=rngs)]))
            inputs = outputs
        inits = torch_default(inputs)
        if prior is not None:
            inits["bias_init"] = nnx.initializers.constant(math.log(prior / (1 - prior)))
        self.classifier = Downsample(inputs, num_classes, patch=1, dtype=dtype, rngs=rngs, **inits)

    def __call__(self, x: Float[Array, "b i j d"]) -> Float[Array, "b h w k"]:
        for k, (up, norm) in enumerate(self.decoder_blocks):
            with jax.named_scope(f"decoder_blocks.{k}"):
                x = norm(up(x), GELU)
        with jax.named_scope("classifier"):
            return self.classifier(x).astype(jnp.float32)


def drop_path_rates(rate: float | int, depth: int) -> list[float]:
    """Rates of the blocks: from 0 to ``rate`` in equal steps."""
    return np.linspace(0, rate, depth).tolist()


def grid_size(image_size: int, patch: int) -> int:
    """Tokens per side; ValueError if the patches do not tile the image."""
    if patch < 2 or patch & (patch - 1):
        raise ValueError(f"patch is {patch}; the decoder needs a power of two, at least 2.")
    if image_size <= 0 or image_size % patch:
        raise ValueError(
            f"image_size is {image_size}; it must be a multiple of the patch, {patch}. "
            "Pad or resize the images."
        )
    return image_size // patch
