"""The paper's models in plain PyTorch, as peers of fp4jax's: same layers, same names of parameters.

They are here to be timed, so weights start from torch's defaults. Sizes are given by the options of
fp4jax's models (``models.CNN.scales``), by default those of 500k parameters.
"""

import itertools

import torch
from torch import Tensor, nn

#: Parameters at 256 x 256, as in the paper.
PARAMETERS = {"cnn": 530_753, "vit": 494_473, "swin": 496_305}
_PATCH = 16
_DROP = 0.1


class CNN(nn.Module):
    """Strided convolutions down, as many transposed ones up, skips in between."""

    def __init__(self, image_size: int, stages: int = 4, channels: int = 64):
        super().__init__()
        c = channels
        options = {"kernel_size": 4, "stride": 2, "padding": 1}
        last = stages - 1
        self.encoders = nn.ModuleList(nn.Conv2d(c if i else 3, c, **options) for i in range(stages))
        self.encoder_norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(stages))
        self.decoders = nn.ModuleList(
            nn.ConvTranspose2d(2 * c if i else c, c if i < last else 1, **options)
            for i in range(stages)
        )
        self.decoder_norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(last))
        self.first, self.relu, self.drop = nn.LeakyReLU(0.2), nn.ReLU(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, (conv, norm) in enumerate(zip(self.encoders, self.encoder_norms, strict=True)):
            activation = self.relu if i else self.first
            x = self.drop(activation(norm(conv(x))))
            skips.append(x)
        skips.pop()
        for conv, norm in zip(self.decoders, self.decoder_norms, strict=False):
            x = self.drop(torch.cat([self.relu(norm(conv(x))), skips.pop()], 1))
        return self.decoders[-1](x)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, _PATCH, _PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Over all tokens of the second to last axis."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(_DROP)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) * (d // self.heads) ** -0.5
        if bias is not None:
            # (windows, heads, n, n): one for every window of an image
            logits = (logits.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        y = self.drop(logits.softmax(-1)) @ v
        return self.drop(self.proj(y.transpose(1, 2).reshape(b, n, d)))


class WindowAttention(Attention):
    """In w x w windows of a g x g grid, which is rolled back by ``shift`` on both axes."""

    def __init__(self, dim: int, heads: int, grid: int, window: int, shift: int):
        super().__init__(dim, heads)
        self.grid, self.window, self.shift = grid, window, shift
        self.relative_position_bias_table = nn.Parameter(
            nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02)
        )
        y, x = torch.arange(window**2) // window, torch.arange(window**2) % window
        dy, dx = y[:, None] - y, x[:, None] - x
        index = (dy + window - 1) * (2 * window - 1) + dx + window - 1
        self.register_buffer("index", index, persistent=False)
        # Tokens that the roll brings together from opposite ends of the grid do not see each other.
        end = torch.arange(grid)
        label = (end >= grid - window).long() + (end >= grid - shift).long()
        labels = self.windows((3 * label[:, None] + label)[None, ..., None])[..., 0]
        mask = -100.0 * (labels[:, :, None] != labels[:, None, :])[:, None]
        self.register_buffer("mask", mask, persistent=False)

    def windows(self, x: Tensor) -> Tensor:
        """(b, g, g, c) -> (b * windows, w * w, c)."""
        w, n = self.window, self.grid // self.window
        x = x.reshape(len(x), n, w, n, w, x.shape[-1]).transpose(2, 3)
        return x.reshape(-1, w * w, x.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        b, _, d = x.shape
        g, w, s = self.grid, self.window, self.shift
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)[None]
        x = x.reshape(b, g, g, d)
        if s:
            x = x.roll((-s, -s), (1, 2))
            bias = bias + self.mask
        else:
            bias = bias.expand((g // w) ** 2, -1, -1, -1)
        y = super().forward(self.windows(x), bias)
        y = y.reshape(b, g // w, g // w, w, w, d).transpose(2, 3).reshape(b, g, g, d)
        if s:
            y = y.roll((s, s), (1, 2))
        return y.reshape(b, g * g, d)


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gelu, self.drop = nn.GELU(), nn.Dropout(_DROP)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Attention and MLP with norms before them; a branch is left out with probability ``rate``."""

    def __init__(self, attention: Attention, hidden: int, rate: float):
        super().__init__()
        dim = attention.proj.in_features
        self.norm1, self.attn = nn.LayerNorm(dim), attention
        self.norm2, self.mlp = nn.LayerNorm(dim), MLP(dim, hidden)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def drop_path(self, x: Tensor) -> Tensor:
        if not self.rate or not self.training:
            return x
        keep = 1 - self.rate
        return x / keep * torch.floor(keep + torch.rand(len(x), 1, 1, device=x.device))


def _groups(channels: int) -> int:
    return max(groups for groups in range(1, 9) if channels % groups == 0)


class Decoder(nn.Module):
    """Four times twice the size and half the channels, at least 8."""

    def __init__(self, dim: int):
        super().__init__()
        channels = [max(8, dim >> k) for k in range(5)]
        self.decoder_blocks = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(i, o, 2, 2), nn.GroupNorm(_groups(o), o), nn.GELU())
            for i, o in itertools.pairwise(channels)
        )
        self.classifier = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.decoder_blocks:
            x = block(x)
        return self.classifier(x)


class Transformer(nn.Module):
    """Patches, positions, blocks, decoder; ``tokens`` in front of the patches are learned."""

    def __init__(self, attentions: list[Attention], image_size: int, hidden: int, tokens: int = 0):
        super().__init__()
        dim = attentions[0].proj.in_features
        self.grid, self.tokens = image_size // _PATCH, tokens
        self.patch_embed = PatchEmbed(dim)
        if tokens:
            self.cls_token = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, self.grid**2 + tokens, dim))
        self.drop = nn.Dropout(_DROP)
        rates = torch.linspace(0, 0.1, len(attentions)).tolist()
        blocks = zip(attentions, rates, strict=True)
        self.blocks = nn.ModuleList(Block(attention, hidden, rate) for attention, rate in blocks)
        self.norm = nn.LayerNorm(dim)
        self.decoder = Decoder(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        if self.tokens:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.drop(x + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, self.tokens :]
        return self.decoder(x.transpose(1, 2).unflatten(2, (self.grid, self.grid)))


def vit(
    image_size: int, dim: int = 64, depth: int = 10, heads: int = 2, hidden: int = 192
) -> Transformer:
    return Transformer([Attention(dim, heads) for _ in range(depth)], image_size, hidden, tokens=1)


def swin(
    image_size: int,
    dim: int = 64,
    depth: int = 10,
    heads: int = 4,
    hidden: int = 192,
    window: int = 4,
) -> Transformer:
    grid = image_size // _PATCH
    shifts = [window // 2 * (i % 2) for i in range(depth)]
    attentions = [WindowAttention(dim, heads, grid, window, s) for s in shifts]
    return Transformer(list(attentions), image_size, hidden)


_MODELS = {"cnn": CNN, "vit": vit, "swin": swin}


def create(arch: str, image_size: int = 256, **options: int) -> nn.Module:
    """NCHW images, normalised, to logits (n, 1, h, w)."""
    return _MODELS[arch](image_size, **options)


def check_sizes() -> None:
    """Raises RuntimeError unless every model has the paper's number of parameters."""
    for arch, expected in PARAMETERS.items():
        count = sum(p.numel() for p in create(arch).parameters())
        if count != expected:
            raise RuntimeError(f"the torch {arch} has {count} parameters, not {expected}.")
