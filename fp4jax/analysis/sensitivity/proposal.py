"""What to keep in high precision for a budget, in words and as a recipe of a run."""

import dataclasses
import json
from pathlib import Path

from fp4jax.files import replacing
from fp4jax.nnx import SensitivityRow, SensitivityTable, keep_list
from fp4jax.nnx.sensitivities.table import exactly
from fp4jax.ops.rules import Rules


@dataclasses.dataclass(frozen=True)
class Proposal:
    """The layers that a budget leaves in high precision; ``str(proposal)`` says it in two lines.

    Attributes:
        table: that it was made from.
        budget: share of the layers' multiply-adds to run in FP4.
        keep: patterns, of :func:`fp4jax.nnx.keep_list`.
    """

    table: SensitivityTable
    budget: float
    keep: tuple[str, ...]

    @property
    def rules(self) -> Rules:
        """As the recipe of a run."""
        return self.table.rules(self.keep)

    @property
    def quantized(self) -> tuple[SensitivityRow, ...]:
        """The layers that stay in FP4."""
        return tuple(row for row in self.table.layers if exactly(row.layer) not in self.keep)

    def __str__(self) -> str:
        table, amount = self.table, sum(row.multiply_adds for row in self.quantized)
        of_layers = amount / sum(row.multiply_adds for row in table.layers)
        cost, all_cost = (sum(map(table.cost, rows)) for rows in (self.quantized, table.layers))
        kept = [row.layer for row in table.layers if exactly(row.layer) in self.keep]
        return (
            f"{table.recipe.name} with {of_layers:.1%} of the layers' multiply-adds in FP4 "
            f"({amount / table.multiply_adds:.1%} of all), {table.metric} {cost:.3g} of "
            f"{all_cost:.3g}\nkeep in high precision: {', '.join(kept) or 'nothing'}"
        )

    def write(self, folder: Path) -> Path:
        """Writes the rules as JSON, for ``--recipe @FILE``; replaces the file.

        Returns:
            Its path, ``rules_<recipe>_<budget>.json``.
        """
        path = folder / f"rules_{label(self.table)}_{self.budget:g}.json"
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.rules.to_json(), indent=2) + "\n")
        return path


def label(table: SensitivityTable) -> str:
    """What files call a table: its recipe, and that of attention if there is one.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> row = SensitivityRow("stem", "all", 10, 5.0)
        >>> label(SensitivityTable((row,), row, get_recipe("2d+rht"), "kl", {}, 10))
        '2d-rht'
    """
    attention = "" if table.attention is None else f"_{table.attention.name}"
    return f"{table.recipe.name}{attention}".replace("+", "-")


def propose(table: SensitivityTable, budget: float) -> Proposal:
    """The proposal for a budget, see :func:`fp4jax.nnx.keep_list`.

    Example:
        >>> from fp4jax.ops.recipe import get_recipe
        >>> rows = [("stem", 10, 5.0), ("body", 80, 1.0), ("head", 10, 9.0)]
        >>> rows = tuple(SensitivityRow(n, "all", macs, kl) for n, macs, kl in rows)
        >>> table = SensitivityTable(rows, rows[0], get_recipe("full"), "kl", {}, 125)
        >>> print(propose(table, 0.9))
        full with 90.0% of the layers' multiply-adds in FP4 (72.0% of all), kl 6 of 15
        keep in high precision: head
    """
    return Proposal(table, budget, keep_list(table, budget))
