"""Curves: small charts of the runs that are being trained, made of block characters."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.train.folder import RunFolder
from fp4jax.train.listeners import Listener

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"
#: Characters of a chart.
WIDTH = 24
# Rows; more would not fit a terminal.
_MOST = 12
# Columns of a chart's number, and of the epoch's.
_NUMBER, _EPOCH = 14, 16
# Of an epoch's record: what is charted, each the first that is there, by its name for people.
_CHARTS = (
    {"train_loss": "loss"},
    {"val_auprc": "AUPRC", "val_dice": "Dice", "val_loss": "validation"},
)


def sparkline(values: Sequence[float | None], width: int = WIDTH, ascii_only: bool = False) -> str:
    """A chart of one line: the lowest value at the bottom, the highest at the top.

    Of more values than characters each character is the mean of some; one that is not finite, or
    is None, is a blank.

    Example:
        >>> sparkline([1.0, 2.0, 3.0, None, 8.0])
        '▁▂▃ █'
        >>> sparkline([0.0] * 50 + [1.0] * 50, width=4), sparkline([]), sparkline([2.0, 2.0])
        ('▁▁██', '', '▁▁')
    """
    count = min(width, len(values))
    edges = [len(values) * i // max(count, 1) for i in range(count + 1)]
    means = [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]
    known = [value for value in means if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    ramp = _ASCII if ascii_only else _BLOCKS
    scale = (len(ramp) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if v is None else ramp[round((v - low) * scale)] for v in means)


def charts(
    records: Sequence[dict[str, Any]], width: int = WIDTH, ascii_only: bool = False
) -> Iterator[str]:
    """Of a history a chart of the loss and one of the score, each with its last value.

    Example:
        >>> list(charts([{"train_loss": 0.9}, {"train_loss": 0.4, "val_auprc": 0.7}]))
        ['loss 0.400 █▁', 'AUPRC 0.700  ▁']
    """
    for names in _CHARTS:
        key = next((key for key in names if any(key in record for record in records)), None)
        if key is None:
            yield ""
            continue
        values = [record.get(key) for record in records]
        last = next((v for v in reversed(values) if v is not None), math.nan)
        yield f"{names[key]} {last:.3f} {sparkline(values, width, ascii_only)}"


class Curves(Listener):
    """Of each run that is being trained a row for rich: name, epoch, loss and score so far.

    Args:
        epochs: of the runs, if it is to be shown.

    Example:
        >>> curves = Curves()
        >>> curves.epoch("cnn_4m", {"epoch": 1, "train_loss": 0.9})
        >>> list(curves.runs)
        ['cnn_4m']
    """

    def __init__(self, epochs: int | None = None):
        self._epochs = epochs
        self.runs: dict[str, list[dict[str, Any]]] = {}

    def starts(self, run: Any, folder: Path) -> None:
        """Begins with the epochs before."""
        self.runs[folder.name] = RunFolder(folder).history()

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """A further point."""
        self.runs.setdefault(run, []).append(record)

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """Takes its row away."""
        self.runs.pop(folder.name, None)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        with Extra("study"):
            from rich.table import Table

        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        # Half of a row is for the charts, with their numbers.
        width = min(max(options.max_width // 4 - _NUMBER, 4), WIDTH)
        room = max(options.max_width - 2 * (width + _NUMBER) - _EPOCH, 8)
        # A copy: rich asks from a thread of its own.
        shown = [(name, list(records)) for name, records in list(self.runs.items()) if records]
        of = f"/{self._epochs}" if self._epochs else ""
        for name, records in shown[:_MOST]:
            row = charts(records, width, options.ascii_only)
            table.add_row(_short(name, room), f"epoch {records[-1]['epoch']}{of}", *row)
        if len(shown) > _MOST:
            table.add_row(f"and {len(shown) - _MOST} more")
        yield table


def _short(name: str, room: int) -> str:
    """A run's id without the hash at its end, and of what is too long the end: the seed."""
    name = name.rpartition("_")[0] or name
    return name if len(name) <= room else "…" + name[1 - room :]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
