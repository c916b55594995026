"""softmax(q k^T + bias + mask) v within windows, without keeping the products of all of them.

The gradient computes the softmax again from q and k, and on CPU both directions go through the
windows block by block, so that a block's n x n products stay in the cache: volumes of 64 x 64 x 64
have 44 million of them in one layer. Three to five times faster there than autodiff of all at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.platform import by_platform
from fp4jax.core.two_modes import two_modes
from fp4jax.core.typing import Array, Float, Integer
from fp4jax.ops.convolution import cpu


def attend(
    qkv: Float[Array, "b windows 3 h d n"],
    bias: Float[Array, "h n n"],
    regions: Integer[np.ndarray, "windows n"] | None,
) -> Float[Array, "b windows h d n"]:
    """y[i] = sum_j p[i, j] v[j], p = softmax over j of q[i] . k[j] / sqrt(d) + bias[i, j] + mask.

    Args:
        qkv: q, k and v of each window and head, tokens last.
        bias: the same for all windows, float32.
        regions: the mask is 0 between tokens of a window with the same number and -100 between
            others; None for no mask.

    Returns:
        y in qkv's dtype; softmax in float32. No gradient flows to ``regions``.

    Example:
        >>> y = attend(jnp.ones((1, 2, 3, 1, 4, 5)), jnp.zeros((1, 5, 5)), None)
        >>> y.shape, float(y[0, 0, 0, 0, 0])
        ((1, 2, 1, 4, 5), 1.0)
    """
    b, windows, _, h, d, n = qkv.shape
    labels = None
    if regions is not None:
        labels = jnp.broadcast_to(jnp.asarray(regions), (b, windows, n)).reshape(-1, n)
    qkv, bias = sharding.varying_together(qkv, bias)
    block = _windows_per_block(b, windows, h * n * n)
    y: Any = _attend(block, qkv.reshape(-1, 3, h, d, n), bias, labels)
    return y.reshape(b, windows, h, d, n)


def _windows_per_block(b: int, windows: int, products: int) -> int:
    """All of them, or a divisor of the windows of an image."""
    if b * windows * products <= 4 * cpu.CROSSOVERS.attention:
        return b * windows
    most = max(1, cpu.CROSSOVERS.attention // products)
    return max(d for d in range(1, windows + 1) if windows % d == 0 and d <= most)


# Contractions of (window, head, d or query, token): over d, over the last axes, over queries.
_BATCH = ((0, 1), (0, 1))
_OVER_CHANNELS = (((2,), (2,)), _BATCH)
_OVER_LAST = (((3,), (3,)), _BATCH)
_OVER_QUERIES = (((3,), (2,)), _BATCH)
_dot = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)


def _forward(block, qkv, bias, labels):
    def windows(_, operands):
        qkv, labels = operands
        q, k, v = _parts(qkv)
        e = _exponentials(q, k, bias, labels)
        with jax.named_scope("pv"):
            y = _dot(v, e.astype(v.dtype), _OVER_LAST)
        return None, (y / e.sum(-1)[:, :, None]).astype(v.dtype)

    _, y = _scan(windows, block, None, (qkv, labels))
    return y, (qkv, bias, labels, y)


def _backward(block, saved, g):
    qkv, bias, labels, y = saved
    # sum_j p[i, j] dp[i, j], without the products
    along = (g.astype(jnp.float32) * y.astype(jnp.float32)).sum(2)

    def windows(d_bias, operands):
        qkv, g, along, labels = operands
        q, k, v = _parts(qkv)
        e = _exponentials(q, k, bias, labels)
        norm = np.float32(1) / e.sum(-1)
        # p = e * norm; the norm goes to the smaller factors.
        g = (g.astype(jnp.float32) * norm[:, :, None]).astype(g.dtype)
        d_v = _dot(g, e.astype(g.dtype), _OVER_QUERIES)
        d_logits = e * (_dot(g, v, _OVER_CHANNELS) - (along * norm)[..., None])
        narrow = d_logits.astype(q.dtype)
        d_q, d_k = _dot(k, narrow, _OVER_LAST), _dot(q, narrow, _OVER_QUERIES)
        d_qkv = jnp.stack([d_q * _scale(q), d_k, d_v], 1).astype(qkv.dtype)
        return _add_windows(d_bias, d_logits), d_qkv

    start, _ = sharding.varying_together(jnp.zeros_like(bias), qkv, g)
    d_bias, d_qkv = _scan(windows, block, start, (qkv, g, along, labels))
    return d_qkv, d_bias


def _tangent(block, saved, tangents):
    """That of the forward pass, as it is written."""
    qkv, bias, labels, _ = saved
    primals = qkv, bias
    moved = (jnp.zeros_like(a) if t is None else t for a, t in zip(primals, tangents, strict=True))
    y = lambda qkv, bias: _forward(block, qkv, bias, labels)[0]  # noqa: E731
    return jax.jvp(y, primals, tuple(moved))[1]


_attend = two_modes(_forward, _tangent, _backward)


def _exponentials(q: Array, k: Array, bias: Array, labels: Array | None) -> Array:
    """exp(logits - their largest of a query), float32: XLA:CPU's fast form of a softmax.

    It is a form without other uses of the largest, which is why nothing of it is kept.
    """
    with jax.named_scope("qk"):
        logits = _dot(q, k, _OVER_CHANNELS)
    logits = logits + bias[None]
    if labels is not None:
        same = labels[:, None, :, None] == labels[:, None, None, :]
        logits = logits + jnp.where(same, np.float32(0), np.float32(-100))
    return jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))


def _parts(qkv: Array) -> tuple[Array, Array, Array]:
    """q, scaled, k and v of a block (window, 3, head, d, token)."""
    q, k, v = (lax.index_in_dim(qkv, i, 1, keepdims=False) for i in range(3))
    return q * _scale(q).astype(q.dtype), k, v


def _add_windows(total: Array, x: Array) -> Array:
    """total + x.sum(0); XLA:CPU's sum over few windows is ten times slower than the additions."""
    if x.shape[0] > 16:
        return total + x.sum(0)
    for window in range(x.shape[0]):
        total = total + x[window]
    return total


def _scale(q: Array) -> np.float32:
    return np.float32(q.shape[2] ** -0.5)


def _scan(function, block, start, operands):
    """``function(start, operands)``; on CPU block by block, two at a time as for two cores."""
    total = jax.tree.leaves(operands)[0].shape[0]
    if total == block:
        return function(start, operands)

    def by_blocks(start, operands):
        split = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), operands)
        end, y = lax.scan(function, start, split, unroll=2)
        return end, y.reshape(total, *y.shape[2:])

    return by_platform(start, operands, cpu=by_blocks, default=function)
