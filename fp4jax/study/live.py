"""What people see of a study while it runs: a table that fills; without a terminal, lines."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.study.plan import Study
from fp4jax.train.config import RunConfig
from fp4jax.train.console import Lines
from fp4jax.train.curves import Curves
from fp4jax.train.listeners import Listener, Listeners

Kind = tuple[str, str, str, str]

# Of an epoch's record, the first one that is there.
_SHOWN = (("val_auprc", "AUPRC"), ("val_dice", "Dice"), ("val_loss", "loss"))


def _kind(run: RunConfig) -> Kind:
    return run.arch, run.scale, run.recipe_name, run.method


class Table(Listener):
    """A row per group of runs, how many are done, and charts of those that are being trained.

    Args:
        study: is executed.
        line: is called with a line of text when a run ends; None if the table itself is shown.
    """

    def __init__(self, study: Study, line: Callable[[str], None] | None = None):
        groups = study.groups()
        self._total = {_kind(group[0]): len(group) for group in groups}
        self._scores: dict[Kind, dict[str, float | None]] = {kind: {} for kind in self._total}
        self._running: dict[Kind, str] = {}
        self._line, self._began = line, time.monotonic()
        self._curves = Curves(study.epochs)
        self._trained = 0

    def begins(self, runs: Sequence[RunConfig]) -> None:
        several = f", {len(runs)} side by side" if len(runs) > 1 else ""
        self._running = {_kind(runs[0]): f"{runs[0].split} seed {runs[0].seed}{several}"}

    def starts(self, run: RunConfig, folder: Path) -> None:
        self._curves.starts(run, folder)

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        self._curves.epoch(run, record)
        shown = [f", validation {what} {record[key]:.3f}" for key, what in _SHOWN if key in record]
        for kind, text in self._running.items():
            start = text.split(":")[0]
            self._running[kind] = f"{start}: epoch {record['epoch']}{''.join(shown[:1])}"

    def ended(self, run: RunConfig, summary: dict[str, Any] | None, folder: Path) -> None:
        self._curves.ended(run, summary, folder)
        if _kind(run) not in self._total:
            return  # a baseline that the study needs and does not compare
        value = summary["test"].get("auprc") if summary else None
        self._scores[_kind(run)][f"{run.split}/{run.seed}"] = value
        was_running = self._running.pop(_kind(run), None) is not None
        self._trained += was_running
        if self._line and was_running:
            name = " ".join(part for part in _kind(run) if part != "qat")
            result = "failed" if summary is None else f"test AUPRC {value or float('nan'):.3f}"
            done = sum(map(len, self._scores.values()))
            self._line(
                f"[{done}/{sum(self._total.values())}, {self._left()}] {name} {run.split} "
                f"seed {run.seed}: {result}"
            )

    def _left(self) -> str:
        """Time to go if the runs to come take as long as those of this call."""
        open_ = sum(self._total.values()) - sum(map(len, self._scores.values()))
        spent = time.monotonic() - self._began
        minutes = spent / max(self._trained, 1) * open_ / 60
        return f"{minutes:.0f} min to go" if self._trained else f"{open_} runs to go"

    def __rich__(self):
        with Extra("study"):
            from rich.console import Group
            from rich.table import Table as RichTable

        table = RichTable(title=f"study: {self._left()}")
        for name in ("arch", "scale", "recipe", "method", "done", "test AUPRC", "running"):
            table.add_column(name)
        for kind, total in self._total.items():
            values = self._scores[kind].values()
            good = [value for value in values if value is not None]
            failed = f", {len(values) - len(good)} failed" if len(good) < len(values) else ""
            mean = f"{sum(good) / len(good):.3f}" if good else ""
            done = f"{len(good)}/{total}{failed}"
            table.add_row(*kind, done, mean, self._running.get(kind, ""))
        return Group(table, self._curves)


@contextlib.contextmanager
def watching(study: Study) -> Iterator[Listener]:
    """A listener for :func:`fp4jax.study.execute`."""
    with Extra("study"):
        from rich.console import Console
        from rich.live import Live

    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield Listeners(
            [Table(study, line=lambda text: print(text, flush=True)), Lines(study.epochs)]
        )
        return
    table = Table(study)
    with Live(get_renderable=table.__rich__, console=terminal, refresh_per_second=2):
        yield table
