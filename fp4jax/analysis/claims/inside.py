"""What runs' diagnoses found inside the networks, as means over the runs of a study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

# The paper's two failure modes: noise of the gradients, attention of few levels.
_OF = ("gradient", "attention", "probabilities")
INSIDE_TEXT = ["arch", "scale", "trained", "state", "recipe", "layer", "quantity", "of"]
INSIDE_COLUMNS = [*INSIDE_TEXT, "runs", "mean", "low", "high"]


def failure_modes(results: "Sequence[RunResult]") -> pd.DataFrame:
    """Gradient noise and attention of each layer, over the runs that ``diagnose`` was called on.

    Returns:
        A row per arch, scale, label of the runs (``trained``), state of the weights, recipe that
        was measured, layer, quantity and operand, see
        :func:`fp4jax.analysis.diagnosis.diagnose`: ``runs``, and ``mean``, ``low`` and ``high`` of
        the values over them. Layers in the order of the forward pass. Empty without a diagnosis.
    """
    found = []
    for run in results:
        path = run.path / "diagnosis.csv"
        if path.is_file():
            own = pd.read_csv(path)
            own = own[own["of"].isin(_OF)]
            names = {"arch": run.config.arch, "scale": run.config.scale, "trained": run.label}
            found.append(own.assign(**names))
    if not found:
        return pd.DataFrame(columns=INSIDE_COLUMNS)
    values = pd.concat(found).groupby(INSIDE_TEXT, sort=False)["value"]
    named = {"runs": "count", "mean": "mean", "low": "min", "high": "max"}
    return values.agg(list(named.values())).set_axis(list(named), axis=1).reset_index()
