"""The diagnosis as a long table: a row per state, recipe, layer, quantity and operand."""

import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fp4jax.analysis.diagnosis.attention import attentions, bias_of, from_projections
from fp4jax.analysis.diagnosis.gradients import (
    forward_part,
    gradient_noise,
    gradients,
    minibatch_noise,
)
from fp4jax.analysis.diagnosis.operands import operand_sums
from fp4jax.analysis.diagnosis.probabilities import quantized_attention
from fp4jax.analysis.diagnosis.products import product_sums
from fp4jax.analysis.diagnosis.recording import Call, Tensors, record
from fp4jax.analysis.diagnosis.subject import Subject
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import Recipe, get_recipe

COLUMNS = ("state", "recipe", "layer", "quantity", "of", "value")

#: Recipe whose rows hold what no recipe changes: attention in high precision, minibatch noise.
REFERENCE = "baseline"

Row = dict[str, Any]


def diagnose(
    subject: Subject,
    states: Mapping[str, tuple[Any, Any]],
    recipes: Sequence[str | int | Recipe],
    batches: Sequence[Any],
    draws: int = 8,
    attention_recipes: Sequence[AttentionRecipe] = (),
) -> list[Row]:
    """All quantities of a model's quantized layers, for each state and recipe.

    ===================  ==========================  ==========================================
    quantity             of                          what
    ===================  ==========================  ==========================================
    sqnr_db              fprop.x ... wgrad.g         signal to quantization noise of the operand
    underflow            the same                    share of elements that become zero
    saturated            the same                    share beyond the largest value of the block
    scale_zero           the same                    share of blocks whose scale byte is 0
    scale_subnormal      the same                    share of blocks with a subnormal scale
    cosine               fprop, dgrad, wgrad         with the product in high precision
    relative_error       the same                    |difference| / |product|
    entropy              attention                   of rows, in units of log n
    levels, level_share  attention                   distinct logits of a row; divided by n
    shift                attention                   total variation to high precision
    entropy, shift       probabilities               the same of P as P v takes it
    levels, level_share  probabilities               distinct values of a row of P; divided by n
    zeros, mass          probabilities               share of P that is 0; sum of a row, 1 if exact
    noise_to_signal      gradient                    of the whole backward pass; = bias + variance
    bias, variance       gradient                    over rounding keys
    backward_...         gradient                    the same three for the backward pass alone
    minibatch            gradient                    variance over batches, recipe "baseline"
    ===================  ==========================  ==========================================

    Layers run in the order of the forward pass; "total" is the gradient of all parameters. What
    operands and products are measured on is the same for all recipes. ``backward_`` compares with
    the gradient of the quantized forward pass (a backward pass in high precision) rather than with
    that of the model in high precision: the part of the noise that comes from quantized gradients.

    Args:
        subject: the model.
        states: (parameters, batch-norm statistics) by name.
        recipes: each quantizes the layers that its ``build`` applies it to.
        batches: what the subject's loss takes; at least two for the minibatch noise.
        draws: rounding keys for each batch, for stochastic recipes.
        attention_recipes: of the products inside attention, for rows of "attention" (the logits of
            quantized q and k) and "probabilities"; the projections are in high precision there.

    Returns:
        Rows with the keys ``COLUMNS``.

    Raises:
        ValueError: no batch, or no recipe that quantizes.
    """
    found = [get_recipe(recipe) for recipe in recipes]
    if not batches or not any(recipe.quantizes for recipe in found):
        names = ", ".join(recipe.name for recipe in found) or "none"
        raise ValueError(
            f"a diagnosis of recipes {names} on {len(batches)} batches has nothing to measure; "
            "give one batch or more, and a recipe that quantizes."
        )
    widest = max(found, key=lambda recipe: len(subject.layers(recipe)))
    rows: list[Row] = []
    for state, (params, stats) in states.items():
        calls, tensors = record(subject, widest, params, stats, batches)
        exact = gradients(subject, REFERENCE, params, stats, batches)
        model = subject.structure(REFERENCE)(params, stats)
        add = functools.partial(_add, rows, state)
        add(REFERENCE, _attention(calls, get_recipe(REFERENCE), tensors, model))
        if len(batches) > 1:
            noise = minibatch_noise(exact, list(calls))
            add(REFERENCE, {(n, "gradient"): {"minibatch": v} for n, v in noise.items()})
        for recipe in attention_recipes:
            add(recipe.name, _products_of_attention(calls, recipe, tensors, model))
        for recipe in found:
            if not recipe.quantizes:
                continue
            add(recipe.name, _layers(calls, recipe, tensors))
            add(recipe.name, _attention(calls, recipe, tensors, model))
            forward = gradients(subject, forward_part(recipe), params, stats, batches)
            references = {"": exact, "backward_": forward}
            noise = gradient_noise(
                subject, recipe, params, stats, batches, references, list(calls), draws
            )
            add(recipe.name, {(name, "gradient"): values for name, values in noise.items()})
    return rows


