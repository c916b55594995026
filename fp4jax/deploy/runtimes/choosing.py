"""recipe_for: rules that quantize just those layers that a target runs in FP4."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from fp4jax.deploy.runtimes.rule import Runtime, get_runtime
from fp4jax.deploy.runtimes.table import target_table
from fp4jax.nnx.applying import apply_recipe, remove_recipe
from fp4jax.nnx.keys import check_model
from fp4jax.nnx.sensitivities.table import exactly
from fp4jax.nnx.slots import layers
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.rules import Rules, name_or_value, recipe_or_rules


def recipe_for(
    model: nnx.Module,
    recipe: str | int | Recipe | Rules | Mapping[str, Any],
    target: str | Runtime,
    *example_inputs: Any,
    keep: str | Sequence[str] | None = None,
) -> dict[str, str | Recipe | None]:
    """A recipe made for a target: every layer that it quantizes truly runs in FP4 there.

    Args:
        model: any NNX model, or shapes; recipes that it holds play no part, and it is left as it
            is.
        recipe: for the layers that run in FP4.
        target: name of a runtime, or one's own. That its static scales will be calibrated is
            taken for granted.
        example_inputs: what the model is called with.
        keep: patterns of layers that stay in high precision besides; default: those that the
            model names (``model.high_precision``).

    Returns:
        Rules, a pattern and a recipe or None for every layer:
        ``apply_recipe(model, rules)``, ``RunConfig(recipe=rules)``, or as JSON for
        ``--recipe @FILE``.

    Raises:
        ValueError: a target, or a recipe, that runs nothing of this model in FP4.

    Example:
        >>> import jax.numpy as jnp
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(
        ...     nnx.Conv(16, 32, (3, 3), rngs=rngs), nnx.relu, nnx.Conv(32, 4, (1, 1), rngs=rngs)
        ... )
        >>> recipe_for(model, "2d+rht+sr", "tensorrt", jnp.ones((1, 8, 8, 16)))
        {'layers\\\\.0$': None, 'layers\\\\.2$': '2d+rht+sr'}
    """
    check_model(model)
    runtime, chosen = get_runtime(target), recipe_or_rules(recipe)
    copy: Any = nnx.merge(*nnx.split(model))
    remove_recipe(copy)
    own = getattr(copy, "high_precision", ()) if keep is None else keep
    patterns = (own,) if isinstance(own, str) else tuple(own)
    paths = [layer.path for layer in layers(copy)]
    apply_recipe(copy, chosen, [p for p in patterns if any(re.match(p, path) for path in paths)])
    table = target_table(copy, runtime, *example_inputs, calibrated=True)
    fp4 = {row.path: row.mode.units == "FP4" for row in table.rows if row.layer}
    if not any(fp4.values()):
        raise ValueError(
            f"{runtime.name} runs nothing of this model in FP4 under {chosen.name!r} "
            f"({table.summary}); name another target, or train without a recipe for it."
        )
    rules: dict[str, str | Recipe | None] = {}
    for path in paths:
        of_layer = chosen.of(path) if isinstance(chosen, Rules) else chosen
        run = fp4.get(path or "(model)", False) and of_layer is not None
        rules[exactly(path)] = name_or_value(of_layer) if run else None
    return rules
