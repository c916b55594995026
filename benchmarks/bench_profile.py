"""Where the time of a training step goes, and its memory, on CPU: five networks, two recipes.

    python -m benchmarks.bench_profile [--networks cnn swin] [--top 20] [--json FILE]
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
  profiler; idle cores are wall time x cores - CPU time, ours and that of other processes.

Recipes take turns in the steps that are not traced; of those and of the traced ones the faster half
counts. Two rows say whether to trust a table: "traced / not" is what the profiler changed, and "CPU
time of other processes" (of the machine, from /proc/stat, where there is one) what others took:
they make all rows longer. Run it on a machine with nothing else to do.

Memory is the peak of temporary buffers that XLA plans (``memory_analysis``): exact, and the same on
a busy machine.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import fp4jax as fp4
from benchmarks import networks, profile_tables, step_profile, timing
from benchmarks.bench_compile import no_persistent_cache
from benchmarks.bench_train import Compiled, sample


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


def memory_rows(programs: Mapping[str, Compiled]) -> list[dict[str, Any]]:
    """Temporary memory of each recipe, and its ratio to the first."""
    temporary = {recipe: program.temporary for recipe, program in programs.items()}
    first = next(iter(temporary.values()))
    return [
        {"name": recipe, "temporary MB": size / 1e6, "ratio": size / first}
        for recipe, size in temporary.items()
    ]


def title_of(args: Args, name: str) -> str:
    """Of a network's table."""
    network = networks.NETWORKS[name]
    side = " x ".join([str(args.side or network.side)] * network.dims)
    return f"{network.title} 500k, batch {args.batch or network.batch}, {side}, float32"


def main(args: Args) -> None:
    load = f"{os.getloadavg()[0]:.1f}"
    about = timing.machine() | {"cores": str(step_profile.cores()), "load average": load}
    print(about)
    tables: dict[str, Any] = {}
    memory: dict[str, list[dict[str, Any]]] = {}
    for name in args.networks:
        title = title_of(args, name)
        programs = compiled(args, name)
        memory[title] = memory_rows(programs)
        if not args.memory:
            found = step_profile.profiles(programs, args.steps, args.top)
            profile_tables.show(title, found)
            if args.top:
                profile_tables.show_top(found)
            tables[title] = {recipe: step_profile.record(p) for recipe, p in found.items()}
        # After every network: compiling takes minutes.
        if args.json:
            timing.write_json(args.json, {"machine": about, "tables": tables, "memory": memory})
        del programs
        jax.clear_caches()
    profile_tables.show_memory(memory)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
