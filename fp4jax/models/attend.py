"""softmax(q k^T + bias + mask) v within windows, without keeping the products of all of them.

The gradient computes the softmax again from q and k, and on CPU both directions go through the
windows block by block, so that a block's n x n products stay in the cache: volumes of 64 x 64 x 64
have 44 million of them in one layer. Three to five times faster there than autodiff of all at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.typing import Array, Float, Integer
from fp4jax.window import on_cpu

# Products in one block, float32: a few megabytes.
_BLOCK = 400_000


def attend(
    q: Float[Array, "b windows h d n"],
    k: Float[Array, "b windows h d n"],
    v: Float[Array, "b windows h d n"],
    bias: Float[Array, "h n n"],
    regions: Integer[np.ndarray, "windows n"] | None,
) -> Float[Array, "b windows h d n"]:
    """y[i] = sum_j p[i, j] v[j], p = softmax over j of q[i] . k[j] + bias[i, j] + mask[i, j].

    Args:
        q, k, v: of each window and head, tokens last; q is scaled already.
        bias: the same for all windows, float32.
        regions: mask is 0 between tokens of a window with the same number and -100 between
            others; None for no mask.

    Returns:
        y in v's dtype; softmax in float32. No gradient flows to ``regions``.

    Example:
        >>> x = jnp.ones((1, 2, 1, 4, 3))
        >>> y = attend(x, x, 2 * x, jnp.zeros((1, 3, 3)), None)
        >>> y.shape, float(y[0, 0, 0, 0, 0])
        ((1, 2, 1, 4, 3), 2.0)
    """
    b, windows, h, _, n = q.shape
    block = _windows_per_block(b, windows, h * n * n)

    def blocks(x: Array) -> Array:
        """(blocks, windows of a block, ...)"""
        return x.reshape(b * windows // block, block, *x.shape[2:])

    labels = None
    if regions is not None:
        labels = blocks(jnp.broadcast_to(jnp.asarray(regions), (b, windows, n)))
    y = _attend(blocks(q), blocks(k), blocks(v), bias, labels)
    return y.reshape(v.shape)


def _windows_per_block(b: int, windows: int, products: int) -> int:
    """All of them, or on CPU a divisor of the windows of an image."""
    if not on_cpu() or b * windows * products <= 4 * _BLOCK:
        return b * windows
    most = max(1, _BLOCK // products)
    return max(d for d in range(1, windows + 1) if windows % d == 0 and d <= most)


# Contractions of (window, head, d or query, token): over d, over the last axes, over queries.
_BATCH = ((0, 1), (0, 1))
_OVER_CHANNELS = (((2,), (2,)), _BATCH)
_OVER_LAST = (((3,), (3,)), _BATCH)
_OVER_QUERIES = (((3,), (2,)), _BATCH)
_dot = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _attend(q, k, v, bias, labels):
    return _forward(q, k, v, bias, labels)[0]


def _forward(q, k, v, bias, labels):
    def block(operands):
        q, k, v, labels = operands
        e = _exponentials(q, k, bias, labels)
        with jax.named_scope("pv"):
            y = _dot(v, e.astype(v.dtype), _OVER_LAST)
        return (y / e.sum(-1)[:, :, None]).astype(v.dtype)

    y = _map(block, (q, k, v, labels))
    return y, (q, k, v, bias, labels, y)


def _backward(saved, g):
    q, k, v, bias, labels, y = saved
    # sum_j p[i, j] dp[i, j], without the products
    along = (g.astype(jnp.float32) * y.astype(jnp.float32)).sum(3)

    def block(d_bias, operands):
        q, k, v, g, along, labels = operands
        e = _exponentials(q, k, bias, labels)
        norm = np.float32(1) / e.sum(-1)
        # p = e * norm; the norm goes to the smaller factors.
        g = (g.astype(jnp.float32) * norm[:, :, None]).astype(g.dtype)
        d_v = _dot(g, e.astype(g.dtype), _OVER_QUERIES)
        d_logits = e * (_dot(g, v, _OVER_CHANNELS) - (along * norm)[..., None])
        narrow = d_logits.astype(q.dtype)
        d_q, d_k = _dot(k, narrow, _OVER_LAST), _dot(q, narrow, _OVER_QUERIES)
        return d_bias + d_logits.sum(0), tuple(d.astype(v.dtype) for d in (d_q, d_k, d_v))

    operands = (q, k, v, g, along, labels)
    if q.shape[0] == 1:
        d_bias, d_qkv = block(jnp.zeros_like(bias), jax.tree.map(lambda x: x[0], operands))
        d_qkv = jax.tree.map(lambda x: x[None], d_qkv)
    else:
        d_bias, d_qkv = lax.scan(block, jnp.zeros_like(bias), operands)
    return *d_qkv, d_bias, None


_attend.defvjp(_forward, _backward)


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


def _map(function, operands):
    """``lax.map``, without a loop for one block."""
    if operands[0].shape[0] > 1:
        return lax.map(function, operands)
    return function(jax.tree.map(lambda x: x[0], operands))[None]
