"""What a run may be asked about the scales of x: which options its recipe and method leave."""

from typing import Any, get_args

from fp4jax.nnx.calibrating import Method
from fp4jax.nnx.running import check_memory
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.rules import Rules

#: Fields of a run.
OF_SCALES = ("calibrate", "calibration_batches", "running_amax", "warm_start_steps")
_OF_STEPS = ("running_amax", "warm_start_steps")


def amaxes_of(recipe: Recipe | Rules, attention: Any = None) -> set[str]:
    """What amax spans, or where it comes from, wherever x of fprop has a tensor scale.

    And wherever q, k, P or v of attention have one.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> amaxes_of(get_recipe("full")), amaxes_of(get_recipe("baseline"))
        ({'tensor'}, set())
        >>> amaxes_of(get_recipe("baseline"), "attention_qat")
        {'tensor'}
    """
    every: list[Any] = [r for _, r in recipe.rules] if isinstance(recipe, Rules) else [recipe]
    if attention is not None:
        every.append(get_attention_recipe(attention))
    specs = [r.fprop[0] for r in every if isinstance(r, Recipe)]
    for one in every:
        if isinstance(one, AttentionRecipe):
            specs += [*one.qk.fprop, *one.pv.fprop]
    return {x.amax for x in specs if x is not None and x.has_tensor_scale}


def unused(recipe: Recipe | Rules, attention: Any, method: str) -> dict[str, str]:
    """Options without an effect on a run, and why.

    Args:
        recipe: of the run.
        attention: its recipe of attention, None for none.
        method: of the run.
    """
    found: dict[str, str] = {}
    if not amaxes_of(recipe, attention):
        found |= dict.fromkeys(OF_SCALES[:3], "the recipe gives no x a tensor scale")
    if not recipe.quantizes and attention is None:
        found["warm_start_steps"] = "the recipe quantizes nothing"
    if method == "ptq":
        found |= dict.fromkeys(_OF_STEPS, "the method ptq takes no step")
    return found


def check(config: Any) -> None:
    """ValueError for values of these options that are out of their range."""
    if config.calibrate not in (None, *get_args(Method)):
        allowed = ", ".join(get_args(Method))
        raise ValueError(f"calibrate is {config.calibrate!r}; allowed: {allowed}.")
    if config.running_amax is not None:
        check_memory("running_amax", config.running_amax)
        if config.calibrate is not None:
            raise ValueError(
                f"calibrate is {config.calibrate!r} with running_amax {config.running_amax:g}, "
                "whose scales are static already; leave one of them out."
            )


def check_run(config: Any, recipe: Recipe | Rules, defaults: dict[str, Any]) -> None:
    """ValueError where a run's options do not fit its recipe and method."""
    for name, why in unused(recipe, config.attention, config.method).items():
        value = getattr(config, name)
        if value != defaults[name]:
            raise ValueError(f"{name} is {value!r}, but {why}; leave it out.")
    amaxes = amaxes_of(recipe, config.attention)
    batches = config.calibration_batches
    if config.calibrate is None and batches != defaults["calibration_batches"]:
        raise ValueError(
            f"calibration_batches is {batches}, but nothing is calibrated; give calibrate=max "
            "(percentile, mse), or leave it out."
        )
    if config.calibrate is not None and "learned" in amaxes:
        raise ValueError(
            f"calibrate is {config.calibrate!r}, but the recipe's amaxes are learned, and static "
            "then; leave it out."
        )
    if "static" in amaxes and config.running_amax is None:
        raise ValueError(
            f"recipe {config.recipe_name!r} has amax='static' for x, which a training does not "
            "know: give running_amax, or a recipe with amax='tensor', and calibrate."
        )


def check_steps(config: Any, steps: int) -> None:
    """ValueError for a warm start that leaves the recipe no step of a run.

    Args:
        config: of the run.
        steps: of an epoch.

    Example:
        >>> from fp4jax.train.config import RunConfig
        >>> from fp4jax.train.slices.task import Slices
        >>> run = RunConfig(Slices("phantom"), recipe="full", epochs=2, warm_start_steps=7)
        >>> check_steps(run, steps=4)
    """
    whole = config.epochs * steps
    if config.warm_start_steps >= whole:
        raise ValueError(
            f"warm_start_steps is {config.warm_start_steps}, but the training has {whole} steps, "
            "and none would be left for the recipe; take fewer, or more epochs."
        )
