"""What runs' diagnoses found inside the networks, run by run, and as means over runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.results import KEYS
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

# The paper's two failure modes: noise of the gradients, attention of few levels.
_OF = ("gradient", "attention", "probabilities")
_WHAT = ["state", "measured", "layer", "quantity", "of"]
INSIDE_COLUMNS = [*KEYS, *_WHAT, "value"]
INSIDE_TEXT = ["arch", "scale", "recipe", "method", "split", *_WHAT]


def failure_modes(results: "Sequence[RunResult]") -> pd.DataFrame:
    """Gradient noise and attention of each layer, of the runs that ``diagnose`` was called on.

    Returns:
        A row per run (arch, scale, recipe, method, split, seed), state of the weights, recipe that
        was ``measured``, layer, quantity and operand, with its ``value``, see
        :func:`fp4jax.analysis.diagnosis.diagnose`. Layers in the order of the forward pass. Empty
        without a diagnosis.
    """
    found = []
    for run in results:
        path = run.path / "diagnosis.csv"
        if path.is_file():
            own = pd.read_csv(path).rename(columns={"recipe": "measured"})
            own = own[own["of"].isin(_OF)]
            names = {key: getattr(run.config, key) for key in KEYS}
            names["recipe"] = run.config.recipe_name
            found.append(own.assign(**names))
    if not found:
        return pd.DataFrame(columns=INSIDE_COLUMNS)
    whole: Any = pd.concat(found, ignore_index=True)
    return whole[INSIDE_COLUMNS]


def over_runs(inside: pd.DataFrame) -> pd.DataFrame:
    """Means of :func:`failure_modes` over folds and seeds.

    Returns:
        A row per arch, scale, recipe and method of the runs, state, measured recipe, layer,
        quantity and operand: ``runs`` and ``mean`` of the values over them.

    Example:
        >>> run = ["cnn", "500k", "baseline", "qat"], ["best", "full", "total", "bias", "gradient"]
        >>> rows = [[*run[0], f"fold{i}", 1, *run[1], float(i)] for i in (0, 1)]
        >>> means = over_runs(pd.DataFrame(rows, columns=INSIDE_COLUMNS))
        >>> means[["measured", "runs", "mean"]].to_dict(orient="records")
        [{'measured': 'full', 'runs': 2, 'mean': 0.5}]
    """
    keys = [name for name in INSIDE_COLUMNS if name not in ("split", "seed", "value")]
    values = inside.groupby(keys, sort=False)["value"]
    return values.agg(["count", "mean"]).set_axis(["runs", "mean"], axis=1).reset_index()
