"""The diagnosis of a run, written into its folder."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from fp4jax.analysis.diagnosis.figure import draw
from fp4jax.analysis.diagnosis.subject import Subject, of_run
from fp4jax.analysis.diagnosis.table import Row, diagnose
from fp4jax.data import Cohort
from fp4jax.files import replacing
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.rules import Rules
from fp4jax.train import Data, RunConfig, Trained, read_trained
from fp4jax.train.evaluation import check_names, split_of
from fp4jax.train.program import program_of
from fp4jax.train.run import bound

#: New parameters, and those of the best epoch.
STATES = ("init", "best")

#: What a baseline run is diagnosed under: "full" and "2d+rht+sr".
DEFAULT_RECIPES = (1, 5)


def recipes_for(config: RunConfig, asked: Sequence[str | int | Recipe] = ()) -> list[Recipe]:
    """Those asked for, or the run's own (all of its rules'); for a baseline ``DEFAULT_RECIPES``."""
    own: Sequence[Any] = (config.recipe,)
    if isinstance(config.recipe, Rules):
        own = [recipe for _, recipe in config.recipe.rules if isinstance(recipe, Recipe)]
        own = own or DEFAULT_RECIPES
    elif config.recipe == "baseline":
        own = DEFAULT_RECIPES
    return list(dict.fromkeys(get_recipe(recipe) for recipe in (*asked,) or own))


def attentions_for(
    config: RunConfig, asked: Sequence[str | AttentionRecipe] = ()
) -> list[AttentionRecipe]:
    """Those asked for, or the run's own, or none."""
    own = [] if config.attention is None else [config.attention]
    if isinstance(config.recipe, Rules):
        own += [recipe for _, recipe in config.recipe.rules if isinstance(recipe, AttentionRecipe)]
    return list(dict.fromkeys(get_attention_recipe(recipe) for recipe in (*asked,) or own))


def diagnose_run(
    path: Path,
    data: Data | Cohort,
    recipes: Sequence[str | int | Recipe] = (),
    *,
    attentions: Sequence[str | AttentionRecipe] = (),
    states: Sequence[str] = STATES,
    batches: int = 2,
    draws: int = 8,
) -> list[Row]:
    """Diagnoses a run and writes ``diagnosis.csv`` and ``diagnosis.png`` into its folder.

    Args:
        path: the run's folder; an unfinished run is taken as it is, and says so.
        data: what the run was trained on, whose training patients are taken; of any other data
            that its network takes, all patients. For slices a cohort will do.
        recipes: default the run's own, for a baseline run ``DEFAULT_RECIPES``. The tensors are the
            run's, whatever the recipe.
        attentions: recipes of the products inside attention; default the run's own, if it has one.
        states: init: new parameters; best: those of the best epoch.
        batches: of the run's batch size, not augmented, of an epoch that training never reached.
        draws: rounding keys for each batch, for stochastic recipes.

    Returns:
        The rows of the table, see :func:`diagnose`.

    Raises:
        ValueError: the folder holds no run, the data do not fit it, or a recipe of attention for
            a model without.
    """
    _check(states, batches, draws)
    run = read_trained(path)
    config = run.config
    found = recipes_for(config, recipes)
    data = bound(config, data)
    chosen = patients_of(run, data)
    subject = of_run(config, len(run.channels), len(run.regions))
    if attentions and not _has_attention(subject):
        raise ValueError(
            f"attentions are {', '.join(map(str, attentions))}, but {config.arch} has no "
            "attention; leave them out."
        )
    rows = diagnose(
        subject,
        {name: _state(run, name) for name in states},
        found,
        batches_of(config, data, chosen.patients, batches),
        draws,
        attentions_for(config, attentions),
    )
    write(path / "diagnosis.csv", [{"run": path.name, **row} for row in rows])
    method = "" if config.method == "qat" else f"{config.method} "
    title = f"{config.arch} {config.scale}, {method}{config.recipe_name}: {path.name}"
    draw(rows, path / "diagnosis.png", f"{title}, on {chosen}")
    return rows


class Chosen(NamedTuple):
    """Whose images a run is diagnosed on."""

    patients: tuple[str, ...]
    # whether they are those that it was trained on
    own: bool

    def __str__(self) -> str:
        """In a few words.

        Example:
            >>> print(Chosen(("a", "b"), own=True))
            2 patients that it was trained on
        """
        whose = "that it was trained on" if self.own else "of other data than its own"
        count = len(self.patients)
        return f"{count} patient{'s' * (count != 1)} {whose}"


def patients_of(run: Trained, data: Data) -> Chosen:
    """The training patients of a run, if the data are its own; all of other data.

    Raises:
        ValueError: data with other channels than the run's.
    """
    check_names(run, data)
    if data.digest == run.digest:
        return Chosen(split_of(run, data).train, own=True)
    return Chosen(data.patients, own=False)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; replaces the file."""
    import csv

    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _has_attention(subject: Subject) -> bool:
    model = nnx.eval_shape(lambda: subject.build(get_recipe("baseline")))
    return any(True for _ in attention_slots(model))


def _check(states: Sequence[str], batches: int, draws: int) -> None:
    for name, number in (("batches", batches), ("draws", draws), ("states", len(states))):
        if number < 1:
            raise ValueError(f"{name} is {number}; at least 1 is needed.")
    if unknown := sorted(set(states) - set(STATES)):
        raise ValueError(
            f"states has {', '.join(unknown)}; allowed: {', '.join(STATES)}. Of its "
            "training a run keeps the best epoch alone."
        )


def _state(run: Trained, name: str) -> tuple[Any, Any]:
    """Parameters and statistics."""
    if name == "best":
        model = run.model()
        return model.params, model.stats
    program = program_of(run.config, len(run.channels), len(run.regions))
    state = program.start(run.config.seed)
    return state.params, state.stats


def batches_of(config: RunConfig, data: Data, patients: Sequence[str], count: int) -> list[Any]:
    """Batches (images, targets) as stored, not augmented, of an epoch that no training reached.

    Raises:
        ValueError: more than an epoch has.
    """
    feed = data.feed(config, patients, config.seed)
    if count > feed.steps:
        raise ValueError(
            f"batches is {count}; {len(patients)} patients make {feed.steps} of "
            f"{config.batch_size} an epoch."
        )
    examples: Any = feed.batches(config.epochs + 1)
    with contextlib.closing(examples):  # ends the workers that make more
        return [
            (jnp.asarray(part.images), jnp.asarray(part.targets))
            for part in itertools.islice(examples, count)
        ]
