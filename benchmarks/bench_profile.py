"""Where the time of a training step goes, and its memory, on CPU: five networks, two recipes.

    python -m benchmarks.bench_profile [--networks cnn swin] [--recipes 0 5] [--top 20] [--json FILE]
    python -m benchmarks.bench_profile --memory

Steps are those of the trainer (forward, loss, backward, clipping, update; float32, no augmentation)
of networks with 500k parameters. The method:

* XLA's executor notes when every instruction of the compiled program begins and ends
  (``jax.profiler``; see profile_trace.py). Each moment of a step goes to the instruction that runs,
  in equal parts if several do, and "between instructions" if none does: threads hand over, Python
  calls, memory is given and taken. So the rows add up to the traced step.
* Instructions become classes by opcode, ``jax.named_scope`` and source lines (see hlo_classes.py).
  Nameless ones, which XLA made, go with what takes their result. A fusion of several purposes is
  shared out by the elements that its instructions touch, which is a guess; a fusion with a product
  is a product. The table says how much time is shared out so.
* "cores" is how many threads worked, on average, while instructions of a class ran.
* Wall time, CPU time of all threads, system time, and page faults are of steps without the
  profiler; idle cores are wall time x cores - CPU time. "traced / not" tells what the profiler, or
  the weather, changed: beyond some per cent a table is not to be trusted.

Recipes take turns in the steps that are not traced; of those and of the traced ones the faster half
counts. Other processes make both longer: run it on a machine with nothing else to do.
Memory is the peak of temporary buffers that XLA plans (``memory_analysis``): exact, and the same on
a busy machine.
"""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

import fp4jax as fp4
from benchmarks import hlo_text, networks, profile_trace, timing
from benchmarks.bench_compile import no_persistent_cache
from benchmarks.bench_train import Compiled, sample
from benchmarks.hlo_classes import CLASSES, OTHER, shares
from benchmarks.profile_trace import BETWEEN

#: Temporary memory of a step over the baseline's, at most.
MEMORY_TARGET = 1.3


