"""Tables of profiles and of temporary memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hlo_classes import CLASSES
from benchmarks.profile_trace import BETWEEN
from benchmarks.step_profile import Profile

#: Temporary memory of a step over the baseline's, at most.
MEMORY_TARGET = 1.3


def show(title: str, found: Mapping[str, Profile]) -> None:
    """Milliseconds of each class, of which recipe, and what the step took as a whole."""
    table = Table(title=title, title_justify="left")
    table.add_column("ms")
    first, *others = found
    for recipe in found:
        table.add_column(recipe, justify="right")
        table.add_column("%", justify="right")
        table.add_column("cores", justify="right")
    for recipe in others:
        table.add_column(f"{recipe} - {first}", justify="right")
    for name in (*CLASSES, BETWEEN):
        cells = []
        for p in found.values():
            seconds = p.wall.get(name, 0.0)
            cells += [f"{seconds * 1e3:.1f}", f"{seconds / p.traced:.0%}"]
            cells.append(f"{p.cores[name]:.1f}" if name in p.cores else "")
        more = [found[r].wall.get(name, 0.0) - found[first].wall.get(name, 0.0) for r in others]
        table.add_row(name, *cells, *(f"{seconds * 1e3:+.1f}" for seconds in more))
    table.add_section()
    for name, of in TOTALS.items():
        values = [of(p) for p in found.values()]
        cells = [cell for value in values for cell in (_number(value), "", "")]
        ratios = [f"x {value / values[0]:.2f}" if values[0] else "" for value in values[1:]]
        table.add_row(name, *cells, *ratios)
    Console(width=120).print(table)


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


#: What a table says of the step as a whole, after its classes.
TOTALS: dict[str, Callable[[Profile], float]] = {
    "sum of the classes": lambda p: sum(p.wall.values()) * 1e3,
    "step, traced": lambda p: p.traced * 1e3,
    "step, not traced": lambda p: p.usage.wall * 1e3,
    "traced / not": lambda p: p.traced / p.usage.wall,
    "in fusions of several classes": lambda p: p.mixed * 1e3,
    "instructions not in the text": lambda p: p.unknown * 1e3,
    "CPU time": lambda p: p.usage.cpu * 1e3,
    "of it system": lambda p: p.usage.system * 1e3,
    "CPU time of other processes": lambda p: p.usage.others * 1e3,
    "idle cores": lambda p: p.idle * 1e3,
    "page faults": lambda p: p.usage.faults,
    "temporary memory, MB": lambda p: p.temporary / 1e6,
}


def show_top(found: Mapping[str, Profile]) -> None:
    """The instructions that take most time."""
    for recipe, p in found.items():
        table = Table(title=f"{recipe}: longest instructions", title_justify="left")
        for column in ("ms", "cores", "instruction", "where"):
            table.add_column(column, justify="right" if column in ("ms", "cores") else "left")
        for seconds, threads, name, where in p.top:
            table.add_row(f"{seconds * 1e3:.2f}", f"{threads:.1f}", name, where)
        Console(width=160).print(table)


def show_memory(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A row for each network."""
    title = f"temporary memory of a step, MB; target: at most {MEMORY_TARGET} x the first recipe's"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    recipes = [row["name"] for row in next(iter(tables.values()))]
    for recipe in recipes:
        table.add_column(recipe, justify="right")
    for recipe in recipes[1:]:
        table.add_column(f"{recipe}, ratio", justify="right")
    for name, rows in tables.items():
        sizes = [f"{row['temporary MB']:,.1f}" for row in rows]
        table.add_row(name, *sizes, *(f"{row['ratio']:.2f}" for row in rows[1:]))
    Console(width=110).print(table)
