"""The attention that a recipe's q, k and v projections lead to: entropy and distinct levels.

A recipe of layers leaves the softmax and the products inside attention alone; what it can do is
make the tokens' queries and keys coincide, so that a row of the softmax takes few values
("discretized"). Where the products are quantized too, see
:mod:`fp4jax.analysis.diagnosis.probabilities`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.models.transformer import Attention

# Logits closer than this share of the spread of the row in high precision are one level.
RESOLUTION = 2.0**-14
# What is added between tokens that must not attend to each other lies far below this.
MASKED = -50.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionSums:
    """Sums over the rows (queries and heads) of attention matrices; ``+`` merges two."""

    rows: Any
    # of H(p) / log n
    entropy: Any
    # of the number of levels, and of that divided by n
    levels: Any
    level_share: Any
    # of the total variation between p and p in high precision
    shift: Any

    def __add__(self, other: "AttentionSums") -> "AttentionSums":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def quantities(self) -> dict[str, float]:
        """Means over rows."""
        names = ("entropy", "levels", "level_share", "shift")
        return {name: float(getattr(self, name)) / float(self.rows) for name in names}


def logits(
    qkv: Float[Array, "*sets n e"], heads: int, bias: Array | None = None
) -> Float[Array, "*sets h n m"]:
    """What the softmax takes: q k^T / sqrt(d_h) + bias, from the result of the qkv projection."""
    *sets, n, _ = qkv.shape
    parts = qkv.reshape(*sets, n, 3, heads, -1)
    q, k = (jax.lax.index_in_dim(parts, i, parts.ndim - 3, keepdims=False) for i in range(2))
    z = jnp.einsum("...qhd,...khd->...hqk", q, k, preferred_element_type=jnp.float32)
    z = z * np.float32(parts.shape[-1] ** -0.5)
    return z if bias is None else z + bias


@functools.partial(jax.jit, static_argnames="heads")
def from_projections(
    exact: Float[Array, "*sets n e"],
    quantized: Float[Array, "*sets n e"],
    *,
    heads: int,
    bias: Array | None,
) -> AttentionSums:
    """:func:`attention_sums` of two results of the qkv projection, masked as in the layer."""
    z, z_quantized = (logits(qkv, heads, bias) for qkv in (exact, quantized))
    free = None if bias is None else jnp.broadcast_to(bias > MASKED, z.shape)
    return attention_sums(z, z_quantized, free)


def attention_sums(
    exact: Float[Array, "*rows n"],
    quantized: Float[Array, "*rows n"],
    free: Shaped[Array, "*rows n"] | None = None,
) -> AttentionSums:
    """The sums of ``quantized`` logits, beside the ``exact`` ones of high precision.

    Per row, with n the number of tokens that the query may attend to (``free``): the entropy
    -sum p log p in units of log n; the number of distinct logits, at a resolution of 2**-14 of the
    spread of the exact row; and the total variation sum |p - p_exact| / 2.

    Example:
        >>> exact = jnp.array([[0.0, 1.0, 2.0, 3.0]])
        >>> attention_sums(exact, jnp.array([[0.0, 0.0, 3.0, 3.0]])).quantities()["levels"]
        2.0
    """
    if free is None:
        free = jnp.ones(exact.shape, bool)
    n = jnp.sum(free, -1, dtype=jnp.float32)
    p, p_exact = (jax.nn.softmax(z.astype(jnp.float32), where=free) for z in (quantized, exact))
    terms = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, np.float32(1))), np.float32(0))
    # A query with one token to attend to is as uniform as it can be.
    entropy = jnp.where(n > 1, -jnp.sum(terms, -1) / jnp.log(jnp.maximum(n, 2)), np.float32(1))
    top = jnp.max(exact, -1, where=free, initial=-np.inf)
    spread = top - jnp.min(exact, -1, where=free, initial=np.inf)
    # Tokens that are not free take the place of one that is: no further level.
    peak = jnp.max(quantized, -1, where=free, initial=-np.inf, keepdims=True)
    ordered = jnp.sort(jnp.where(free, quantized, peak), -1)
    steps = jnp.diff(ordered, axis=-1) > (spread * np.float32(RESOLUTION))[..., None]
    levels = 1 + jnp.sum(steps, -1, dtype=jnp.float32)
    return AttentionSums(
        rows=jnp.full((), float(np.prod(n.shape)), jnp.float32),
        entropy=jnp.sum(entropy),
        levels=jnp.sum(levels),
        level_share=jnp.sum(levels / n),
        shift=jnp.sum(jnp.abs(p - p_exact)) / 2,
    )


def attentions(model: Any, recorded: Any) -> dict[str, Any]:
    """The attention layers whose qkv projection was recorded, by path."""
    found = {".".join(map(str, path)): m for path, m in nnx.iter_modules(model)}
    return {
        path: module
        for path, module in found.items()
        if isinstance(module, Attention) and f"{path}.qkv" in recorded
    }


def bias_of(layer: Any) -> Array | None:
    """What an attention layer adds to its logits, mask included; None for plain attention."""
    return layer.bias()[None] if hasattr(layer, "bias") else None