def worst(rows: Iterable[Row], quantity: str, of: str, count: int = 1) -> list[Row]:
    """The ``count`` layers with the largest value, largest first; "total" is none.

    Example:
        >>> rows = [{"layer": n, "quantity": "bias", "of": "gradient", "value": v}
        ...         for n, v in (("a", 0.1), ("b", 0.4), ("total", 0.5))]
        >>> worst(rows, "bias", "gradient")[0]["layer"]
        'b'
    """
    own = [
        row
        for row in rows
        if (row["quantity"], row["of"]) == (quantity, of) and row["layer"] != "total"
    ]
    return sorted(own, key=lambda row: -row["value"])[:count]


def _add(rows: list[Row], state: str, recipe: str, values: Mapping[tuple[str, str], Any]) -> None:
    for (layer, of), quantities in values.items():
        rows.extend(
            dict(zip(COLUMNS, (state, recipe, layer, quantity, of, value), strict=True))
            for quantity, value in quantities.items()
        )


def _layers(calls: dict[str, Call], recipe: Recipe, tensors: Sequence[dict[str, Tensors]]):
    """Quantities of operands and products by (layer, operand or product)."""
    result = {}
    for name, call in calls.items():
        sums = [
            _layer_sums(call, recipe, batch[name], _key(name, i)) for i, batch in enumerate(tensors)
        ]
        for of, total in _sum(sums).items():
            result[name, of] = total.quantities()
    return result


# Layers of one shape share a compilation.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _layer_sums(call: Call, recipe: Recipe, tensors: Tensors, key: Any) -> dict[str, Any]:
    return {
        **operand_sums(call, recipe, tensors, key),
        **product_sums(call, recipe, tensors, key),
    }


def _attention(calls: dict[str, Call], recipe: Recipe, tensors: Sequence[Any], model: Any):
    result = {}
    for path, layer in attentions(model, calls).items():
        name = f"{path}.qkv"
        bias = layer.qkv.bias
        offset = None if bias is None else bias[...]
        sums = []
        for i, batch in enumerate(tensors):
            exact, quantized = (
                _projection(calls[name], how, batch[name], _key(name, i), offset)
                for how in (get_recipe(REFERENCE), recipe)
            )
            sums.append(
                {path: from_projections(exact, quantized, heads=layer.heads, bias=bias_of(layer))}
            )
        result[path, "attention"] = _sum(sums)[path].quantities()
    return result


def _products_of_attention(
    calls: dict[str, Call], recipe: AttentionRecipe, tensors: Sequence[Any], model: Any
):
    """Quantities of the logits and of P where the products of attention are quantized."""
    result = {}
    for path, layer in attentions(model, calls).items():
        name, bias = f"{path}.qkv", layer.qkv.bias
        offset = None if bias is None else bias[...]
        sums = []
        for i, batch in enumerate(tensors):
            key = _key(path, i)
            qkv = _projection(calls[name], get_recipe(REFERENCE), batch[name], key, offset)
            options = {"heads": layer.heads, "bias": bias_of(layer), "recipe": recipe}
            sums.append(quantized_attention(qkv, key, **options))
        for of, total in _sum(sums).items():
            result[path, of] = total.quantities()
    return result


@functools.partial(jax.jit, static_argnums=(0, 1))
def _projection(call: Call, recipe: Recipe, tensors: Tensors, key: Any, bias: Any) -> Any:
    y = call(tensors.x, tensors.w, recipe, key)
    return y if bias is None else y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _sum(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums of sums, in double precision."""
    on_host = jax.tree.map(lambda a: np.asarray(a, np.float64), jax.device_get(list(batches)))
    return {name: sum((b[name] for b in on_host[1:]), on_host[0][name]) for name in on_host[0]}


def _key(name: str, batch: int) -> Any:
    return jax.random.fold_in(jax.random.key(batch), zlib.crc32(name.encode()))
