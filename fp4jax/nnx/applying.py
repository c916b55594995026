"""apply_recipe(model, recipe): an operation in the slot of every layer; remove_recipe(model)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from fp4jax.core.spec import shown
from fp4jax.nnx.account import report
from fp4jax.nnx.announce import announce
from fp4jax.nnx.attention_slots import AttentionSlot, attention_slots
from fp4jax.nnx.keys import Model
from fp4jax.nnx.operations import Op
from fp4jax.nnx.slots import Layer, layers
from fp4jax.nnx.transposed import ConvTranspose
from fp4jax.ops.attention_given import FORWARD_ROLES
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.rules import Rules, check_pattern, recipe_or_rules


def apply_recipe(
    model: Model,
    recipe: str | int | Recipe | Rules | Mapping[str, Any],
    keep: str | Sequence[str] = (),
    *,
    attention: str | AttentionRecipe | Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> Model:
    """Quantizes the layers of an NNX model: Linear, LinearGeneral, Einsum, Conv and ConvTranspose.

    These include the projections of ``nnx.MultiHeadAttention`` and of recurrent cells. Embeddings,
    norms and biases stay in high precision, and so do the products inside attention unless
    ``attention``, or a rule, has a recipe for them. Parameters are never touched. A later call
    replaces the recipes of the layers that it does not keep, so that calls on disjoint layers leave
    each other alone; :func:`remove_recipe` returns the whole model to high precision.

    A layer's own ``__call__`` has to use the function in its slot, directly or through what it
    calls; ``report(model, *example_inputs)`` says which do.

    Args:
        model: any NNX model; changed in place.
        recipe: a Recipe, its name, or the paper's id, for all layers; or rules ``{pattern: recipe
            or None}``, see :class:`fp4jax.ops.rules.Rules`: the first pattern that matches a
            layer's path from its start decides, None is high precision, and every layer that is
            not kept needs a rule (``".*"`` last for all that is left). A rule with an attention
            recipe, ``{r".*\\.attention$": "attention_qat", ...}``, is for attention alone.
        keep: regular expressions, matched from the start of a layer's dotted path; layers that
            match one stay as they are: with the recipe of an earlier call, or in high precision.
            "layers.1" matches layers.10 too, r"layers\\.1$" does not. (Convolutions that no recipe
            was applied to get fp4jax's unquantized operation, whose gradients are faster on CPU.)
        attention: an :class:`fp4jax.AttentionRecipe`, or its name, for q k^T and P v of every
            attention that is not kept: of ``nnx.MultiHeadAttention``, and of modules with a slot
            ``attention_fn``, which this package's transformers have. Its path is its module's with
            ".attention" behind it. None: high precision.
        verbose: print one line that says what was changed, instead of logging it (logger "fp4jax",
            level INFO); :func:`fp4jax.nnx.report` has the whole table.

    Returns:
        The model.

    Raises:
        ValueError: for an unknown recipe, an attention recipe with learned amaxes, or static ones
            of the backward pass, a pattern that matches no layer, layers without a rule
            (all are listed), a rule that earlier ones leave no layer, a model without layers
            to quantize, a packed model (apply recipes to the trained one and pack that), or a
            layer whose slot is taken by somebody else's function; attention recipes for a model
            that has no attention with a slot, or both in rules and as ``attention``.

    Example:
        >>> from flax import nnx
        >>> mlp = nnx.Sequential(
        ...     nnx.Linear(32, 64, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(64, 2, rngs=nnx.Rngs(1))
        ... )
        >>> mlp = apply_recipe(mlp, "2d+rht+sr", keep="layers.2")
        >>> mlp = apply_recipe(mlp, "forward_only", keep="layers.0")
        >>> [layer.precision for layer in report(mlp).layers]
        ['2d+rht+sr', 'forward_only']
        >>> mlp = apply_recipe(mlp, {r"layers\\.0$": "full", ".*": None})
        >>> [layer.precision for layer in report(mlp).layers]
        ['full', 'high precision']
        >>> attend = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> attend = apply_recipe(attend, "full", attention="attention_qat")
        >>> report(attend).attentions
        {'attention': 'attention_qat'}
    """
    chosen, baseline = recipe_or_rules(recipe), get_recipe("baseline")
    found = list(layers(model))
    if not found:
        raise ValueError(
            f"no layer of {type(model).__name__} can be quantized; apply_recipe takes an NNX "
            "model with nnx.Linear, LinearGeneral, Einsum, Conv or ConvTranspose layers."
        )
    slots = list(attention_slots(model))
    kept = _matches([part.path for part in (*found, *slots)], _patterns(keep))
    changed = [layer for layer in found if layer.path not in kept]
    within = _attentions(chosen, attention, [slot for slot in slots if slot.path not in kept])
    paths = [[part.path for part in parts] for parts in (changed, found, slots)]
    recipes = _recipes(chosen, *paths)
    for layer in changed:
        if problem := _problem(layer):
            raise ValueError(problem)
    for slot, own in within:
        if own is not None:
            slot.inject(own)
        elif slot.operation is not None:
            slot.empty()
    for layer in changed:
        _inject(layer, recipes[layer.path] or baseline)
    for layer in found:
        if layer.path in kept and layer.held is None and _problem(layer) is None:
            _inject(layer, baseline)
    announce(report(model).summary, verbose)
    return model


def remove_recipe(model: Model) -> Model:
    """Takes every operation of :func:`apply_recipe` out again: the model as Flax makes it.

    Parameters are never touched. Slots that hold somebody else's function keep it.

    Args:
        model: any NNX model; changed in place.

    Returns:
        The model.

    Raises:
        ValueError: for anything but an NNX model, or a packed one, which has no float kernels.

    Example:
        >>> from flax import nnx
        >>> layer = apply_recipe(nnx.Linear(32, 64, rngs=nnx.Rngs(0)), "2d+rht+sr")
        >>> remove_recipe(layer).dot_general.__name__
        'dot_general'
    """
    ours = [layer for layer in layers(model) if layer.operation is not None]
    within = [slot for slot in attention_slots(model) if slot.operation is not None]
    for layer in ours:
        if problem := _problem(layer):
            raise ValueError(problem)
    for part in (*ours, *within):
        part.empty()
    return model


def _recipes(
    chosen: Recipe | Rules, changed: Sequence[str], found: Sequence[str], attentions: Sequence[str]
) -> dict[str, Recipe | None]:
    """The recipe of each layer that is changed."""
    if isinstance(chosen, Rules):
        return chosen.assign(changed, found, attentions)
    return dict.fromkeys(changed, chosen)


def _attentions(
    chosen: Recipe | Rules, attention: Any, slots: Sequence[AttentionSlot]
) -> list[tuple[AttentionSlot, AttentionRecipe | None]]:
    """The recipe of each attention that is not kept."""
    by_rules = isinstance(chosen, Rules) and chosen.of_attentions
    if attention is not None and by_rules:
        raise ValueError(
            "the rules have attention recipes, and attention= is given too; give one of them."
        )
    common = None if attention is None else get_attention_recipe(attention)
    if common is not None and not slots:
        raise ValueError(
            f"attention is {common.name!r}, but the model has no attention with a slot (or all of "
            "it is kept): nnx.MultiHeadAttention, or a module with an attribute attention_fn."
        )
    pairs: list[tuple[AttentionSlot, AttentionRecipe | None]] = []
    for slot in slots:
        own = common
        if isinstance(chosen, Rules) and by_rules:
            own = chosen.of_attention(slot.path)
        if own is not None and slot.problem:
            raise ValueError(slot.problem)
        given = {} if own is None else own.given
        static = FORWARD_ROLES.values()
        odd = [role for role, kind in given.items() if kind != "static" or role not in static]
        if own is not None and odd:
            raise ValueError(
                f"attention recipe {own.name!r} takes an amax of {', '.join(odd)} from outside, "
                f"which attention in a model has no place for: static ones of {', '.join(static)} "
                "alone; use amax='tensor', 'example' or 'row', or fp4jax.attention(..., amax=)."
            )
        pairs.append((slot, own if own is not None and own.quantizes else None))
    return pairs


def _inject(layer: Layer, recipe: Recipe) -> None:
    layer.inject(layer.slot.op(recipe, layer.path, layer.stack))


def _patterns(keep: Any) -> tuple[str, ...]:
    patterns = keep if isinstance(keep, tuple | list) else (keep,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"keep is {shown(keep)}; give regular expressions of paths, () for none.")
    return tuple(patterns)


def _matches(paths: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The paths that some pattern matches from their start."""
    kept: set[str] = set()
    for pattern in patterns:
        check_pattern(pattern, "keep=")
        matched = {path for path in paths if re.match(pattern, path)}
        if not matched and "" in paths:
            raise ValueError(
                f"keep={pattern!r} matches no layer: the model is one layer, whose path is empty."
            )
        if not matched:
            raise ValueError(
                f"keep={pattern!r} matches no layer; the layers are: {', '.join(paths)}."
            )
        kept |= matched
    return kept


def _problem(layer: Layer) -> str | None:
    """Why this layer's slot cannot be filled: it computes with somebody else's function."""
    module, held, name = layer.module, layer.held, layer.slot.name
    if isinstance(held, Op) and not isinstance(held, layer.slot.op):
        return (
            f"layer {layer.path!r} is packed: it holds 4-bit codes instead of a float kernel, and "
            "cannot take another recipe. Apply recipes to the trained model, and pack that "
            "afterwards (fp4jax.nnx.pack returns a new model; the trained one is unchanged)."
        )
    if held is not None and not isinstance(held, Op):
        return (
            f"layer {layer.path!r} has its own {name}, which a recipe would replace; reset it to "
            "Flax's default first, or keep the layer."
        )
    foreign = isinstance(module, nnx.ConvTranspose) and not isinstance(module, ConvTranspose)
    if foreign and type(module) is not nnx.ConvTranspose:
        own_call = type(module).__call__ is not nnx.ConvTranspose.__call__
        return (
            f"layer {layer.path!r} is a {type(module).__name__}"
            f"{' with a __call__ of its own' if own_call else ''}; derive it from "
            "fp4jax.nnx.ConvTranspose, whose __call__ uses self.conv_transpose."
        )
    return None
