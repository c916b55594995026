"""The result of a sensitivity analysis: what each layer costs if it alone is quantized."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fp4jax.files import finite, read_json, replacing, write_json
from fp4jax.ops.attention_given import ATTENTION_ROLES
from fp4jax.ops.attention_recipe import AttentionRecipe, get_attention_recipe
from fp4jax.ops.recipe import ROLES, Recipe, get_recipe
from fp4jax.ops.rules import Rules, name_or_value

#: All operands of a layer at once.
ALL = "all"
#: In place of a layer's path: all layers at once.
EVERYTHING = "(all layers)"
MEASURES = ("kl", "loss", "gradient", "cosine", "score")


@dataclasses.dataclass(frozen=True)
class SensitivityRow:
    """What it costs to quantize one layer, or one of its operands, and nothing else.

    Attributes:
        layer: dotted path; "(model)" for a model that is one layer.
        operand: "all", or a role: fprop.x, fprop.w, dgrad.g, dgrad.w, wgrad.x, wgrad.g; of an
            attention one of its two products', "qk.fprop.x" to "pv.wgrad.g".
        multiply_adds: of the layer in the forward pass.
        kl: KL divergence of the outputs' probabilities from the float model's, nats per position.
        loss: change of the loss; None without a loss.
        gradient: |g_q - g| / |g| of the gradient of all parameters; None without a loss.
        cosine: of both gradients; None without a loss.
        score: how much the score falls; None without one.

    Raises:
        ValueError: another operand.

    Example:
        >>> SensitivityRow("stem", "fprop.x", multiply_adds=1000, kl=0.25).kl
        0.25
    """

    layer: str
    operand: str
    multiply_adds: int
    kl: float
    loss: float | None = None
    gradient: float | None = None
    cosine: float | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if self.operand not in (allowed := (ALL, *ROLES, *ATTENTION_ROLES)):
            raise ValueError(f"operand is {self.operand!r}; allowed: {', '.join(allowed)}.")


@dataclasses.dataclass(frozen=True)
class SensitivityTable:
    """What quantizing each layer alone costs; ``str(table)`` is a table of the layers.

    Attributes:
        rows: of layers in the order of the forward pass, each followed by those of its operands.
        together: all layers quantized at once, which single layers' costs need not add up to.
        recipe: by which they were quantized.
        metric: what :meth:`cost` reads: kl, loss, gradient or score.
        reference: loss and score of the float model, where they were measured.
        multiply_adds: of the whole model's forward pass, products without a layer included.
        kept: paths of the layers that were not to be quantized.
        attention: by which the products inside attention were quantized; None: they were not.

    Example:
        >>> rows = SensitivityRow("stem", "all", 90, 0.5), SensitivityRow("head", "all", 10, 0.25)
        >>> together = SensitivityRow(EVERYTHING, "all", 100, 0.75)
        >>> table = SensitivityTable(rows, together, get_recipe("full"), "kl", {}, 100)
        >>> print(table)
        layer         multiply-adds    kl
        stem             90 (90.0%)   0.5
        head             10 (10.0%)  0.25
        (all layers)   100 (100.0%)  0.75
        each layer alone under full
        >>> table.rules(("head$",)).of("head") is None
        True
    """

    rows: tuple[SensitivityRow, ...]
    together: SensitivityRow
    recipe: Recipe
    metric: str
    reference: dict[str, float]
    multiply_adds: int
    kept: tuple[str, ...] = ()
    attention: AttentionRecipe | None = None

    @property
    def layers(self) -> tuple[SensitivityRow, ...]:
        """The rows of whole layers."""
        return tuple(row for row in self.rows if row.operand == ALL)

    def cost(self, row: SensitivityRow) -> float:
        """The row's value of the metric; at least 0, for a layer that does better quantized.

        Raises:
            ValueError: it was not measured.
        """
        value = getattr(row, self.metric, None)
        if value is None:
            raise ValueError(
                f"the table has no {self.metric}; measure it, or take another metric of "
                f"{', '.join(m for m in MEASURES if getattr(row, m) is not None)}."
            )
        return max(float(value), 0.0)

    def rules(self, keep: Sequence[str]) -> Rules:
        """The recipe for all layers but those that some pattern of ``keep`` matches.

        Args:
            keep: regular expressions of paths, as :func:`fp4jax.nnx.keep_list` returns them.

        Returns:
            Rules, for :func:`fp4jax.nnx.apply_recipe` and as the recipe of a run.
        """
        high = [*keep, *map(exactly, self.kept)]
        rules: list[tuple[str, Any]] = [(pattern, None) for pattern in high]
        if self.attention is not None:
            rules.append((r"(.*\.)?attention$", self.attention))
        return Rules.make([*rules, (".*", self.recipe)])

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it; :meth:`from_json` is the inverse."""
        record = dataclasses.asdict(self)
        named = name_or_value(self.recipe)
        record["recipe"] = named if isinstance(named, str) else named.to_json()
        if self.attention is None:
            # As tables were before there were any.
            del record["attention"]
        else:
            known = name_or_value(self.attention)
            record["attention"] = known if isinstance(known, str) else known.to_json()
        return json.loads(json.dumps(finite(record)))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "SensitivityTable":
        """The table that :meth:`to_json` wrote."""
        rows = tuple(SensitivityRow(**row) for row in record["rows"])
        changed = {
            "rows": rows,
            "together": SensitivityRow(**record["together"]),
            "recipe": get_recipe(record["recipe"]),
            "kept": tuple(record["kept"]),
        }
        if record.get("attention") is not None:
            changed["attention"] = get_attention_recipe(record["attention"])
        return cls(**{**record, **changed})

    def write(self, path: Path) -> None:
        """Writes a file: ``.json`` for :meth:`read`, ``.csv`` for a spreadsheet; replaces it.

        Raises:
            ValueError: another ending.
        """
        writers: dict[str, Callable[[], None]] = {
            ".json": lambda: write_json(path, self.to_json()),
            ".csv": lambda: _write_text(path, self.to_csv()),
        }
        if path.suffix not in writers:
            raise ValueError(f"{path} is neither .csv nor .json; give a name that ends so.")
        writers[path.suffix]()

    @classmethod
    def read(cls, path: Path) -> "SensitivityTable":
        """The table in a JSON file that :meth:`write` wrote.

        Raises:
            ValueError: there is no such file.
        """
        record = read_json(path)
        if record is None:
            raise ValueError(f"there is no file {path}; give the JSON of a sensitivity table.")
        return cls.from_json(record)

    def to_csv(self) -> str:
        """A line for each row, that of all layers last."""
        names = [field.name for field in dataclasses.fields(SensitivityRow)]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows([getattr(r, name) for name in names] for r in (*self.rows, self.together))
        return text.getvalue()

    def __str__(self) -> str:
        measured = [m for m in MEASURES if getattr(self.together, m) is not None]
        lines = [("layer", "multiply-adds", *measured)]
        for row in (*self.layers, self.together):
            share = row.multiply_adds / max(self.multiply_adds, 1)
            amount = f"{row.multiply_adds:,} ({share:.1%})"
            lines.append((row.layer, amount, *(f"{getattr(row, m):.3g}" for m in measured)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        reference = ", ".join(f"{name} {value:.4g}" for name, value in self.reference.items())
        about = f"each layer alone under {self.recipe.name}"
        if self.attention is not None:
            about = f"{about}, each attention under {self.attention.name}"
        return "\n".join([*text, f"{about}; float model: {reference}" if reference else about])


def exactly(path: str) -> str:
    """The pattern that matches one path alone.

    Example:
        >>> exactly("layers.1")
        'layers\\\\.1$'
    """
    return f"{re.escape('' if path == '(model)' else path)}$"


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, newline="")
