"""What people see of a run on a terminal: a progress bar with the time left, a line per epoch.

Nothing is drawn where standard error is no terminal; the lines are then left out too.
"""

import contextlib
from collections.abc import Iterator
from typing import Any


class Listener:
    """Whom the training loop tells what it does; this one keeps it to itself."""

    def steps(self, done: int) -> None:
        """So many steps were taken."""

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """An epoch of a run ended."""


# Of what an epoch's record has, and its name on the terminal.
_SHOWN = {
    "train_loss": "loss",
    "val_loss": "validation",
    "val_auprc": "AUPRC",
    "val_dice": "Dice",
}


class _Bar(Listener):
    def __init__(self, progress, task):
        self._progress, self._task = progress, task

    def steps(self, done: int) -> None:
        self._progress.advance(self._task, done)

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        values = [f"{name} {record[key]:.3f}" for key, name in _SHOWN.items() if key in record]
        description = f"{run}: epoch {record['epoch']}, {', '.join(values)}"
        self._progress.update(self._task, description=description)


@contextlib.contextmanager
def progress_bar(description: str, steps: int, done: int = 0) -> Iterator[Listener]:
    """A listener for ``fp4jax.train.loop.Fit`` that draws ``done`` of ``steps`` steps."""
    try:
        from rich import console, progress
    except ImportError:
        yield Listener()
        return
    terminal = console.Console(stderr=True)
    if not terminal.is_terminal:
        yield Listener()
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=terminal, transient=True) as bar:
        yield _Bar(bar, bar.add_task(description, total=steps, completed=done))
