"""Finished runs as data: a table with a row per run, and what each run's folder holds."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fp4jax.extras import Extra
from fp4jax.metrics import Histogram
from fp4jax.train.config import RunConfig
from fp4jax.train.folder import RunFolder
from fp4jax.train.patients import Examples, read_examples, read_scores
from fp4jax.train.trained import read_trained

if TYPE_CHECKING:
    import pandas as pd

#: Columns that say which run a row is, in this order.
KEYS = ("arch", "scale", "recipe", "method", "split", "seed")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder.
        config: its configuration, resolved.
        summary: ``summary.json``: ``val`` and ``test`` are its metrics by name, ``test_patients``
            the volumetric Dice of each test patient, ``threshold`` that of the best F2 on the
            validation patients; of volumes also ``test_regions``.
        digest: of the data it was trained on.
        environment: what it was made with; None in folders of version 0.1.
    """

    path: Path
    config: RunConfig
    summary: dict[str, Any]
    digest: str = ""
    environment: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """What is compared: the recipe, with the method in front where it is not QAT."""
        method, recipe = self.config.method, self.config.recipe_name
        return recipe if method == "qat" else f"{method} {recipe}"

    def history(self) -> list[dict[str, Any]]:
        """A record per epoch."""
        return RunFolder(self.path).history()

    def scores(self, part: Literal["val", "test"] = "test") -> dict[str, Histogram]:
        """Histogram of the scores of each patient, by id."""
        return read_scores(self.path / f"{part}_scores.npz")

    def examples(self) -> Examples:
        """One slice of each test patient with its prediction."""
        return read_examples(self.path / "examples.npz")

    def row(self) -> dict[str, Any]:
        """Keys, then all metrics with ``val_`` and ``test_`` in front."""
        summary, config = self.summary, self.config
        keys: dict[str, Any] = {"run": self.path.name, "label": self.label}
        keys |= {key: getattr(config, key) for key in KEYS} | {"recipe": config.recipe_name}
        other = ("threshold", "best_epoch", "epochs_run", "train_seconds", "lanes", "device")
        metrics = {f"{p}_{k}": v for p in ("val", "test") for k, v in summary[p].items()}
        return keys | {key: summary[key] for key in other} | metrics


def read_run(path: Path) -> RunResult | None:
    """The run in that folder, None if it is not finished."""
    folder = RunFolder(path)
    if not (folder.finished and (path / "config.json").exists()):
        return None
    run = read_trained(path)
    summary: Any = run.summary
    return RunResult(path, run.config.resolved(), summary, run.digest, folder.environment())


def read_runs(root: Path) -> list[RunResult]:
    """All finished runs whose folders lie in ``root``, by name.

    Raises:
        ValueError: if there is no finished run.
    """
    folders = sorted(path.parent for path in root.glob("*/config.json"))
    runs = [run for run in map(read_run, folders) if run is not None]
    if not runs:
        raise ValueError(f"{root} holds no finished run; name a folder of run folders.")
    return runs


def regions(runs: Iterable[RunResult]) -> "pd.DataFrame":
    """A row per run and segmented region, with the means of its metrics over the test cases.

    Runs that score no regions, as those on slices, have none.
    """
    with Extra("study"):
        import pandas as pd

    rows = []
    for run in runs:
        keys = {"run": run.path.name, "label": run.label}
        keys |= {key: getattr(run.config, key) for key in ("arch", "scale", "split", "seed")}
        for region, scores in run.summary.get("test_regions", {}).items():
            rows.append({**keys, "region": region, **scores})
    return pd.DataFrame(rows, columns=None if rows else ["arch", "scale", "label", "region"])


def table(runs: Iterable[RunResult]) -> "pd.DataFrame":
    """A row per run; metrics that are not defined are NaN."""
    with Extra("study"):
        import pandas as pd

    return pd.DataFrame([run.row() for run in runs])
