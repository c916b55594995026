"""Timing of jitted functions against each other: interleaved rounds, medians, ratios by pairs.

Machines are noisy and drift. Every round runs each case once, so that all see the same weather,
and a ratio is the median of the rounds' ratios rather than the ratio of two medians.
"""

import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Case:
    """A function to time. It is jitted; ``None`` for ``function`` is a row that could not run."""

    name: str
    function: Callable[..., Any] | None
    args: tuple = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds of one case in every round, and its ratio to the reference in every round."""

    name: str
    note: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def measure(cases: Sequence[Case], rounds: int) -> list[Result]:
    """Times all cases against the first, which is the reference."""
    compiled = [(case, jax.jit(case.function).lower(*case.args).compile()) for case in cases]
    for case, function in compiled:
        jax.block_until_ready(function(*case.args))
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for times, (case, function) in zip(seconds, compiled, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function(*case.args))
            times.append(time.perf_counter() - start)
    return [
        Result(
            case.name,
            case.note,
            tuple(times),
            tuple(t / r for t, r in zip(times, seconds[0], strict=True)),
        )
        for case, times in zip(cases, seconds, strict=True)
    ]


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
    for column in ("", "ms", "min-max", *(["Melem/s"] if elements else []), "ratio", ""):
        table.add_column(column, justify="left" if column == "" else "right")
    for r in results:
        rate = [f"{elements / r.median / 1e6:,.0f}"] if elements else []
        spread = f"{min(r.seconds) * 1e3:.1f}-{max(r.seconds) * 1e3:.1f}"
        table.add_row(r.name, f"{r.median * 1e3:.1f}", spread, *rate, f"{r.ratio:.2f}", r.note)
    Console(width=110).print(table)


def save(path: Path, tables: dict[str, Sequence[Result]]) -> None:
    """Writes all figures as JSON, atomically."""
    content = {
        "machine": machine(),
        "tables": {
            title: [
                {"name": r.name, "median_ms": r.median * 1e3, "ratio": r.ratio, "note": r.note}
                for r in results
            ]
            for title, results in tables.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(content, file, indent=1)
    os.replace(file.name, path)
