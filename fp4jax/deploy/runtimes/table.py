"""target_table: what a runtime executes for each layer of a model, and the multiply-adds."""

import csv
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

from flax import nnx

from fp4jax.deploy.runtimes.cases import Found, cases_of
from fp4jax.deploy.runtimes.mode import Mode
from fp4jax.deploy.runtimes.rule import Rule, Runtime, get_runtime


@dataclasses.dataclass(frozen=True)
class TargetRow:
    """What a runtime executes for the products of a layer, or of an attention.

    Attributes:
        path: dotted; "(model)" for the model's own.
        kind: of the products, see :class:`fp4jax.deploy.runtimes.rule.Case`.
        shape: of the kernel, or of the right operand.
        recipe: name of the layer's, or attention's; "" for none.
        mode: how they run.
        why: in a few words.
        sources: addresses of what says so.
        multiply_adds: of all of them.
        layer: whether it is a layer, which holds a recipe.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    recipe: str
    mode: Mode
    why: str
    sources: tuple[str, ...]
    multiply_adds: int
    layer: bool


@dataclasses.dataclass(frozen=True)
class TargetTable:
    """What a runtime executes of a model; ``str(table)`` has a line for each layer.

    Attributes:
        runtime: that executes it.
        rows: in the order of the program.
    """

    runtime: Runtime
    rows: tuple[TargetRow, ...]

    @property
    def multiply_adds(self) -> int:
        """Of all products of the forward pass on the example inputs."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the multiply-adds of each mode, by its name, the largest first."""
        amounts: dict[str, int] = {}
        for row in self.rows:
            amounts[str(row.mode)] = amounts.get(str(row.mode), 0) + row.multiply_adds
        total = max(self.multiply_adds, 1)
        ordered = sorted(amounts.items(), key=lambda pair: -pair[1])
        return {name: amount / total for name, amount in ordered}

    @property
    def fp4_share(self) -> float:
        """Share of the multiply-adds that FP4 units run."""
        return self.shares.get("FP4", 0.0)

    def modes(self) -> dict[str, Mode]:
        """How each layer runs, by its path.

        Raises:
            ValueError: a layer that is called with inputs of which the rules say different things.
        """
        found: dict[str, Mode] = {}
        for row in self.rows:
            if row.layer and found.setdefault(row.path, row.mode) != row.mode:
                raise ValueError(
                    f"{row.path} runs as {found[row.path]} in one call and as {row.mode} in "
                    f"another on {self.runtime.name}; make two layers of it, or keep it in high "
                    "precision."
                )
        return found

    def __str__(self) -> str:
        return "\n".join([*self.lines(), self.summary])

    def lines(self) -> list[str]:
        """A line for each layer: path, kernel, mode, share of the multiply-adds, why."""
        total = max(self.multiply_adds, 1)
        cells = [
            (
                row.path,
                row.kind,
                "x".join(map(str, row.shape)),
                str(row.mode),
                f"{row.multiply_adds / total:.1%}",
                row.why,
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]

    @property
    def summary(self) -> str:
        """The share of each mode, in a line."""
        shares = ", ".join(f"{share:.1%} {name}" for name, share in self.shares.items())
        return f"{self.runtime.name}: of {self.multiply_adds:,} multiply-adds {shares or 'none'}"

    def sources(self) -> tuple[str, ...]:
        """The addresses of what says so, each once."""
        return tuple(dict.fromkeys(source for row in self.rows for source in row.sources))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return {
            "target": self.runtime.name,
            "runtime": self.runtime.summary,
            "multiply_adds": self.multiply_adds,
            "shares": self.shares,
            "layers": [{**dataclasses.asdict(row), "mode": str(row.mode)} for row in self.rows],
        }

    def to_csv(self) -> str:
        """A header and a line for each row."""
        text = io.StringIO(newline="")
        names = [field.name for field in dataclasses.fields(TargetRow)]
        writer = csv.DictWriter(text, ["target", *names])
        writer.writeheader()
        for row in self.rows:
            record = {name: getattr(row, name) for name in names}
            record["shape"], record["sources"] = (
                "x".join(map(str, row.shape)),
                " ".join(row.sources),
            )
            writer.writerow({"target": self.runtime.name, **record})
        return text.getvalue()


def target_table(
    model: nnx.Module,
    target: str | Runtime,
    *example_inputs: Any,
    calibrated: bool = False,
    fp8: bool = False,
) -> TargetTable:
    """What a target executes for each layer of a model, by the rules of its runtime.

    Args:
        model: with its recipes applied, trained, initialized, packed, or shapes alone
            (``nnx.eval_shape``); it is traced once and nothing is computed.
        target: name of a runtime, see :func:`fp4jax.deploy.runtime_names`, or one's own.
        example_inputs: what the model is called with, arrays or ``jax.ShapeDtypeStruct``.
        calibrated: take it that x has the static scales that some runtimes need, as before a
            training that will end with a calibration. Layers that have them count as such anyway.
        fp8: quantize to FP8 what cannot run in FP4 and can in FP8; else it takes 16 bits, with
            weights on the FP4 grid.

    Returns:
        The table; print it.

    Raises:
        ValueError: an unknown target, no example inputs, or no NNX model.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.nnx import apply_recipe
        >>> model = apply_recipe(nnx.Conv(16, 4, (3, 3), rngs=nnx.Rngs(0)), "2d+rht+sr")
        >>> print(target_table(model, "tensorrt", jnp.ones((1, 8, 8, 16)), calibrated=True).summary)
        tensorrt: of 36,864 multiply-adds 100.0% 16 bits with FP4 weights
    """
    runtime = get_runtime(target)
    found = cases_of(model, *example_inputs, calibrated=calibrated, fp8=fp8)
    return TargetTable(runtime, tuple(_rows(runtime, found)))


def _rows(runtime: Runtime, found: Any) -> Iterator[TargetRow]:
    """A row for the products of one path that are alike."""
    together: dict[tuple[str, str, Rule], list[Found]] = {}
    for one in found:
        key = one.product.path, one.case.kind, runtime.rule(one.case)
        together.setdefault(key, []).append(one)
    for (path, kind, rule), group in together.items():
        first = group[0]
        yield TargetRow(
            path=path or "(model)",
            kind=kind,
            shape=first.product.rhs,
            recipe=first.product.recipe,
            mode=rule.mode,
            why=rule.why,
            sources=rule.sources,
            multiply_adds=sum(one.product.multiply_adds for one in group),
            layer=first.layer,
        )
