"""What a study of many runs costs beside its training, on a simulated cluster that loses nodes.

    python -m benchmarks.bench_study [--runs 1000] [--engine local|ray] [--slots 8] [--deaths 10]

Runs are fabricated (:mod:`benchmarks.fabricated_training`): they sleep, write checkpoints and a
summary; folders, locks, records, engine and report are those of real ones. ``local``: every slot is
a worker (``--worker``), of which one is killed now and then, and another one comes. ``ray``: every
slot is a node of one core, and nodes are lost.

Overhead of a run is what its process does beside sleeping, from its first run to its last: wall
time, and seconds of CPU, which other programs on the machine disturb less.
"""

import contextlib
import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import simulated_cluster, timing
from benchmarks.fabricated_training import Times, cohort, read_journal, task
from fp4jax.analysis.report import report_folder
from fp4jax.files import write_json
from fp4jax.study import Study, engine, execute
from fp4jax.study.seen import Seen

# archs x recipes x folds; the seeds make up the rest
_GROUPS = 2 * 5
_FOLDS = 5
_RECIPES = ("baseline", "full", "forward_only", "2d+rht", "2d+rht+sr")


@dataclasses.dataclass(frozen=True)
class Args:
    """Benchmark of studies of many runs."""

    # a multiple of 50
    runs: int = 1000
    # local: workers; ray: tasks
    engine: Literal["local", "ray"] = "local"
    # workers or nodes
    slots: int = 8
    # workers or nodes that are killed, spread over the study
    deaths: int = 10
    # of a run
    epochs: int = 4
    # that an epoch sleeps
    seconds: float = 0.1
    # of what dies when
    seed: int = 0
    # keep the folder of the study here; default: a temporary one
    out: Path | None = None
    # write the figures here, too
    json: Path | None = None

    def __post_init__(self):
        if self.runs < 50 or self.runs % (_GROUPS * _FOLDS):
            raise ValueError(f"runs is {self.runs}; give a multiple of {_GROUPS * _FOLDS}.")
        if self.slots < 1 or self.deaths < 0 or self.epochs < 1 or self.seconds < 0:
            raise ValueError("slots and epochs must be at least 1, deaths and seconds at least 0.")
        if self.deaths > self.runs - self.runs // 20:
            raise ValueError(
                f"deaths is {self.deaths}, but one comes at most with each run of {self.runs} from "
                f"the {self.runs // 20}th on; give fewer."
            )


