"""What a call of attention is given about the operands of its two products: amaxes, switches."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fp4jax.core.spec import shown
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import ROLES

#: Operands of both products: "qk.fprop.x" to "pv.wgrad.g".
ATTENTION_ROLES = tuple(f"{product}.{role}" for product in ("qk", "pv") for role in ROLES)
#: Those of the forward pass, by the letters of softmax(q k^T) v.
FORWARD_ROLES = {"q": "qk.fprop.x", "k": "qk.fprop.w", "p": "pv.fprop.x", "v": "pv.fprop.w"}


class Given(NamedTuple):
    """What one product is given, by its own roles; see :func:`fp4jax.dot_general`."""

    amax: dict[str, Any] | None = None
    switches: dict[str, Any] | None = None

    @property
    def functions(self) -> dict[str, Any]:
        """The amaxes that are functions of their operands."""
        return {role: a for role, a in (self.amax or {}).items() if callable(a)}


def by_product(amax: Any, switches: Any, recipe: AttentionRecipe) -> dict[str, Given]:
    """{"qk.fprop.x": a} -> {"qk": Given({"fprop.x": a}), "pv": Given()}.

    Raises:
        ValueError: no mappings, unknown roles, or a static operand without an amax.

    Example:
        >>> given = by_product({"qk.fprop.x": 3.0}, None, AttentionRecipe(name="high"))
        >>> given["qk"].amax, given["pv"].amax
        ({'fprop.x': 3.0}, None)
    """
    amaxes, on = _split("amax", amax, "3.0"), _split("switches", switches, "True")
    static = [role for role, kind in recipe.given.items() if kind == "static"]
    if missing := [role for role in static if (amax or {}).get(role) is None]:
        example = ", ".join(f'"{role}": ...' for role in missing)
        raise ValueError(
            f"attention recipe {recipe.name!r} needs amax of {', '.join(missing)}: pass "
            f"attention(amax={{{example}}})."
        )
    return {product: Given(amaxes[product], on[product]) for product in ("qk", "pv")}


def _split(name: str, given: Any, example: str) -> dict[str, dict[str, Any] | None]:
    """Values by role, apart for each product; None for a product that has none."""
    parts: dict[str, dict[str, Any]] = {"qk": {}, "pv": {}}
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            f'{name} is {shown(given)}; give a mapping such as {{"qk.fprop.x": {example}}}.'
        )
    for role, value in (given or {}).items():
        product, _, operand = str(role).partition(".")
        if product not in parts:
            raise ValueError(f"{name} has {role!r}; roles begin with 'qk.' or 'pv.'.")
        parts[product][operand] = value
    return {product: values or None for product, values in parts.items()}
