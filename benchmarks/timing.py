"""Timing of jitted functions against each other: interleaved rounds, medians, ratios by pairs.

Machines are noisy and drift. Every round times each case once, so that all see the same weather,
and a ratio is the median of the rounds' ratios rather than the ratio of two medians. A case's turn
begins with a call that is not timed: it pays for what the case before left in caches, and for
memory that the system took back meanwhile (a virtual machine's host takes it, too, and then the
first step of 400 ms took 1,200).
"""

import dataclasses
import functools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from fp4jax.files import replacing


@dataclasses.dataclass(frozen=True)
class Case:
    """A function to time. It is jitted."""

    name: str
    function: Callable[..., Any]
    args: tuple = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """Something to time that is ready to go; arrays that ``call()`` returns are waited for."""

    name: str
    call: Callable[[], Any]
    note: str = ""
    # what one call counts for; seconds are per step
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds of one case in every round, and its ratio to the reference in every round.

    Both are empty, and the medians NaN, for a row that could not run; ``note`` says why.
    """

    name: str
    note: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    # further columns of the table
    more: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds or (math.nan,))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios or (math.nan,))


def measure(cases: Sequence[Case], rounds: int) -> list[Result]:
    """Times all cases against the first, which is the reference."""
    runs = []
    for case in cases:
        function = jax.jit(case.function).lower(*case.args).compile()
        call = functools.partial(
            lambda f, args: jax.block_until_ready(f(*args)), function, case.args
        )
        runs.append(Run(case.name, call, case.note))
    return alternate(runs, rounds)


def alternate(runs: Sequence[Run], rounds: int, pause: float = 0.0) -> list[Result]:
    """Times what is compiled already against the first, ``pause`` seconds after its last call."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(seconds, runs, strict=True):
            jax.block_until_ready(run.call())
            time.sleep(pause)
            start = time.perf_counter()
            jax.block_until_ready(run.call())
            times.append((time.perf_counter() - start) / run.steps)
    return [
        Result(
            run.name,
            run.note,
            tuple(times),
            tuple(t / r for t, r in zip(times, seconds[0], strict=True)),
        )
        for run, times in zip(runs, seconds, strict=True)
    ]


def compile_all(todo: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of some functions that compile returns; they run at once, in threads."""
    with ThreadPoolExecutor(max(len(todo), 1)) as pool:
        return list(pool.map(lambda compile_one: compile_one(), todo))


def in_flight(call: Callable[[], Any], times: int) -> Callable[[], Any]:
    """``call`` several times without waiting in between, so that a GPU hides how calls are made."""
    return lambda: [call() for _ in range(times)]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else _processor()
    return {
        "device": kind,
        "cores": str(os.cpu_count()),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def show(title: str, results: Sequence[Result], elements: int | None = None) -> None:
    """Prints a table: median time, spread, ratio to the first row."""
    table = Table(title=title, title_justify="left")
    more = list(dict.fromkeys(column for r in results for column in r.more))
    for column in ("", "ms", "min-max", *(["Melem/s"] if elements else []), *more, "ratio", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for r in results:
        if not r.seconds:
            table.add_row(r.name, *[""] * (len(table.columns) - 2), r.note)
            continue
        rate = [f"{elements / r.median / 1e6:,.0f}"] if elements else []
        spread = f"{min(r.seconds) * 1e3:.1f}-{max(r.seconds) * 1e3:.1f}"
        further = [f"{r.more[column]:,.1f}" if column in r.more else "" for column in more]
        numbers = (f"{r.median * 1e3:.1f}", spread, *rate, *further, f"{r.ratio:.2f}")
        table.add_row(r.name, *numbers, r.note)
    Console(width=110).print(table)


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A table's figures, to be written as JSON."""
    return [
        {
            "name": r.name,
            "median_ms": r.median * 1e3 if r.seconds else None,
            "ratio": r.ratio if r.seconds else None,
            "note": r.note,
            **r.more,
        }
        for r in results
    ]


def save(
    path: Path, tables: Mapping[str, Sequence[Result]], about: Mapping[str, str] | None = None
) -> None:
    """Writes all figures as JSON, atomically; ``about`` if more is to be said than usual."""
    write_json(
        path,
        {
            "machine": dict(about or machine()),
            "tables": {title: rows(results) for title, results in tables.items()},
        },
    )


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
