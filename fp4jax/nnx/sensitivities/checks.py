"""What sensitivity is given: batches as pairs, and the mistakes that are told at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fp4jax.core.spec import TensorSpec, shown
from fp4jax.nnx.sensitivities.program import Pass
from fp4jax.ops.attention_given import ATTENTION_ROLES
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import ROLES, Recipe

METRICS = ("kl", "loss", "gradient")


class Batch(NamedTuple):
    """What the model is called with, and what the loss and the score compare with."""

    inputs: tuple[Any, ...]
    targets: Any


def batch_of(batch: Any) -> Batch:
    """A pair (inputs, targets), or inputs alone; inputs are an array or several."""
    inputs, targets = (
        batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
    )
    inputs = inputs if isinstance(inputs, tuple | list) else (inputs,)
    return Batch(tuple(map(jnp.asarray, inputs)), None if targets is None else jnp.asarray(targets))


def is_forward(role: str) -> bool:
    """Whether an operand is one of the forward pass.

    Example:
        >>> is_forward("fprop.x"), is_forward("pv.fprop.w"), is_forward("qk.dgrad.g")
        (True, True, False)
    """
    return "fprop." in role


def operands_of(recipe: Recipe | AttentionRecipe) -> dict[str, TensorSpec]:
    """The operands that a recipe quantizes, and how."""
    if isinstance(recipe, AttentionRecipe):
        specs = dict(zip(ATTENTION_ROLES, (*recipe.qk.operands, *recipe.pv.operands), strict=True))
    else:
        specs = dict(zip(ROLES, recipe.operands, strict=True))
    return {role: spec for role, spec in specs.items() if spec is not None}


def check(
    recipe: Recipe,
    attention: AttentionRecipe | None,
    batches: Sequence[Batch],
    metric: Any,
    loss: Any,
) -> None:
    """ValueError for what can be told before anything runs."""
    if not batches:
        raise ValueError("there are no batches; give at least one, (inputs, targets) or inputs.")
    for i, batch in enumerate(batches):
        if any(0 in x.shape for x in batch.inputs):
            raise ValueError(f"batch {i} is empty: its inputs hold no numbers; leave it out.")
    if not callable(metric) and metric not in METRICS:
        raise ValueError(
            f"metric is {shown(metric)}; allowed: {', '.join(METRICS)}, or a function (outputs, "
            "targets) -> float, larger is better."
        )
    if metric in ("loss", "gradient") and loss is None:
        raise ValueError(
            f"metric {metric!r} needs a loss: pass loss=, a function (outputs, targets) -> scalar."
        )
    if (callable(metric) or loss is not None) and any(b.targets is None for b in batches):
        raise ValueError("a loss or a score needs targets; give batches (inputs, targets).")
    if not recipe.quantizes and attention is None:
        raise ValueError(f"recipe {recipe.name!r} quantizes nothing; name another one.")
    both = [operands_of(one) for one in (recipe, attention) if one is not None]
    if any(spec.given for operands in both for spec in operands.values()):
        raise ValueError(
            f"recipe {recipe.name!r} takes its amax from the model's variables, which sensitivity "
            "does not have: measure the recipe with amax='tensor', 'example' or 'row'."
        )
    if loss is None and not any(is_forward(role) for operands in both for role in operands):
        raise ValueError(
            f"recipe {recipe.name!r} quantizes the backward pass alone, of which only gradients "
            "tell: pass loss=."
        )


def check_pass(one: Pass, batch: int) -> None:
    """ValueError unless what the float model computes is finite, and an array."""
    if not hasattr(one.outputs, "dtype") or not one.outputs.ndim:
        raise ValueError(
            f"the model returns {type(one.outputs).__name__}; sensitivity takes models that return "
            "one array of logits (..., k): wrap yours so that it does."
        )
    bad = [
        name
        for name, value in (
            ("outputs", one.outputs),
            ("loss", one.loss),
            ("gradient", one.gradient),
        )
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(value))
    ]
    if bad:
        raise ValueError(
            f"{' and '.join(bad)} of the model in high precision on batch {batch} are not finite; "
            "look for NaN and Inf in the batch and in the parameters."
        )
