"""Windows of any number of dimensions: padding, shifts, region masks, relative position bias."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Float, Integer
from fp4jax.models.attend import attend
from fp4jax.models.dropout import Dropout, Seeds
from fp4jax.models.initializers import normal, torch_default

Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How windows cover a grid of tokens: zeros behind its ends, then a roll by ``-shift``.

    Example:
        >>> Tiling.fit((16, 4), (7, 7), shifted=True)
        Tiling(grid=(16, 4), window=(7, 4), shift=(3, 0))
    """

    grid: Sizes
    window: Sizes
    shift: Sizes

    @classmethod
    def fit(cls, grid: Sizes, window: Sizes, shifted: bool) -> "Tiling":
        """Shifts by half a window; an axis that one window covers has a smaller one, unshifted."""
        axes = list(zip(grid, window, strict=True))
        shift = tuple(w // 2 if shifted and g > w else 0 for g, w in axes)
        return cls(grid, tuple(min(g, w) for g, w in axes), shift)

    @property
    def padded(self) -> Sizes:
        """Size of the grid with the zeros behind it, a multiple of the window."""
        return tuple(-(-g // w) * w for g, w in zip(self.grid, self.window, strict=True))

    @property
    def tokens(self) -> int:
        """Of one window."""
        return math.prod(self.window)

    def pad(self, x: Float[Array, "b *grid c"]) -> Float[Array, "b *padded c"]:
        """Zeros behind the far ends."""
        ends = ((0, p - g, 0) for g, p in zip(self.grid, self.padded, strict=True))
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *ends, (0, 0, 0)))

    def split(self, x: Float[Array, "b *padded c"]) -> Float[Array, "b windows tokens c"]:
        """Rolls and cuts into windows."""
        d = len(self.grid)
        if any(self.shift):
            x = jnp.roll(x, tuple(-s for s in self.shift), range(1, d + 1))
        split = x.reshape(x.shape[0], *self._interleaved, x.shape[-1])
        order = (0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
        return split.transpose(order).reshape(x.shape[0], -1, self.tokens, x.shape[-1])

    def join(self, y: Float[Array, "b windows tokens c"]) -> Float[Array, "b *grid c"]:
        """The inverse of :meth:`split`, without what :meth:`pad` added."""
        d = len(self.grid)
        counts = self._interleaved[::2]
        split = y.reshape(y.shape[0], *counts, *self.window, y.shape[-1])
        order = (0, *(a for i in range(d) for a in (1 + i, 1 + d + i)), 2 * d + 1)
        x = split.transpose(order).reshape(y.shape[0], *self.padded, y.shape[-1])
        if any(self.shift):
            x = jnp.roll(x, self.shift, range(1, d + 1))
        return lax.slice(x, (0,) * x.ndim, (x.shape[0], *self.grid, x.shape[-1]))

    def regions(self) -> Integer[Any, "windows tokens"] | None:
        """Tokens of a window attend to each other if they have the same number; None: all do.

        The roll brings tokens from opposite ends together. Regions are the products of
        [0, p - w), [p - w, p - s), [p - s, p) on the shifted axes of the padded, rolled grid.
        """
        return None if not any(self.shift) else _regions(self)

    @property
    def _interleaved(self) -> Sizes:
        """(windows, tokens) of each axis in turn."""
        sizes = zip(self.padded, self.window, strict=True)
        return tuple(n for p, w in sizes for n in (p // w, w))


@functools.cache
def _regions(tiling: Tiling) -> np.ndarray:
    label = np.zeros((1,) * len(tiling.grid), np.int32)
    for axis, (p, w, s) in enumerate(zip(tiling.padded, tiling.window, tiling.shift, strict=True)):
        part = np.digitize(np.arange(p), (p - w, p - s)) if s else np.zeros(p, int)
        shape = [1] * len(tiling.grid)
        shape[axis] = p
        label = 3 * label + part.reshape(shape)
    d = len(tiling.grid)
    split = label.reshape(tiling._interleaved)
    order = (*range(0, 2 * d, 2), *range(1, 2 * d, 2))
    return split.transpose(order).reshape(-1, tiling.tokens).astype(np.int32)


@functools.cache
def relative_position_index(window: Sizes) -> np.ndarray:
    """(n, n) rows of the bias table for the n tokens of a window, query minus key.

    Row = sum over axes of (difference + w - 1), mixed-radix with 2 w - 1 digits per axis.

    Example:
        >>> relative_position_index((2, 2))[0].tolist()
        [4, 3, 1, 0]
    """
    tokens = np.stack(np.unravel_index(np.arange(math.prod(window)), window))
    index = np.zeros((tokens.shape[1],) * 2, np.int64)
    for place, w in zip(tokens, window, strict=True):
        index = index * (2 * w - 1) + place[:, None] - place[None] + w - 1
    return index.astype(np.int32)


class Product(nnx.Linear):
    """A Linear that leaves its bias to the caller: x W; see :meth:`add_bias`."""

    def __call__(self, inputs: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        x, kernel = self.promote_dtype((inputs, self.kernel[...]), dtype=self.dtype)
        dims = (((x.ndim - 1,), (0,)), ((), ()))
        return self.dot_general(x, kernel, dims, precision=self.precision)

    def add_bias(self, y: Float[Array, "*b o"]) -> Float[Array, "*b o"]:
        """y + b, for a layer that has one."""
        if self.bias is None:
            return y
        return y + self.bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class WindowAttention(nnx.Module):
    """Multi-head attention within the windows of a grid: q, k, v, softmax, projection.

    logits = (q / sqrt(d_h)) k^T + relative position bias + mask, mask = -100 between regions.
    Tokens that pad the grid to whole windows are zeros before the projection to q, k and v, hence
    equal to its bias, and are not masked. Both projections skip them, which changes nothing.

    A window of n tokens that is smaller than the nominal one, because the grid is, takes its bias
    from the first n rows and columns of the nominal window's index, as MONAI's networks do, and
    not from an index of its own.

    Args:
        dim, heads: channels, and parts that attend on their own.
        window: nominal tokens along each axis.
        shifted: whether windows are shifted by half.
        qkv_bias: whether q, k and v have one.
        dropout, attention_dropout: rates behind the projection and of the attention weights.
        dtype, rngs: as for ``nnx.Linear``.

    Raises:
        ValueError: if heads do not divide the channels.
    """

    #: A slot: None, or what computes softmax(...) v of q, k and v (b, windows, n, heads, d_h),
    #: given bias and factors of dropout, broadcast against (b, windows, heads, n, n), by name.
    attention_fn: Any = None

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        window: Sizes,
        shifted: bool,
        qkv_bias: bool = True,
        dropout: float | int = 0.0,
        attention_dropout: float | int = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if dim % heads:
            raise ValueError(f"heads is {heads}; it must divide the {dim} channels.")
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs, **torch_default(dim)}
        self.heads, self.window, self.shifted = heads, window, shifted
        self.qkv = Product(dim, 3 * dim, use_bias=qkv_bias, **options)
        self.proj = nnx.Linear(dim, dim, **options)
        self.drop, self.attention_drop = Dropout(dropout), Dropout(attention_dropout)
        rows = math.prod(2 * w - 1 for w in window)
        table = normal(0.02)(rngs.params(), (rows, heads), jnp.float32)
        self.relative_position_bias_table = nnx.Param(table)

    def __call__(self, x: Float[Array, "b *grid c"], seeds: Seeds) -> Float[Array, "b *grid c"]:
        tiling = Tiling.fit(x.shape[1:-1], self.window, self.shifted)
        b, c = x.shape[0], x.shape[-1]
        qkv = self.qkv.add_bias(tiling.split(tiling.pad(self.qkv(x))))
        qkv = qkv.reshape(*qkv.shape[:-1], 3, self.heads, c // self.heads)
        if self.attention_fn is not None:
            y = self._by_slot(qkv, tiling, seeds).reshape(b, -1, tiling.tokens, c)
            return self.drop(self.proj(tiling.join(y)), seeds)
        # (b, windows, q k v, heads, d_h, tokens)
        qkv = qkv.transpose(0, 1, 3, 4, 5, 2)
        bias, regions = self._bias(tiling.tokens), tiling.regions()
        if self.attention_drop.rate and not self.attention_drop.deterministic:
            y = self._attend_and_drop(qkv, bias, regions, seeds)
        else:
            y = attend(qkv, bias, regions)
        y = y.transpose(0, 1, 4, 2, 3).reshape(b, -1, tiling.tokens, c)
        return self.drop(self.proj(tiling.join(y)), seeds)

    def _by_slot(
        self, qkv: Float[Array, "b windows n 3 h d"], tiling: Tiling, seeds: Seeds
    ) -> Float[Array, "b windows n h d"]:
        """What the function in the slot makes of q, k, v, bias, mask and dropout."""
        q, k, v = (lax.index_in_dim(qkv, i, 3, keepdims=False) for i in range(3))
        bias, regions = self._bias(tiling.tokens)[None, None], tiling.regions()
        if regions is not None:
            same = regions[:, None, :, None] == regions[:, None, None, :]
            bias = bias + jnp.where(same, np.float32(0), np.float32(-100))[None]
        shape = (*qkv.shape[:2], self.heads, tiling.tokens, tiling.tokens)
        factors = self.attention_drop.factors(shape, seeds)
        function: Any = self.attention_fn
        return function(q, k, v, bias=bias, dropout=factors)

    def _attend_and_drop(self, qkv, bias, regions, seeds: Seeds) -> Array:
        """:func:`attend` with dropout of the attention weights."""
        q, k, v = (lax.index_in_dim(qkv, i, 2, keepdims=False) for i in range(3))
        q = q * jnp.asarray(q.shape[-2] ** -0.5, q.dtype)
        with jax.named_scope("qk"):
            logits = jnp.einsum("...dq,...dk->...qk", q, k, preferred_element_type=jnp.float32)
        logits = logits + bias[None, None]
        if regions is not None:
            same = regions[:, None, :, None] == regions[:, None, None, :]
            logits = logits + jnp.where(same, np.float32(0), np.float32(-100))[None]
        p = self.attention_drop(jax.nn.softmax(logits).astype(v.dtype), seeds)
        with jax.named_scope("pv"):
            return jnp.einsum("...dk,...qk->...dq", v, p)

    def _bias(self, tokens: int) -> Float[Array, "heads n n"]:
        index = relative_position_index(self.window)[:tokens, :tokens]
        # A gather of rows has a cheap adjoint; a product with a constant 0/1 matrix would be dense.
        rows = self.relative_position_bias_table[...][index.ravel()]
        return rows.reshape(tokens, tokens, self.heads).transpose(2, 0, 1)
