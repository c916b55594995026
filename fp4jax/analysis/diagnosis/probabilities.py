"""P as the quantized product P v takes it: does a row of the softmax collapse to few values?

FP4 has eight magnitudes: a block of 16 probabilities takes at most eight values, and all below a
quarter of the smallest step are zero. A query with many keys of nearly equal weight loses their
order, one with a single strong key in a block the weak ones beside it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.analysis.diagnosis.attention import MASKED, AttentionSums, attention_sums
from fp4jax.core.quantizer import fake_quantize
from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.einsum import einsum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProbabilitySums:
    """Sums over the rows (queries and heads) of P; ``+`` merges two."""

    rows: Any
    # of H(p) / log n, with a row divided by its sum
    entropy: Any
    # of the number of distinct values, and of that divided by n
    levels: Any
    level_share: Any
    # of the share of keys whose weight is zero
    zeros: Any
    # of the sum of a row
    mass: Any
    # of the total variation between P and P in high precision
    shift: Any

    def __add__(self, other: "ProbabilitySums") -> "ProbabilitySums":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def quantities(self) -> dict[str, float]:
        """Means over rows."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "rows"]
        return {name: float(getattr(self, name)) / float(self.rows) for name in names}


def probability_sums(
    exact: Float[Array, "*rows n"],
    quantized: Float[Array, "*rows n"],
    free: Shaped[Array, "*rows n"],
) -> ProbabilitySums:
    """The sums of ``quantized`` P beside the ``exact`` one; ``free`` keys are not masked.

    Example:
        >>> exact = jnp.array([[0.1, 0.2, 0.3, 0.4]])
        >>> found = probability_sums(exact, jnp.array([[0.0, 0.2, 0.4, 0.4]]), exact > 0)
        >>> found.quantities()["levels"], found.quantities()["zeros"]
        (3.0, 0.25)
    """
    p = jnp.where(free, quantized, np.float32(0))
    n = jnp.sum(free, -1, dtype=jnp.float32)
    mass = jnp.sum(p, -1)
    whole = p / jnp.where(mass > 0, mass, np.float32(1))[..., None]
    terms = jnp.where(whole > 0, whole * jnp.log(jnp.where(whole > 0, whole, np.float32(1))), 0)
    entropy = jnp.where(n > 1, -jnp.sum(terms, -1) / jnp.log(jnp.maximum(n, 2)), np.float32(1))
    # Masked keys take the place of one that is not: no further value.
    ordered = jnp.sort(jnp.where(free, p, jnp.max(p, -1, keepdims=True)), -1)
    levels = 1 + jnp.sum(jnp.diff(ordered, axis=-1) > 0, -1, dtype=jnp.float32)
    zeros = jnp.sum(free & (p == 0), -1, dtype=jnp.float32) / n
    return ProbabilitySums(
        rows=jnp.full((), float(np.prod(n.shape)), jnp.float32),
        entropy=jnp.sum(entropy),
        levels=jnp.sum(levels),
        level_share=jnp.sum(levels / n),
        zeros=jnp.sum(zeros),
        mass=jnp.sum(mass),
        shift=jnp.sum(jnp.abs(p - exact)) / 2,
    )


@functools.partial(jax.jit, static_argnames=("heads", "recipe"))
def quantized_attention(
    qkv: Float[Array, "*sets n e"],
    key: Any,
    *,
    heads: int,
    bias: Array | None,
    recipe: AttentionRecipe,
) -> dict[str, AttentionSums | ProbabilitySums]:
    """The sums of logits ("attention") and of P ("probabilities") under an attention recipe.

    Args:
        qkv: result of the projection, as :func:`fp4jax.analysis.diagnosis.attention.logits` has it.
        key: of rounding.
        heads, bias: of the layer; the mask is in the bias.
        recipe: of both products.
    """
    *sets, n, _ = qkv.shape
    parts = qkv.reshape(*sets, n, 3, heads, -1)
    q, k = (jax.lax.index_in_dim(parts, i, parts.ndim - 3, keepdims=False) for i in range(2))

    def logits(recipe: Any) -> Array:
        z = einsum("...qhd,...khd->...hqk", q, k, recipe=recipe, key=key).astype(jnp.float32)
        z = z * np.float32(parts.shape[-1] ** -0.5)
        return z if bias is None else z + bias

    exact, quantized = logits("baseline"), logits(recipe.qk)
    free = jnp.ones(exact.shape, bool)
    if bias is not None:
        free = jnp.broadcast_to(bias > MASKED, exact.shape)
    p, spec = jax.nn.softmax(quantized), recipe.pv.fprop[0]
    if spec is not None:
        p = fake_quantize(p, spec, key=jax.random.fold_in(key, 1) if spec.stochastic else None)
    return {
        "attention": attention_sums(exact, quantized, free),
        "probabilities": probability_sums(jax.nn.softmax(exact), p, free),
    }
