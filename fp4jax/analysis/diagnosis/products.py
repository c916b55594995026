"""How far the results of fprop, dgrad and wgrad are from the same products in high precision."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from fp4jax.analysis.diagnosis.recording import Call, Tensors
from fp4jax.core.typing import Array, Float
from fp4jax.ops.recipe import Recipe

PRODUCTS = ("fprop", "dgrad", "wgrad")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProductSums:
    """Sums over the elements of a product; ``+`` merges those of two batches."""

    exact: Any
    quantized: Any
    inner: Any
    error: Any

    @classmethod
    def of(cls, exact: Float[Array, "..."], quantized: Float[Array, "..."]) -> "ProductSums":
        a, b = exact.astype(jnp.float32), quantized.astype(jnp.float32)
        return cls(jnp.sum(a * a), jnp.sum(b * b), jnp.sum(a * b), jnp.sum((b - a) ** 2))

    def __add__(self, other: "ProductSums") -> "ProductSums":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def quantities(self) -> dict[str, float]:
        """Cosine, and relative error |quantized - exact| / |exact| (2-norms).

        Example:
            >>> exact, quantized = jnp.array([3.0, 4.0]), jnp.array([3.0, 0.0])
            >>> ProductSums.of(exact, quantized).quantities()
            {'cosine': 0.6, 'relative_error': 0.8}
        """
        exact, quantized, error = float(self.exact), float(self.quantized), float(self.error)
        norms = math.sqrt(exact) * math.sqrt(quantized)
        return {
            # Where both are zero nothing is lost.
            "cosine": min(float(self.inner) / norms, 1.0) if norms else float(exact == quantized),
            "relative_error": math.sqrt(error / exact) if exact else math.inf if error else 0.0,
        }


def product_sums(
    call: Call, recipe: Recipe, tensors: Tensors, key: Any = None
) -> dict[str, ProductSums]:
    """Sums of fprop, dgrad and wgrad of one layer, from the same x, w and g."""
    pairs = zip(
        PRODUCTS,
        _products(call, "baseline", tensors, None),
        _products(call, recipe, tensors, key),
        strict=True,
    )
    return {name: ProductSums.of(exact, quantized) for name, exact, quantized in pairs}


def _products(call: Call, recipe: str | Recipe, t: Tensors, key: Any) -> tuple[Array, Array, Array]:
    y, backward = jax.vjp(lambda x, w: call(x, w, recipe, key), t.x, t.w)
    return (y, *backward(t.g))
