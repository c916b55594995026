"""Training steps with and without large pages (``fp4jax.memory.use_large_pages``), in turns.

    python -m benchmarks.bench_pages [--networks cnn vit swin] [--rounds 3]

The allocator is that of a process, so each setting has processes of its own, one after the other,
which compile once and time a few steps. Ratio: the time with the default's pages of 4 KB over that
with large ones; above 1 these are faster.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys

from benchmarks import networks, timing
from benchmarks.bench_train import Compiled, sample
from benchmarks.step_profile import usages

_STEPS = 12


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of large pages."""

    # see benchmarks.networks
    networks: tuple[str, ...] = ("cnn", "vit", "swin", "swin_unetr_2d")
    recipes: tuple[str, ...] = ("baseline", "2d+rht+sr")
    # processes of each setting
    rounds: int = 3
    # side of the images and images of a batch, if not the networks' own
    side: int | None = None
    batch: int | None = None
    # print the times of this process alone, as JSON
    child: bool = False

    def __post_init__(self):
        networks.checked(self.networks)
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be at least 1.")


def times(args: Args) -> list[list[float]]:
    """Of each network and recipe: milliseconds of a step, of them system time, page faults."""
    found = []
    for name in args.networks:
        for recipe in args.recipes:
            config = networks.NETWORKS[name].config(recipe, side=args.side, batch=args.batch)
            (used,) = usages([Compiled(config, sample(config), 0).runner()], _STEPS)
            found.append([1e3 * used.wall, 1e3 * used.system, float(used.faults)])
    return found


def in_process(args: Args, large: bool) -> list[list[float]]:
    """:func:`times` of a process of its own."""
    options = ["--child", "--networks", *args.networks, "--recipes", *args.recipes]
    for name in ("side", "batch"):
        if (value := getattr(args, name)) is not None:
            options += [f"--{name}", str(value)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_pages", *options],
        env={**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.hugetlb={int(large)}"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def main(args: Args) -> None:
    if args.child:
        print(json.dumps(times(args)))
        return
    print(timing.machine())
    both = [[in_process(args, large) for large in (False, True)] for _ in range(args.rounds)]
    cases = [(name, recipe) for name in args.networks for recipe in args.recipes]
    for i, (name, recipe) in enumerate(cases):
        turns = [(default[i], large[i]) for default, large in both]
        ratio = statistics.median(default[0] / large[0] for default, large in turns)
        columns = [
            " -> ".join(
                f"{statistics.median(one[k] for one in setting):7.1f}"
                for setting in zip(*turns, strict=True)
            )
            for k in range(3)
        ]
        wall, system, faults = columns
        print(
            f"{name:14} {recipe:10} ms {wall}, ratio {ratio:4.2f}; system {system}; faults {faults}"
        )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
