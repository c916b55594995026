"""AttentionRecipe: how the two products inside attention are quantized; the named ones."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from fp4jax.core.spec import shown
from fp4jax.ops.recipe import ROLES, Recipe, get_recipe
from fp4jax.registration import Registry

Logits = Literal["forward", "original"]
RowSums = Literal["exact", "output"]

_BASELINE = get_recipe("baseline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionRecipe:
    """A Recipe for each of the products q k^T and P v, and how the softmax between is derived.

    A hashable value, as a :class:`fp4jax.Recipe`. See :func:`fp4jax.attention` for the formulas.

    Attributes:
        name: what runs, tables and figures call it.
        qk: of q k^T, with q in the role of x and k in that of w: g is dS, dgrad gives dq and wgrad
            dk. A Recipe, its name, or its id.
        pv: of P v, with P in the role of x and v in that of w: g is do, dgrad gives dP and wgrad
            dv.
        logits: what the backward pass computes P from again. ``"forward"``: the logits of the
            forward pass, quantized in the same way. ``"original"``: q k^T of the operands as they
            were, and the forward pass's log-sum-exp, as a backward pass in high precision does that
            was written for a forward pass in high precision; its rows do not sum to one.
        row_sums: the row sums of dP * P in the derivative of the softmax. ``"exact"``: as they are,
            which is do . (P v) with P in high precision. ``"output"``: do . o with the forward
            pass's own result o, as FlashAttention's backward pass has it; o is of the quantized P.

    Raises:
        ValueError: qk or pv is no recipe, or another value is not allowed.

    Example:
        >>> import dataclasses
        >>> recipe = get_attention_recipe("attention_qat")
        >>> dataclasses.replace(recipe, name="ablation", row_sums="output").qk.name
        'chain_rule'
    """

    name: str
    qk: Any = _BASELINE
    pv: Any = _BASELINE
    logits: Logits = "forward"
    row_sums: RowSums = "exact"

    def __post_init__(self) -> None:
        for product in ("qk", "pv"):
            object.__setattr__(self, product, get_recipe(getattr(self, product)))
        for field, allowed in (("logits", get_args(Logits)), ("row_sums", get_args(RowSums))):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"AttentionRecipe.{field} is {shown(getattr(self, field))}; allowed: "
                    f"{', '.join(map(repr, allowed))}."
                )

    @property
    def quantizes(self) -> bool:
        """False if both products are in high precision."""
        return self.qk.quantizes or self.pv.quantizes

    @property
    def given(self) -> dict[str, str]:
        """The operands whose amax comes from outside, as "qk.fprop.x": "static" or "learned".

        Example:
            >>> get_attention_recipe("attention_qat").given
            {}
        """
        return {
            f"{product}.{role}": spec.amax
            for product in ("qk", "pv")
            for role, spec in zip(ROLES, getattr(self, product).operands, strict=True)
            if spec is not None and spec.given
        }

    @property
    def stochastic(self) -> bool:
        """True if an operand is rounded stochastically, so that a key is needed."""
        return self.qk.stochastic or self.pv.stochastic

    @property
    def stochastic_forward(self) -> bool:
        """True if an operand of the forward pass is rounded stochastically."""
        return self.qk.stochastic_forward or self.pv.stochastic_forward

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON holds it, for a run whose recipe has no registered name."""
        products = {"qk": self.qk.to_json(), "pv": self.pv.to_json()}
        return {"name": self.name, **products, "logits": self.logits, "row_sums": self.row_sums}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "AttentionRecipe":
        """The recipe that :meth:`to_json` wrote.

        Raises:
            ValueError: no such record.

        Example:
            >>> recipe = get_attention_recipe("attention_naive")
            >>> AttentionRecipe.from_json(recipe.to_json()) == recipe
            True
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            raise ValueError(
                f"an attention recipe has no {', '.join(unknown)}; it has "
                f"{', '.join(sorted(known))}. It may have been written by a newer version of "
                "fp4jax."
            )
        if "name" not in record:
            raise ValueError(f"an attention recipe has no name: {shown(dict(record))}.")
        if not {"qk", "pv"} & set(record):
            raise ValueError(
                f"an attention recipe has neither qk nor pv: {shown(dict(record))}; a registered "
                "one is known by its name alone, a string."
            )
        return cls(**record)


_NAMED = (
    # "Drop-in" QAT: FP4 in the forward pass, and FlashAttention's backward pass in high precision
    # as it is, of which neither P nor the row sums are those of the forward pass.
    AttentionRecipe(
        name="attention_naive",
        qk="forward_only",
        pv="forward_only",
        logits="original",
        row_sums="output",
    ),
    # Attn-QAT (arXiv 2603.00040): the derivative of what the forward pass computed, straight
    # through the rounding. Q(q), Q(k), Q(v) and Q(P) again in the backward pass.
    AttentionRecipe(name="attention_qat", qk="chain_rule", pv="chain_rule"),
    # All six products in FP4, gradients too, to nearest and stochastically.
    AttentionRecipe(name="attention_full", qk="full", pv="full"),
    AttentionRecipe(name="attention_sr", qk="sr", pv="sr"),
)

_RECIPES: Registry[AttentionRecipe] = Registry("attention recipe")


def register_attention_recipe(recipe: AttentionRecipe) -> None:
    """Makes an attention recipe known by its name; also ``attention_recipes.register``.

    Raises:
        ValueError: the name is taken by another recipe, or cannot be one.

    Example:
        >>> register_attention_recipe(AttentionRecipe(name="qk_only", qk="chain_rule"))
        >>> get_attention_recipe("qk_only").pv.quantizes, attention_recipes()[-1]
        (False, 'qk_only')
        >>> _RECIPES.remove("qk_only")
    """
    if not isinstance(recipe, AttentionRecipe):
        raise ValueError(f"what was to be registered is {shown(recipe)}; give an AttentionRecipe.")
    _RECIPES.add(recipe.name, recipe)


for _recipe in _NAMED:
    register_attention_recipe(_recipe)


def attention_recipes() -> tuple[str, ...]:
    """Names of all attention recipes.

    Example:
        >>> attention_recipes()[:2]
        ('attention_naive', 'attention_qat')
    """
    return tuple(_RECIPES)


attention_recipes.register = register_attention_recipe  # type: ignore[attr-defined]


def get_attention_recipe(
    recipe: "str | AttentionRecipe | Mapping[str, Any]",
) -> AttentionRecipe:
    """An attention recipe by name or JSON; an AttentionRecipe is returned as it is.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(recipe, AttentionRecipe):
        return recipe
    if isinstance(recipe, Mapping):
        return AttentionRecipe.from_json(recipe)
    if isinstance(recipe, str) and recipe in _RECIPES:
        return _RECIPES.find(recipe)
    hint = ""
    if isinstance(recipe, Recipe) or (isinstance(recipe, str) and _is_recipe(recipe)):
        hint = " A recipe of layers has no softmax: AttentionRecipe(name=..., qk=..., pv=...)."
    raise ValueError(
        f"no attention recipe {shown(recipe)}; known names: {', '.join(_RECIPES)}.{hint}"
    )


def _is_recipe(name: str) -> bool:
    try:
        get_recipe(name)
    except ValueError:
        return False
    return True


def is_attention_recipe(value: Any) -> bool:
    """Whether a value, a name or a record is that of an attention recipe rather than of a recipe.

    Example:
        >>> is_attention_recipe("attention_qat"), is_attention_recipe("full")
        (True, False)
    """
    if isinstance(value, Mapping):
        return "qk" in value or "pv" in value
    return isinstance(value, AttentionRecipe) or (isinstance(value, str) and value in _RECIPES)
