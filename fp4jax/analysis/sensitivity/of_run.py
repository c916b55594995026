"""The sensitivity of a run's best epoch, on batches of the patients that it was trained on."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis.run import batches_of, patients_of
from fp4jax.analysis.sensitivity.figure import draw
from fp4jax.analysis.sensitivity.proposal import label
from fp4jax.data import Cohort
from fp4jax.extras import Extra
from fp4jax.metrics.labels import region_logits
from fp4jax.metrics.ranking import average_precision
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.train import Data, Trained, read_trained
from fp4jax.train.program import build, program_of
from fp4jax.train.run import bound
from fp4jax.train.task import exclusive

#: What a proposal may weigh layers by.
METRICS = ("kl", "loss", "gradient", "auprc")


def sensitivity_of_run(
    path: Path,
    data: Data | Cohort,
    recipe: str | int | Recipe,
    *,
    attention: str | AttentionRecipe | None = None,
    metric: str = "kl",
    batches: int = 2,
    budget: float | None = None,
) -> fp4nnx.SensitivityTable:
    """Quantizes each layer of a run's best epoch alone; writes the table and a figure.

    All layers are candidates, those too that the model keeps in high precision by itself. The
    network is in evaluation mode, amax spans a batch. ``sensitivity_<recipe>.csv``, ``.json`` and
    ``.png`` in the run's folder are replaced (with an
    attention recipe, ``sensitivity_<recipe>_<attention>``).

    Args:
        path: the run's folder; an unfinished run is taken as it is, and says so.
        data: what the run was trained on, or other data that its network takes.
        recipe: whose operands are quantized.
        attention: by which attentions are, each as a layer; None: they are no candidates.
        metric: what layers are weighed by: kl, loss, gradient or auprc, of the batches' pixels, the
            mean over regions. The table has all of them (auprc as its score), unless the batches
            have no positive pixel.
        batches: of the run's batch size, not augmented.
        budget: marks in the figure what :func:`fp4jax.nnx.keep_list` would keep.

    Raises:
        ValueError: no run, data that do not fit, an unknown metric, or auprc without positives.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}.")
    recipe, run = get_recipe(recipe), read_trained(path)
    config = run.config.resolved().teacher()
    data = bound(run.config, data)
    task, chosen = config.data, patients_of(run, data)
    given: list[Any] = [
        (task.inputs(images), task.targets(targets, config))
        for images, targets in batches_of(run.config, data, chosen.patients, batches)
    ]
    loss = program_of(config, len(run.channels), len(run.regions)).loss
    score: Callable[..., float] = auprc_of_classes if exclusive(config) else auprc
    scored = any(bool((targets != 0).any()) for _, targets in given)
    if metric == "auprc" and not scored:
        raise ValueError(
            f"{batches} batches have no positive pixel, and with it no AUPRC; give more --batches."
        )
    with _bar(f"sensitivity under {recipe.name}") as progress:
        table = fp4nnx.sensitivity(
            _network(run),
            given,
            recipe,
            score if scored else metric,
            loss=loss,
            activation="softmax" if exclusive(config) else "sigmoid",
            attention=attention,
            progress=progress,
        )
    table = dataclasses.replace(table, metric="score" if metric == "auprc" else metric)
    stem = f"sensitivity_{label(table)}"
    for ending in (".csv", ".json"):
        table.write(path / f"{stem}{ending}")
    title = f"{config.arch} {config.scale}, each layer alone under {recipe.name}: {path.name}"
    keep = () if budget is None else fp4nnx.keep_list(table, budget)
    draw(table, path / f"{stem}.png", f"{title}, on {chosen}", keep)
    return table


def auprc(logits: np.ndarray, masks: np.ndarray) -> float:
    """Average precision over all pixels, the mean over regions that have positive ones.

    Args:
        logits: (n, *space, k).
        masks: 0 and 1, of the same size.

    Example:
        >>> auprc(np.array([[2.0], [1.0], [3.0]]), np.array([1, 0, 0]))
        0.5
    """
    k = logits.shape[-1]
    columns, labels = logits.reshape(-1, k), masks.reshape(-1, k)
    found = [average_precision(columns[:, i], labels[:, i]) for i in range(k) if labels[:, i].any()]
    return float(np.mean(found)) if found else float("nan")


def auprc_of_classes(logits: np.ndarray, numbers: np.ndarray) -> float:
    """:func:`auprc` of the classes of a softmax but the background, class 0."""
    classes: Sequence[int] = range(1, logits.shape[-1])
    masks = np.stack([numbers == c for c in classes], -1)
    return auprc(np.asarray(region_logits(jnp.asarray(logits), list(classes))), masks)


def _network(run: Trained) -> nnx.Module:
    """The network of the best epoch in evaluation mode and high precision."""
    trained, config = run.model(), run.config.resolved().teacher()
    network = nnx.eval_shape(lambda: build(config, len(run.channels), len(run.regions), 0))
    network.eval()
    graph, _, _, rest = nnx.split(network, nnx.Param, nnx.BatchStat, ...)
    params, stats = (jax.tree.map(lambda leaf: leaf, s) for s in (trained.params, trained.stats))
    return nnx.merge(graph, params, stats, rest)


@contextlib.contextmanager
def _bar(description: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    with Extra("study"):
        from rich.console import Console
        from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
