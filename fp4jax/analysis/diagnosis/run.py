"""The diagnosis of a finished run, written into its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from fp4jax.analysis.diagnosis.figure import draw
from fp4jax.analysis.diagnosis.subject import of_run
from fp4jax.analysis.diagnosis.table import Row, diagnose
from fp4jax.analysis.results import RunResult, read_run
from fp4jax.data import Cohort, fingerprint
from fp4jax.files import read_json, replacing
from fp4jax.ops.recipe import get_recipe
from fp4jax.train.config import RunConfig
from fp4jax.train.evaluation import restore
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import epoch_order, places
from fp4jax.train.parts import check_size, split_of
from fp4jax.train.program import Program

State = Literal["init", "best", "last"]

#: What a baseline run is diagnosed under: "full" and "2d+rht+sr".
DEFAULT_RECIPES = (1, 5)


def finished_run(path: Path) -> RunResult:
    """The run in that folder; ValueError if there is no finished one."""
    run = read_run(path)
    if run is None:
        raise ValueError(f"{path} holds no finished run; name a folder with a summary.json.")
    return run


def recipes_for(config: RunConfig, asked: Sequence[str | int] = ()) -> list[str]:
    """Names of those asked for, or the run's own; for a baseline run ``DEFAULT_RECIPES``."""
    own = DEFAULT_RECIPES if config.recipe == "baseline" else (config.recipe,)
    return list(dict.fromkeys(get_recipe(recipe).name for recipe in (*asked,) or own))


def diagnose_run(
    path: Path,
    cohort: Cohort,
    recipes: Sequence[str | int] = (),
    *,
    states: Sequence[State] = ("init", "best"),
    batches: int = 2,
    draws: int = 8,
) -> list[Row]:
    """Diagnoses a finished run and writes ``diagnosis.csv`` and ``diagnosis.png`` into its folder.

    Args:
        path: the run's folder.
        cohort: what the run was trained on.
        recipes: by name or id; default the run's own, for a baseline run ``DEFAULT_RECIPES``. The
            tensors are the run's, whatever the recipe.
        states: init: new parameters; best: those of the best epoch; last: of the last.
        batches: of the run's batch size, from its training slices.
        draws: rounding keys for each batch, for stochastic recipes.

    Returns:
        The rows of the table, see :func:`diagnose`.

    Raises:
        ValueError: the folder holds no finished run, or the cohort is another one.
    """
    run = finished_run(path)
    config = run.config
    for name, number in (("batches", batches), ("draws", draws), ("states", len(states))):
        if number < 1:
            raise ValueError(f"{name} is {number}; at least 1 is needed.")
    names = recipes_for(config, recipes)
    check_size(config, cohort)
    _check_digest(path, cohort)
    rows = diagnose(
        of_run(config, len(cohort.channels)),
        _states(path, config, len(cohort.channels), states),
        names,
        _batches(config, cohort, batches),
        draws,
    )
    write(path / "diagnosis.csv", [{"run": path.name, **row} for row in rows])
    draw(rows, path / "diagnosis.png", f"{config.arch} {config.scale}, {run.label}: {path.name}")
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; replaces the file."""
    import csv

    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _states(path: Path, config: RunConfig, channels: int, names: Sequence[State]) -> dict[str, Any]:
    """(parameters, statistics) of each state, in the order asked for."""
    program = Program(config, channels, steps=1)
    states: dict[str, Any] = {}
    restored = None
    for name in names:
        if name == "init":
            state = program.start(jnp.asarray(config.seed, jnp.uint32))
            states[name] = state.params, state.stats
            continue
        restored = restored or restore(program, RunFolder(path))
        last, best, _ = restored
        states[name] = best if name == "best" else (last.params, last.stats)
    return states


def _batches(config: RunConfig, cohort: Cohort, count: int) -> list[Any]:
    """The first batches of an epoch that training never used."""
    slices = places(cohort, split_of(config, cohort).train)
    order = epoch_order(slices, config.seed, 0, config.batch_size)
    if count > len(order):
        raise ValueError(
            f"batches is {count}; the training slices make {len(order)} of {config.batch_size}."
        )
    return [
        (jnp.asarray(cohort.images[index]), jnp.asarray(cohort.masks[index]))
        for index in order[:count]
    ]


def _check_digest(path: Path, cohort: Cohort) -> None:
    known = (read_json(path / "config.json") or {}).get("digest")
    digest = fingerprint(cohort)["sha256"]
    if known not in (None, digest):
        raise ValueError(
            f"{path.name} was trained on other images (digest {known[:10]}, these have "
            f"{digest[:10]}); pass the options of data with which it was trained."
        )
