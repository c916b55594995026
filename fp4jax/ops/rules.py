"""Rules: which layer of a model gets which recipe, by regular expressions of dotted paths."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fp4jax.core.spec import shown
from fp4jax.ops.attention_recipe import (
    AttentionRecipe,
    get_attention_recipe,
    is_attention_recipe,
)
from fp4jax.ops.recipe import Recipe, get_recipe


@dataclasses.dataclass(frozen=True)
class Rules:
    """Patterns and their recipes, in order: the first that matches a layer's path wins.

    A hashable value. A pattern is a regular expression, matched from the start of the path as by
    ``re.match``: ``"layers.1"`` matches layers.10 too, ``r"layers\\.1$"`` does not.

    A rule with an attention recipe speaks of attention alone, which is named by its module's path
    with ".attention" behind it, and one with a recipe of layers alone. Attention without a rule
    stays in high precision.

    Attributes:
        rules: pairs of a pattern and a Recipe, an AttentionRecipe, or None for high precision.
            :meth:`make` takes names and ids too.

    Example:
        >>> rules = Rules.make({r"encoder\\.": "2d+rht+sr", "head": None})
        >>> rules.of("encoder.0").name, rules.of("head"), rules.matching("decoder")
        ('2d+rht+sr', None, None)
        >>> Rules.make(rules.to_json()) == rules
        True
        >>> rules = Rules.make({r".*\\.attention$": "attention_qat", ".*": "full"})
        >>> rules.of_attention("blocks.0.attn.attention").name, rules.of("blocks.0.attn.qkv").name
        ('attention_qat', 'full')
    """

    rules: tuple[tuple[str, Recipe | AttentionRecipe | None], ...]

    @classmethod
    def make(cls, rules: Any) -> "Rules":
        """Rules from a mapping ``{pattern: recipe}``, or from a list of such pairs.

        Args:
            rules: patterns to a Recipe or AttentionRecipe, its name, its id, its JSON, or None.

        Raises:
            ValueError: no pairs, a pattern that is no regular expression, an unknown recipe.
        """
        if isinstance(rules, Rules):
            return rules
        pairs = rules.items() if isinstance(rules, Mapping) else rules
        pairs = list(pairs)
        well = (isinstance(p, tuple | list) and len(p) == 2 for p in pairs)
        if not pairs or not all(well) or not all(isinstance(p[0], str) for p in pairs):
            raise ValueError(
                f"rules are {shown(rules)}; give {{pattern: recipe or None}}, for example "
                '{r"encoder\\..*": "2d+rht+sr", "head": None}.'
            )
        for pattern, _ in pairs:
            check_pattern(pattern, "the rule ")
        return cls(tuple((p, None if r is None else _recipe(r)) for p, r in pairs))

    def matching(self, path: str, attention: bool = False) -> int | None:
        """Number of the rule that decides about a layer, or an attention; None if none does."""
        other = Recipe if attention else AttentionRecipe
        for i, (pattern, recipe) in enumerate(self.rules):
            if not isinstance(recipe, other) and re.match(pattern, path):
                return i
        return None

    def of_attention(self, path: str) -> AttentionRecipe | None:
        """The recipe of an attention; None for high precision, and where no rule matches."""
        i = self.matching(path, attention=True)
        return None if i is None else self.rules[i][1]  # pyright: ignore[reportReturnType]

    @property
    def of_attentions(self) -> bool:
        """Whether a rule speaks of attention."""
        return any(isinstance(recipe, AttentionRecipe) for _, recipe in self.rules)

    def of(self, path: str) -> Recipe | None:
        """The recipe of a layer; None for high precision.

        Raises:
            ValueError: no rule matches its path.
        """
        return self.assign([path])[path]

    def assign(
        self,
        paths: Sequence[str],
        everything: Sequence[str] = (),
        attentions: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The recipe, or None, of each layer.

        Args:
            paths: of the layers that need a rule.
            everything: paths of all layers, of which every rule must match one; not checked if
                empty.
            attentions: those of all attentions, one of which a rule for attention must match.

        Raises:
            ValueError: layers without a rule, all of which it lists; a rule that matches no layer;
                a rule that is never reached, since those before it take what it matches (a last
                rule for everything, ``".*"``, may be idle).
        """
        chosen = {path: self.matching(path) for path in paths}
        if missing := [path or "(model)" for path, i in chosen.items() if i is None]:
            raise ValueError(
                f"no rule matches {', '.join(missing)}; add a rule for each, or one for all that "
                'is left as the last: {..., ".*": None} keeps them in high precision.'
            )
        for i, (pattern, recipe) in enumerate(self.rules if everything else ()):
            self._check_use(i, pattern, recipe, everything, attentions)
        return {path: self.rules[i][1] for path, i in chosen.items() if i is not None}

    def _check_use(
        self, i: int, pattern: str, recipe: Any, layers: Sequence[str], attentions: Sequence[str]
    ) -> None:
        """ValueError if a rule matches nothing that it may speak of, or is never reached."""
        of_attention = isinstance(recipe, AttentionRecipe)
        own = [path for path in (attentions if of_attention else layers) if re.match(pattern, path)]
        if not own and recipe is None and any(re.match(pattern, path) for path in attentions):
            return
        if not own:
            known = attentions if of_attention else layers
            kind = "attention" if of_attention else "layer"
            raise ValueError(
                f"the rule {pattern!r} matches no {kind}; "
                f"the {kind}s are: {', '.join(known) or 'none'}."
            )
        reached = any(self.matching(path, of_attention) == i for path in own)
        if not reached and len(own) < len(attentions if of_attention else layers):
            raise ValueError(
                f"the rule {pattern!r} is never reached: rules before it take "
                f"{', '.join(own)}. Put it before them, or leave it out."
            )

    @property
    def name(self) -> str:
        """What tables and folders call them: "rules-" and six digits of their hash."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return f"rules-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    @property
    def quantizes(self) -> bool:
        """False if all rules say high precision."""
        return any(recipe is not None and recipe.quantizes for _, recipe in self.rules)

    def to_json(self) -> list[list[Any]]:
        """Pairs, since their order counts: [pattern, name of a registered recipe, JSON or null]."""
        return [[pattern, _record(recipe)] for pattern, recipe in self.rules]


def recipe_or_rules(given: Any) -> Recipe | Rules:
    """A Recipe by name, id, value or JSON, or Rules by mapping, pairs or value.

    A mapping that has a ``name``, products and no other keys than a recipe's is a recipe's JSON.

    Raises:
        ValueError: neither; an attention recipe, which is not one of layers.

    Example:
        >>> recipe_or_rules("5").name, recipe_or_rules({".*": None}).quantizes
        ('2d+rht+sr', False)
    """
    fields = {field.name for field in dataclasses.fields(Recipe)}
    if isinstance(given, Mapping) and not ({"name"} < set(given) <= fields):
        return Rules.make(given)
    if not isinstance(given, Mapping) and is_attention_recipe(given):
        raise ValueError(
            f"{shown(getattr(given, 'name', given))} is an attention recipe, not one of layers: "
            "give it as attention=, or to a rule."
        )
    if isinstance(given, Rules | list | tuple):
        return Rules.make(given)
    return get_recipe(given)


def name_or_value(recipe: Any) -> Any:
    """The name of a recipe, or attention recipe, that is registered under it; else itself.

    Example:
        >>> name_or_value(get_recipe(1))
        'full'
    """
    find = get_attention_recipe if isinstance(recipe, AttentionRecipe) else get_recipe
    try:
        return recipe.name if find(recipe.name) == recipe else recipe
    except ValueError:
        return recipe


def _recipe(given: Any) -> Recipe | AttentionRecipe:
    return get_attention_recipe(given) if is_attention_recipe(given) else get_recipe(given)


def _record(recipe: Recipe | AttentionRecipe | None) -> Any:
    if recipe is None:
        return None
    short = name_or_value(recipe)
    return short if isinstance(short, str) else short.to_json()


def check_pattern(pattern: str, what: str) -> None:
    """ValueError unless ``pattern`` is a regular expression; ``what`` starts the message."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{what}{pattern!r} is no regular expression: {error}.") from error
