"""What a folder of runs is worth keeping for: numbers of each run and test patient, as CSV."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.by_patient import patient_table
from fp4jax.analysis.claims.inside import INSIDE_COLUMNS, INSIDE_TEXT, failure_modes
from fp4jax.analysis.csv_tables import read_csv, write_csv
from fp4jax.analysis.figures.style import ordered_archs, ordered_labels, ordered_scales
from fp4jax.analysis.report.families import families
from fp4jax.analysis.results import KEYS, read_runs
from fp4jax.extras import Extra
from fp4jax.ops.rules import Rules

with Extra("study"):
    import pandas as pd

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

#: Metrics of a patient; the first two are primary, ``missed`` is the only one that is better low.
METRICS = ("auprc", "f2", "recall", "dice", "missed")
_OF_RUN = ["threshold", "best_epoch", "epochs_run", "train_seconds", "val_auprc", "test_auprc"]
_OF_RUN += [f"test_hard_{name}_at_best" for name in ("f2_score", "recall", "dice_patient")]
_OF_RUN += ["test_patients"]
_MADE_WITH = ["revision", "dirty", "jax", "data"]
#: What all runs of a study share, as far as it is collected.
SETTINGS = ["image_size", "epochs", "batch_size", "schedule", "folds", "split_seed"]
#: Of ``runs`` and ``patients`` of :class:`Collected`, in this order.
RUN_COLUMNS = ["run", *KEYS, *SETTINGS, *_OF_RUN, *_MADE_WITH]
PATIENT_COLUMNS = [*KEYS, "patient", "pixels", *METRICS]
_WORDS = ["arch", "scale", "recipe", "method", "split"]
# Table -> its columns, and those of text.
_TABLES = {
    "runs": (RUN_COLUMNS, ["run", *_WORDS, "schedule", *_MADE_WITH]),
    "patients": (PATIENT_COLUMNS, [*_WORDS, "patient"]),
    "inside": (INSIDE_COLUMNS, INSIDE_TEXT),
}


@dataclasses.dataclass(frozen=True)
class Collected:
    """A study as numbers: no images, patients by the ids of the public data set.

    Attributes:
        runs: a row per run: what it is (arch, scale, recipe, method, split, seed), its settings
            (``image_size`` to ``split_seed``), what came of it, and the revision it was made with.
        patients: a row per run and test patient: ``pixels`` of the lesion, and :data:`METRICS`.
        inside: what the runs' diagnoses found,
            :func:`fp4jax.analysis.claims.inside.failure_modes`.
    """

    runs: pd.DataFrame
    patients: pd.DataFrame
    inside: pd.DataFrame

    @classmethod
    def of_folder(cls, folder: Path) -> "Collected":
        """From the finished runs of a folder, as a study leaves it.

        Runs under rules for single layers are left out: they belong to no recipe, and of one keep
        list each fold may have another (``fp4jax keep-lists`` compares these).

        Raises:
            ValueError: no finished run of a recipe, runs that kept no patient's scores, or runs
                that differ in more than a study varies.
        """
        root = folder / "runs" if (folder / "runs").is_dir() else folder
        every = read_runs(root)
        results = [run for run in every if not isinstance(run.config.recipe, Rules)]
        if not results:
            raise ValueError(f"{folder} has runs under rules only; name a study of recipes.")
        groups = families(results)
        if len(groups) > 1:
            raise ValueError(
                f"{folder} holds {len(groups)} groups of runs that differ in data or settings and "
                "cannot be compared; name a folder of one study."
            )
        patients = _patients(results)
        if patients.empty:
            raise ValueError(f"{folder} has no run that kept its patients' scores; train it anew.")
        return cls(_runs(results), patients, ordered(failure_modes(results), *KEYS))

    @classmethod
    def read(cls, folder: Path) -> "Collected":
        """From the CSV files that :meth:`write` left.

        Raises:
            ValueError: there are none, or files of another kind.
        """
        missing = [f"{name}.csv" for name in _TABLES if not (folder / f"{name}.csv").is_file()]
        if missing:
            raise ValueError(
                f"{folder} has no {', '.join(missing)}; name the folder of a study first, to "
                "collect them."
            )
        frames = {}
        for name, (columns, text) in _TABLES.items():
            numbers = [column for column in columns if column not in text]
            frames[name] = read_csv(folder / f"{name}.csv", text, columns, numbers)
            if name != "inside" and frames[name].empty:
                raise ValueError(
                    f"{folder / name}.csv has no rows, only the columns {', '.join(columns)}; name "
                    "the folder of a study first, to collect them."
                )
        return cls(**frames)

    def write(self, folder: Path) -> list[Path]:
        """A CSV file per table; what is the same gives the same bytes."""
        frames = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [write_csv(frame, folder / f"{name}.csv") for name, frame in frames.items()]

    @property
    def scores(self) -> pd.DataFrame:
        """The patients as :func:`fp4jax.analysis.stats.compare_patients` takes them."""
        rows = self.patients
        return rows.assign(label=labels(rows["recipe"], rows["method"]))


def labels(recipes: Any, methods: Any) -> list[str]:
    """What is compared, as :attr:`fp4jax.analysis.results.RunResult.label` has it.

    Example:
        >>> labels(["full", "full"], ["qat", "ptq"])
        ['full', 'ptq full']
    """
    both = zip(recipes, methods, strict=True)
    return [recipe if method == "qat" else f"{method} {recipe}" for recipe, method in both]


def _runs(results: "Sequence[RunResult]") -> pd.DataFrame:
    rows = []
    for run in results:
        config, made = run.config, run.environment or {}
        source = made.get("source") or {}
        settings = {"image_size": getattr(config.data, "image_size", None)}
        settings |= {name: getattr(config, name) for name in SETTINGS[1:]}
        made_with = {
            "revision": source.get("revision", "")[:12],
            "dirty": source.get("dirty"),
            "jax": made.get("packages", {}).get("jax"),
            "data": run.digest[:12],
        }
        rows.append(run.row() | settings | made_with)
    return ordered(pd.DataFrame(rows).reindex(columns=RUN_COLUMNS), *KEYS)


def _patients(results: "Sequence[RunResult]") -> pd.DataFrame:
    table = patient_table(results)
    kind = {run.path.name: (run.config.recipe_name, run.config.method) for run in results}
    both = [kind[run] for run in table["run"]]
    table["recipe"], table["method"] = ([pair[i] for pair in both] for i in (0, 1))
    return ordered(table.reindex(columns=PATIENT_COLUMNS), *KEYS, "patient")


def ordered(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Rows in the order of the report's tables, whatever the folders' names."""
    orders = {"arch": ordered_archs, "scale": ordered_scales, "recipe": ordered_labels}

    def place(column: Any) -> Any:
        order = orders.get(column.name)
        if order is None:
            return column
        return column.map({value: i for i, value in enumerate(order(column))})

    return frame.sort_values(list(keys), key=place, kind="stable", ignore_index=True)
