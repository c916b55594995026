"""Tables of runs, on the terminal and as CSV."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fp4jax.files import replacing

# column, where it lies in a summary's metrics
_COLUMNS = (
    ("AUPRC", "auprc"),
    ("recall", "hard_recall_at_best"),
    ("F2", "hard_f2_score_at_best"),
    ("Dice", "hard_dice_patient_at_best"),
)
_KEYS = ("arch", "scale", "recipe", "split", "seed", "best_epoch")


def print_runs(summaries: Iterable[dict[str, Any]]) -> None:
    """One row per finished run."""
    table = Table(title="test patients; recall, F2 and Dice at the validation's best threshold")
    for name in _KEYS:
        table.add_column(name.replace("_", " "))
    for name in (*(name for name, _ in _COLUMNS), "seconds"):
        table.add_column(name, justify="right")
    for summary in summaries:
        metrics = (summary["test"][key] for _, key in _COLUMNS)
        table.add_row(
            *(_shown(summary, key) for key in _KEYS),
            *("-" if value is None else f"{value:.3f}" for value in metrics),
            f"{summary['train_seconds']:.0f}",
        )
    # Written to a file, the table must not be cut to 80 columns.
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def _shown(summary: dict[str, Any], key: str) -> str:
    """The method goes with the recipe, where it is not QAT."""
    method = summary["method"]
    named = key == "recipe" and method != "qat"
    return f"{method} {summary[key]}" if named else str(summary[key])


def write_runs(summaries: Iterable[dict[str, Any]], path: Path) -> None:
    """All metrics of all runs as CSV, ``val_`` and ``test_`` in front; replaces the file."""
    rows = [
        {key: summary[key] for key in (*_KEYS, "threshold", "train_seconds", "device")}
        | {f"{part}_{k}": v for part in ("val", "test") for k, v in summary[part].items()}
        for summary in summaries
    ]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
