"""Finished runs as data: a table with a row per run, and what each run's folder holds."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fp4jax.extras import Extra
from fp4jax.files import read_json
from fp4jax.metrics import Histogram
from fp4jax.train.config import RunConfig, from_json
from fp4jax.train.folder import RunFolder
from fp4jax.train.patients import Examples, read_examples, read_scores

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
            validation patients.
    """

    path: Path
    config: RunConfig
    summary: dict[str, Any]

    @property
    def label(self) -> str:
        """What is compared: the recipe, with the method in front where it is not QAT."""
        method = self.config.method
        return self.config.recipe if method == "qat" else f"{method} {self.config.recipe}"

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
        summary = self.summary
        keys: dict[str, Any] = {"run": self.path.name, "label": self.label}
        keys |= {key: getattr(self.config, key) for key in KEYS}
        other = ("threshold", "best_epoch", "epochs_run", "train_seconds", "lanes", "device")
        metrics = {f"{p}_{k}": v for p in ("val", "test") for k, v in summary[p].items()}
        return keys | {key: summary[key] for key in other} | metrics


def read_run(path: Path) -> RunResult | None:
    """The run in that folder, None if it is not finished."""
    config, summary = read_json(path / "config.json"), RunFolder(path).summary()
    if config is None or summary is None:
        return None
    return RunResult(path, from_json(config), summary)


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


def table(runs: Iterable[RunResult]) -> "pd.DataFrame":
    """A row per run; metrics that are not defined are NaN."""
    with Extra("study"):
        import pandas as pd

    return pd.DataFrame([run.row() for run in runs])
