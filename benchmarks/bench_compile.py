"""What a recipe costs before the first step: tracing, compiling, and the size of the program.

    python -m benchmarks.bench_compile [--models cnn dot] [--recipes 0 5] [--rounds 2] [--json FILE]

Programs are the gradient of a training loss of 500k models, as the trainer takes it, and both
gradients of one product and of one convolution. Seconds are the CPU's, in all threads, of the best
of ``rounds``, with nothing kept from before. The ratio is over the baseline's seconds.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

import fp4jax as fp4
from benchmarks import timing
from benchmarks.compiled_programs import PROGRAMS, Program


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of compiling."""

    # what to compile: cnn, swin, swin_unetr, unet_3d, dot, conv
    models: tuple[str, ...] = tuple(PROGRAMS)
    # by name or by the paper's id; the baseline always comes first
    recipes: tuple[str, ...] = ("baseline", "2d+rht+sr")
    # every program is compiled so often, and the best counts
    rounds: int = 2
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        if unknown := sorted(set(self.models) - set(PROGRAMS)):
            raise ValueError(f"models has {', '.join(unknown)}; allowed: {', '.join(PROGRAMS)}.")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1.")
        names = [fp4.get_recipe(recipe).name for recipe in ("baseline", *self.recipes)]
        object.__setattr__(self, "recipes", tuple(dict.fromkeys(names)))


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one program: CPU seconds, and the size of what tracing and compiling give."""

    # with lowering to StableHLO
    trace: float
    compile: float
    # lines of the text before and after XLA's optimization
    stablehlo: int
    hlo: int
    fusions: int

    @property
    def seconds(self) -> float:
        return self.trace + self.compile


@contextlib.contextmanager
def no_persistent_cache() -> Iterator[None]:
    """JAX looks only once whether it has one: it is told to look again."""
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def measure(program: Program, rounds: int) -> list[Cost]:
    """The costs in every round."""
    function, arguments = program
    found = []
    with no_persistent_cache():
        jax.jit(lambda x: x + 1).lower(1.0).compile()  # what the first of a process pays
        for _ in range(rounds):
            # Programs made before, by fp4jax's own jitted functions too, would be taken over.
            jax.clear_caches()
            start = time.process_time()
            lowered = jax.jit(function).lower(*arguments)
            traced = time.process_time()
            compiled = lowered.compile()
            end = time.process_time()
            hlo = compiled.as_text() or ""
            sizes = lowered.as_text().count("\n"), hlo.count("\n"), hlo.count(" fusion(")
            found.append(Cost(traced - start, end - traced, *sizes))
    return found


def rows(name: str, recipes: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """The best round of each recipe, and its ratio to the first of them."""
    _, program = PROGRAMS[name]
    best = [
        min(measure(program(recipe), rounds), key=lambda cost: cost.seconds) for recipe in recipes
    ]
    return [
        {"name": recipe, **dataclasses.asdict(cost), "ratio": cost.seconds / best[0].seconds}
        for recipe, cost in zip(recipes, best, strict=True)
    ]


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "trace s", "compile s", "StableHLO", "HLO", "fusions", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        name, *numbers = row.values()
        table.add_row(name, *(f"{n:,.2f}" if isinstance(n, float) else f"{n:,}" for n in numbers))
    Console(width=110).print(table)


def main(args: Args) -> None:
    about = timing.machine()
    print(about)
    tables: dict[str, list[dict[str, Any]]] = {}
    for name in args.models:
        title = f"{PROGRAMS[name][0]}: gradient; CPU seconds, best of {args.rounds}; lines of text"
        tables[title] = rows(name, args.recipes, args.rounds)
        show(title, tables[title])
        # After every table: a run takes minutes.
        if args.json:
            timing.write_json(args.json, {"machine": about, "tables": tables})


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
