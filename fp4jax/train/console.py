"""What people see of a run: a progress bar on a terminal, elsewhere a line of text per epoch."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from fp4jax.train.curves import Curves
from fp4jax.train.listeners import Listener, Listeners

# Of what an epoch's record has, and its name for people.
_SHOWN = {
    "train_loss": "loss",
    "val_loss": "validation",
    "val_auprc": "AUPRC",
    "val_dice": "Dice",
}

# Drawings of a terminal.
_PER_SECOND = 4


def epoch_line(run: str, record: dict[str, Any], epochs: int | None = None) -> str:
    """An epoch in one line.

    Example:
        >>> epoch_line("cnn_4m", {"epoch": 3, "train_loss": 0.4124, "val_auprc": 0.71}, epochs=20)
        'cnn_4m: epoch 3/20, loss 0.412, AUPRC 0.710'
    """
    of = f"/{epochs}" if epochs else ""
    values = [f"{name} {record[key]:.3f}" for key, name in _SHOWN.items() if key in record]
    return ", ".join([f"{run}: epoch {record['epoch']}{of}", *values])


class Lines(Listener):
    """Prints a line for each epoch to standard error: for logs of jobs without a terminal.

    Args:
        epochs: of the runs, if it is to be shown.
    """

    def __init__(self, epochs: int | None = None):
        self._epochs, self._began = epochs, time.monotonic()

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """Prints it, with the seconds since the last line."""
        now = time.monotonic()
        seconds, self._began = record.get("seconds", now - self._began), now
        line = epoch_line(run, record, self._epochs)
        print(f"{line}, {seconds:.0f} s", file=sys.stderr, flush=True)


class _Bar(Listener):
    def __init__(self, progress, task):
        self._progress, self._task = progress, task

    def steps(self, done: int) -> None:
        self._progress.advance(self._task, done)


@contextlib.contextmanager
def progress_bar(
    description: str, steps: int, done: int = 0, epochs: int | None = None
) -> Iterator[Listener]:
    """A listener that draws a bar, and a row of charts per run; :class:`Lines` where it cannot.

    Args:
        description: of what is trained.
        steps: that there will be.
        done: of them, by an earlier call.
        epochs: of the run, to be shown beside the epoch's number.
    """
    try:
        from rich import console, live, progress
    except ImportError:
        yield Lines(epochs)
        return
    terminal = console.Console(stderr=True)
    if not terminal.is_terminal:
        yield Lines(epochs)
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=terminal)
    task = bar.add_task(description, total=steps, completed=done)
    curves = Curves(epochs)
    shown = console.Group(bar, curves)
    # The live display alone draws, so that bar and charts are one picture.
    with live.Live(shown, console=terminal, transient=True, refresh_per_second=_PER_SECOND):
        yield Listeners([_Bar(bar, task), curves])