def study(runs: int, epochs: int) -> Study:
    """So many fabricated runs."""
    seeds = tuple(range(runs // (_GROUPS * _FOLDS)))
    archs, splits = ("cnn", "swin"), ("cv",)
    return Study(
        task(),
        archs=archs,
        recipes=_RECIPES,
        splits=splits,
        folds=_FOLDS,
        seeds=seeds,
        epochs=epochs,
    )


def measure(args: Args, out: Path) -> dict[str, Any]:
    """Executes the study, and measures what is left."""
    began = time.time()
    deaths = _with_workers(args, out) if args.engine == "local" else _on_ray(args, out)
    figures = {**_overhead(out, args), "deaths": deaths, "study_s": time.time() - began}
    figures |= _sizes(out / "runs")
    with _timed(figures, "nothing_to_do"):
        outcome = execute(study(args.runs, args.epochs), cohort(), out)
    if len(outcome.folders) < args.runs or outcome.failures:
        raise RuntimeError(f"{len(outcome.folders)} of {args.runs} runs are finished.")
    seen = Seen(out, "study")
    for name in ("first_look", "next_look"):
        with _timed(figures, name):
            seen.look()
    with _timed(figures, "report"):
        report_folder(out)
    figures["report_mb"] = (out / "report.html").stat().st_size / 1e6
    return figures


def _overhead(out: Path, args: Args) -> dict[str, float]:
    """Of a run, from the journal: by process, from its first run to its last."""
    of_process: dict[int, list[dict[str, Any]]] = {}
    journal = read_journal(out)
    for line in journal:
        of_process.setdefault(line["pid"], []).append(line)
    wall = cpu = 0.0
    for lines in of_process.values():
        wall += lines[-1]["ended"] - lines[0]["began"] - sum(line["slept"] for line in lines)
        cpu += lines[-1]["cpu_ended"] - lines[0]["cpu_began"]
    tries = sum(line["epochs"] for line in journal)
    return {
        "processes": len(of_process),
        "overhead_wall_ms": 1e3 * wall / args.runs,
        "overhead_cpu_ms": 1e3 * cpu / args.runs,
        # Of killed tries nothing is known but what is missing.
        "epochs_of_ended_tries": tries / (args.runs * args.epochs),
    }


def _sizes(root: Path) -> dict[str, float]:
    runs = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = [path for run in runs for path in run.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return {"files_per_run": len(files) / len(runs), "kb_per_run": size / len(runs) / 1e3}


@contextlib.contextmanager
def _timed(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Wall time, and seconds of CPU of this process."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    figures[f"{name}_s"] = time.perf_counter() - began
    figures[f"{name}_cpu_s"] = time.process_time() - cpu


def _with_workers(args: Args, out: Path) -> int:
    """Processes that share the study by its locks; each death is followed by another worker."""
    values = [out, args.runs, args.epochs, args.seconds]
    command = [sys.executable, "-m", "benchmarks.bench_study", "--be-a-worker", *map(str, values)]

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    workers = [start() for _ in range(args.slots)]
    dying = _Deaths(args, out / "runs")
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.1)
            if dying.due():
                place = dying.choose(args.slots)
                workers[place].kill()
                workers[place].wait()
                workers[place] = start()
    finally:
        for worker in workers:
            worker.kill()
    return dying.count


def _on_ray(args: Args, out: Path) -> int:
    """A cluster of a head and a node per slot on this machine."""
    dying, own_study = _Deaths(args, out / "runs"), study(args.runs, args.epochs)
    with simulated_cluster.cluster(args.slots) as (cluster, nodes):
        own, times = engine("ray", address=cluster.address), Times(args.seconds)

        def run() -> None:
            execute(own_study, cohort(), out, engine=own, train=times)

        def kill(over: Callable[[], bool]) -> None:
            while not over():
                time.sleep(0.1)
                if dying.due():
                    place = dying.choose(args.slots)
                    nodes[place] = simulated_cluster.replace(cluster, nodes[place])

        simulated_cluster.while_changing(run, kill)
    return dying.count


class _Deaths:
    """Spread over the study by the number of runs that are there."""

    def __init__(self, args: Args, root: Path):
        self._random, self._root, self.count = random.Random(args.seed), root, 0
        self._when = sorted(self._random.sample(range(args.runs // 20, args.runs), args.deaths))

    def due(self) -> bool:
        if self.count == len(self._when):
            return False
        there = sum(1 for _ in self._root.glob("*")) if self._root.is_dir() else 0
        return there >= self._when[self.count]

    def choose(self, slots: int) -> int:
        self.count += 1
        return self._random.randrange(slots)


def be_a_worker(out: str, runs: str, epochs: str, seconds: str) -> None:
    """A process of :func:`_with_workers`."""
    own = engine("local", wait=61.0)
    times = Times(float(seconds))
    execute(study(int(runs), int(epochs)), cohort(), Path(out), engine=own, train=times)


def main(args: Args) -> None:
    with contextlib.ExitStack() as stack:
        out = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        figures = measure(args, out)
    table = Table(title=f"{args.runs} runs, {args.engine}, {args.slots} slots", show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.{max(4, len(str(int(value))))}g}")
    Console().print(table)
    if args.json:
        arguments = {k: str(v) for k, v in dataclasses.asdict(args).items()}
        write_json(args.json, {"machine": timing.machine(), "args": arguments, "figures": figures})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--be-a-worker"]:
        be_a_worker(*sys.argv[2:])
    else:
        main(tyro.cli(Args, description=__doc__))
