"""Run a study: architectures x scales x recipes x splits x seeds, then write its report.

    python -m experiments.study demo
    python -m experiments.study paper-cv --root kaggle_3m --epochs 50

Starts from a named study; every option changes it. Repeating a command goes on where it was
interrupted and skips what is finished. Exit code 1 if a run failed.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from experiments.command import Source, main
from experiments.presets import PRESETS, Options
from experiments.tables import print_runs
from fp4jax.analysis.report.of_study import report
from fp4jax.study import execute
from fp4jax.study.live import watching


@dataclasses.dataclass(frozen=True)
class Args:
    study: Options
    source: Source
    # gets the runs' folders, report.html, tables and figures
    out: Path
    # the named study that this one started from
    preset: tyro.conf.Suppress[str]
    # train runs again that failed before
    retry: bool = False
    # list the runs and train nothing
    dry_run: bool = False


def command(args: Args) -> None:
    if args.dry_run:
        for run in args.study.runs():
            print(run.arch, run.scale, run.method, run.recipe, run.split, f"seed {run.seed}")
        return
    cohort = args.source.load(args.study.data, args.study.image_size)
    print(cohort)
    with watching(args.study) as watcher:
        outcome = execute(args.study, cohort, args.out, retry=args.retry, watcher=watcher)
    if outcome.folders:
        print_runs([run.summary() or {} for run in outcome.folders])
    if not outcome.changed:
        print("All runs were finished before: nothing was trained.")
    expected = PRESETS[args.preset]().expected
    for path in report(args.study, cohort, args.out, outcome, expected):
        print(path)
    for name, error in outcome.failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
    sys.exit(1 if outcome.failures else 0)


def arguments() -> type:
    """One subcommand per named study."""
    made = {name: make() for name, make in PRESETS.items()}
    defaults = {
        name: Args(Options(**vars(preset.study)), preset.source, Path("runs") / name, name)
        for name, preset in made.items()
    }
    about = {name: (make.__doc__ or "").strip() for name, make in PRESETS.items()}
    return tyro.extras.subcommand_type_from_defaults(defaults, about, prefix_names=False)


if __name__ == "__main__":
    main(command, arguments(), __doc__)