@dataclasses.dataclass(frozen=True)
class Args:
    """Profile of training steps on CPU."""

    # cnn, vit, swin, swin_unetr_2d, swin_unetr_3d
    networks: tuple[str, ...] = tuple(networks.NETWORKS)
    # by name or by the paper's id; the first is what others are compared with
    recipes: tuple[str, ...] = ("baseline", "2d+rht+sr")
    # side of the images; default: 128, of volumes 64
    side: int | None = None
    # images of a step; default: 8, of volumes 1
    batch: int | None = None
    # steps without the profiler, and as many with it
    steps: int = 10
    # also print the instructions that take most time, so many
    top: int = 0
    # compile only, and print the temporary memory
    memory: bool = False
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        networks.checked(self.networks)
        for name, least in (("steps", 1), ("top", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if not self.recipes:
            raise ValueError("recipes is empty; give at least one, such as baseline.")
        names = dict.fromkeys(fp4.get_recipe(recipe).name for recipe in self.recipes)
        object.__setattr__(self, "recipes", tuple(names))


class Usage(NamedTuple):
    """Of one step: seconds of wall time, of all threads' CPU and system time; page faults."""

    wall: float
    cpu: float
    system: float
    faults: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """Of the step of one recipe; seconds.

    Attributes:
        usage: without the profiler.
        traced: the step with it.
        wall, cores: by class, the time that it takes and the threads that work meanwhile.
        mixed: time of fusions of several classes.
        unknown: time of traced instructions that the program's text does not have.
        temporary: bytes.
        top: (seconds, threads, instruction, where in the model) of those that take most.
    """

    usage: Usage
    traced: float
    wall: Mapping[str, float]
    cores: Mapping[str, float]
    mixed: float
    unknown: float
    temporary: int
    top: Sequence[tuple[float, float, str, str]]

    @property
    def idle(self) -> float:
        """Seconds of cores without work, of steps without the profiler."""
        return max(self.usage.wall * cores() - self.usage.cpu, 0.0)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def used(call: Callable[[], Any]) -> Usage:
    """What one call takes."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jax.block_until_ready(call())
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    user, system, faults = (
        getattr(after, name) - getattr(before, name)
        for name in ("ru_utime", "ru_stime", "ru_minflt")
    )
    return Usage(wall, user + system, system, faults)


def usages(calls: Sequence[Callable[[], Any]], rounds: int) -> list[Usage]:
    """Of several calls that take turns: the mean of the faster half of the rounds."""
    for call in calls:
        jax.block_until_ready(call())
    found = [[used(call) for call in calls] for _ in range(rounds)]
    return [_mean(sorted(of_one)[: _half(rounds)]) for of_one in zip(*found, strict=True)]


def _mean(found: Sequence[Usage]) -> Usage:
    return Usage(*(statistics.mean(column) for column in zip(*found, strict=True)))


def _half(count: int) -> int:
    return (count + 1) // 2


def compiled(args: Args, name: str) -> dict[str, Compiled]:
    """The step of each recipe."""
    found = {}
    for recipe in args.recipes:
        config = networks.NETWORKS[name].config(recipe, side=args.side, batch=args.batch)
        found[recipe] = Compiled(config, sample(config), 0)
        # Programs from a cache may have the source lines of others.
        with no_persistent_cache():
            _ = found[recipe].program
    return found


def profiles(programs: Mapping[str, Compiled], steps: int, top: int = 0) -> dict[str, Profile]:
    """The profile of each recipe."""
    calls = {recipe: program.runner() for recipe, program in programs.items()}
    found = zip(calls.items(), usages(list(calls.values()), steps), strict=True)
    return {
        recipe: profile(programs[recipe], call, usage, steps, top)
        for (recipe, call), usage in found
    }


def profile(
    program: Compiled, call: Callable[[], Any], usage: Usage, steps: int, top: int
) -> Profile:
    """Traces a step that was measured already."""
    module = hlo_text.parse(program.program.as_text())
    of_class = shares(module)
    trace = profile_trace.record(call, steps)
    fastest = sorted(trace.steps, key=lambda step: step.end - step.start)[: _half(steps)]
    trace = dataclasses.replace(trace, steps=tuple(sorted(fastest)))
    found = profile_trace.times(trace, {n: i.opcode for n, i in module.instructions.items()})
    wall, busy = (profile_trace.by_class(t, of_class, OTHER) for t in (found.wall, found.busy))
    longest = sorted(found.wall.items(), key=lambda item: -item[1])
    known = [(name, s) for name, s in longest if name in module.instructions]
    return Profile(
        usage=usage,
        traced=statistics.mean((step.end - step.start) / 1e9 for step in trace.steps),
        wall=wall,
        cores={name: busy[name] / seconds for name, seconds in wall.items() if seconds},
        mixed=sum(s for name, s in known if len(of_class.get(name, ())) > 1),
        unknown=sum(s for name, s in longest if name not in of_class and name != BETWEEN),
        temporary=program.temporary,
        top=[
            (s, found.busy[name] / s, name, module.instructions[name].op_name)
            for name, s in known[:top]
        ],
    )


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


def memory_rows(programs: Mapping[str, Compiled]) -> list[dict[str, Any]]:
    """Temporary memory of each recipe, and its ratio to the first."""
    temporary = {recipe: program.temporary for recipe, program in programs.items()}
    first = next(iter(temporary.values()))
    return [
        {"name": recipe, "temporary MB": size / 1e6, "ratio": size / first}
        for recipe, size in temporary.items()
    ]


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


def record(found: Profile) -> dict[str, Any]:
    """A profile as JSON."""
    return dataclasses.asdict(found) | {"usage": found.usage._asdict(), "idle": found.idle}


def title_of(args: Args, name: str) -> str:
    """Of a network's table."""
    network = networks.NETWORKS[name]
    side = " x ".join([str(args.side or network.side)] * network.dims)
    return f"{network.title} 500k, batch {args.batch or network.batch}, {side}, float32"


def main(args: Args) -> None:
    about = timing.machine() | {"cores": str(cores()), "load average": f"{os.getloadavg()[0]:.1f}"}
    print(about)
    tables: dict[str, Any] = {}
    memory: dict[str, list[dict[str, Any]]] = {}
    for name in args.networks:
        title = title_of(args, name)
        programs = compiled(args, name)
        memory[title] = memory_rows(programs)
        if not args.memory:
            found = profiles(programs, args.steps, args.top)
            show(title, found)
            if args.top:
                show_top(found)
            tables[title] = {recipe: record(p) for recipe, p in found.items()}
        # After every network: compiling takes minutes.
        if args.json:
            timing.write_json(args.json, {"machine": about, "tables": tables, "memory": memory})
        del programs
        jax.clear_caches()
    show_memory(memory)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
