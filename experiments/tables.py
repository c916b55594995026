"""Tables of runs on the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

# column, where it lies in a summary, format
_COLUMNS = (
    ("AUPRC", "auprc"),
    ("recall", "hard_recall_at_best"),
    ("F2", "hard_f2_score_at_best"),
    ("Dice", "hard_dice_patient_at_best"),
)


def print_runs(summaries: Iterable[dict[str, Any] | None]) -> None:
    """One row per finished run: held-out patients, at the threshold chosen on validation."""
    table = Table(title="test patients; recall, F2 and Dice at the validation's best threshold")
    for name in ("arch", "scale", "recipe", "seed", "epoch"):
        table.add_column(name)
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("seconds", justify="right")
    for summary in summaries:
        if summary:
            table.add_row(
                *(str(summary[k]) for k in ("arch", "scale", "recipe", "seed", "best_epoch")),
                *(_number(summary["test"][key]) for _, key in _COLUMNS),
                f"{summary['train_seconds']:.0f}",
            )
    Console().print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
