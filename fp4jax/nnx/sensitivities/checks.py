"""What sensitivity is given: batches as pairs, and the mistakes that are told at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fp4jax.core.spec import shown
from fp4jax.nnx.sensitivities.program import Pass
from fp4jax.ops.recipe import ROLES, Recipe

#: The operands of the forward pass.
FORWARD = ("fprop.x", "fprop.w")
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


def roles_of(recipe: Recipe) -> list[str]:
    """The operands that the recipe quantizes."""
    return [role for role, spec in zip(ROLES, recipe.operands, strict=True) if spec is not None]


def check(recipe: Recipe, batches: Sequence[Batch], metric: Any, loss: Any) -> None:
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
    if not recipe.quantizes:
        raise ValueError(f"recipe {recipe.name!r} quantizes nothing; name another one.")
    if any(spec is not None and spec.given for spec in recipe.operands):
        raise ValueError(
            f"recipe {recipe.name!r} takes its amax from the model's variables, which sensitivity "
            "does not have: measure the recipe with amax='tensor', 'example' or 'row'."
        )
    if loss is None and not any(role in FORWARD for role in roles_of(recipe)):
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
