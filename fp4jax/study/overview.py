"""Overview: a live table of a study, made of its folders alone."""

import collections
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fp4jax.extras import Extra
from fp4jax.study.seen import Run, Seen, left
from fp4jax.train.curves import Curves

#: Seconds between two looks, at least; a slow folder is looked at for a tenth of the time.
EVERY = 2.0
_SHARE = 10
# Rows of running runs.
_SHOWN = 24


def watch(out: Path, name: str) -> Sequence[Run]:
    """Shows how far a study is until nothing is open, or Ctrl-C; not on a terminal, once.

    Args:
        out: folder of the study, on any machine that sees it.
        name: of the study.

    Returns:
        Its runs as they were seen last.

    Raises:
        ValueError: there is no such study there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     watch(Path(out), "demo")
        Traceback (most recent call last):
        ...
        ValueError: ... holds no study 'demo' yet; start it, or set out, the folder that it is in.
    """
    with Extra("study"):
        from rich.console import Console
        from rich.live import Live

    seen = Seen(out, name)
    if not seen.look():
        raise ValueError(
            f"{out} holds no study {name!r} yet; start it, or set out, the folder that it is in."
        )
    terminal = Console()
    if not terminal.is_terminal:
        # Written to a file, the table must not be cut to 80 columns.
        Console(width=160).print(table(seen))
        return seen.runs
    with contextlib.suppress(KeyboardInterrupt), Live(table(seen), console=terminal) as live:
        while not all(run.is_over for run in seen.runs):
            _look(seen)
            live.update(table(seen))
    return seen.runs


@contextlib.contextmanager
def shown(out: Path, name: str) -> Iterator[None]:
    """The live table on a terminal while the block executes the study, by whatever engine."""
    with Extra("study"):
        from rich.console import Console
        from rich.live import Live

    seen = Seen(out, name)
    # Live asks often, from a thread of its own.
    due = 0.0

    def current() -> Any:
        nonlocal due
        if time.monotonic() >= due:
            began = time.monotonic()
            seen.look()
            due = began + max(EVERY, _SHARE * (time.monotonic() - began))
        return table(seen)

    with Live(get_renderable=current, console=Console(stderr=True), refresh_per_second=1):
        yield


def table(seen: Seen) -> Any:
    """What there is to see, for rich: a row per group, and two per run that is being trained."""
    with Extra("study"):
        from rich.console import Group
        from rich.table import Table

    groups = Table(title=_title(seen), title_justify="left")
    for column in ("group", "finished", "running", "open", "failed", "test score"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    by_group: dict[str, list[Run]] = {}
    for run in seen.runs:
        by_group.setdefault(run.group, []).append(run)
    for name, runs in by_group.items():
        groups.add_row(name, *_counts(runs), _mean(runs))
    running = [run for run in seen.runs if run.status.owner is not None]
    if not running:
        return groups
    one = Table()
    for column in ("running", "split, seed", "host", "process", "epoch", "left at most"):
        one.add_column(column)
    for run in running[:_SHOWN]:
        one.add_row(*_row(run))
    if len(running) > _SHOWN:
        one.add_row(f"and {len(running) - _SHOWN} more")
    curves = Curves()
    for run in running[:_SHOWN]:
        curves.starts(None, seen.out / "runs" / run.name)
    return Group(groups, one, curves)


def duration(seconds: float | None) -> str:
    """Seconds in words.

    Example:
        >>> duration(59.0), duration(3700.0), duration(None)
        ('59 s', '1 h 02 min', '?')
    """
    if seconds is None:
        return "?"
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _look(seen: Seen) -> None:
    """Waits, then looks."""
    time.sleep(EVERY)
    began = time.monotonic()
    seen.look()
    spent = time.monotonic() - began
    time.sleep(max(0.0, (_SHARE - 1) * spent - EVERY))


def _title(seen: Seen) -> str:
    over = sum(run.is_over for run in seen.runs)
    to_go = "" if over == len(seen.runs) else f", {duration(left(seen.runs))} to go"
    return f"{seen.name}: {over} of {len(seen.runs)} runs are over{to_go}"


def _counts(runs: Sequence[Run]) -> Iterator[str]:
    counts = collections.Counter(run.status.state for run in runs)
    counts["open"] = counts["new"] + counts["interrupted"]
    yield f"{counts['finished']}/{len(runs)}"
    for state in ("running", "open", "failed"):
        yield str(counts[state] or "")


def _mean(runs: Sequence[Run]) -> str:
    scores = [run.score for run in runs if run.score is not None]
    return f"{sum(scores) / len(scores):.3f}" if scores else ""


def _row(run: Run) -> tuple[str, ...]:
    status = run.status
    owner: Any = status.owner
    epoch = f"{status.epoch}/{status.epochs or '?'}"
    return run.group, run.part, owner.host, str(owner.pid), epoch, duration(status.left)
