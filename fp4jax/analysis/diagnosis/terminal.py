"""The diagnosis on the terminal: the worst layers of each product, attention and gradients."""

from collections.abc import Iterable, Sequence

from fp4jax.analysis.diagnosis.products import PRODUCTS
from fp4jax.analysis.diagnosis.table import REFERENCE, Row, worst
from fp4jax.extras import Extra

_SHORT = {"noise_to_signal": "noise/signal", "backward_noise_to_signal": "noise/signal, backward"}


def print_worst(rows: Sequence[Row]) -> None:
    """One line per state and recipe and, below, per product: the layers with the largest error."""
    with Extra("study"):
        from rich.console import Console
        from rich.table import Table

    table = Table(title="the three layers that a recipe hurts most")
    for name in ("state", "recipe", "of", "quantity", "worst", "second", "third"):
        table.add_column(name)
    table.add_column("all", justify="right")
    for state in dict.fromkeys(row["state"] for row in rows):
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            own = [row for row in rows if (row["state"], row["recipe"]) == (state, recipe)]
            for line in _lines(own, recipe):
                table.add_row(state, recipe, *line)
    # Written to a file, the table must not be cut to 80 columns.
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)


def _lines(rows: Sequence[Row], recipe: str) -> Iterable[tuple[str, ...]]:
    """(of, quantity, three layers, all) for what was measured."""
    wanted = [(product, "relative_error") for product in PRODUCTS]
    wanted += [("attention", "shift"), ("probabilities", "shift")]
    wanted += [("gradient", "noise_to_signal")]
    wanted += [("gradient", "backward_noise_to_signal")]
    if recipe == REFERENCE:
        wanted = [("gradient", "minibatch")]
    for of, quantity in wanted:
        found = worst(rows, quantity, of, 3)
        if not found or not found[0]["value"]:
            continue
        cells = [f"{row['layer']} {row['value']:.3g}" for row in found]
        total = [r for r in rows if (r["layer"], r["quantity"]) == ("total", quantity)]
        yield (
            of,
            _SHORT.get(quantity, quantity).replace("_", " "),
            *[*cells, "", ""][:3],
            f"{total[0]['value']:.3g}" if total else "",
        )
