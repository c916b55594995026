"""Quantized attention with the arguments of Flax's ``dot_product_attention``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array
from fp4jax.ops.attention import attention


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Array | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: Any = None,
    is_causal: bool = False,
    dropout: Array | None = None,
    *,
    options: dict[str, Any],
) -> Array:
    """:func:`fp4jax.attention` for the ``attention_fn`` of Flax's layers, NNX and Linen.

    Args:
        query, key, value, bias, mask, is_causal, precision, dropout: as for
            :func:`fp4jax.attention`; a mask of numbers is True where they are not 0.
        broadcast_dropout, dropout_rng, dropout_rate, deterministic: as Flax has them; the factors
            of dropout are drawn with the same bits.
        dtype: of the computation; default: what the operands promote to.
        module: Flax's, to keep the weights in: None, since they are not returned.
        options: recipe, key and the rest of :func:`fp4jax.attention`.

    Raises:
        ValueError: for ``sow_weights=True``, and what :func:`fp4jax.attention` raises.
    """
    if module is not None:
        raise ValueError(
            "quantized attention does not return its weights: call the layer without "
            "sow_weights=True, or after fp4jax.nnx.remove_recipe."
        )
    common = dtype or jnp.result_type(query, key, value)
    query, key, value = (x.astype(common) for x in (query, key, value))
    if not deterministic and dropout_rate > 0:
        m, t = query.shape[-3], key.shape[-3]
        heads = query.shape[-2]
        alike = (1,) * (query.ndim - 2) if broadcast_dropout else (*query.shape[:-3], heads)
        if dropout_rng is None:
            raise ValueError("dropout_rate is set but dropout_rng is None; pass a jax.random key.")
        keep = jax.random.bernoulli(dropout_rng, 1 - dropout_rate, (*alike, m, t))
        dropout = keep.astype(jnp.float32) / np.float32(1 - dropout_rate)
    return attention(
        query,
        key,
        value,
        bias,
        mask,
        is_causal=is_causal,
        dropout=dropout,
        precision=precision,
        **options,
    )
