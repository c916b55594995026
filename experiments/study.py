"""Run a study: architectures x scales x recipes x splits x seeds, then write its report.

    python -m experiments.study demo
    python -m experiments.study paper-cv --root kaggle_3m --epochs 50

Starts from a named study; every option changes it. Repeating a command goes on where it was
interrupted, skips what is finished, and writes the report anew. Exit code 1 if a run failed.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from experiments.command import Source, main
from experiments.presets import PRESETS, folder
from experiments.tables import print_runs
from fp4jax.study import Study, execute
from fp4jax.study.live import watching
from fp4jax.study.record import report


@dataclasses.dataclass(frozen=True)
class Options(Study):
    """A study of which every field but one is an option of the command line."""

    per_arch: tyro.conf.Suppress[dict] = dataclasses.field(default_factory=dict)


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
    study = args.study
    if args.dry_run:
        for run in study.runs():
            print(run.arch, run.scale, run.method, run.recipe, run.split, f"seed {run.seed}")
        return
    cohort = args.source.load(study.data, study.image_size)
    print(cohort)
    with watching(study) as watcher:
        outcome = execute(study, cohort, args.out, retry=args.retry, watcher=watcher)
    if not outcome.trained and not outcome.failures:
        print("All runs were finished before; nothing was trained.")
    if outcome.folders:
        print_runs([run.summary() or {} for run in outcome.folders])
        page = report(study, cohort, args.out, outcome, PRESETS[args.preset]().expected)
        for name in ("report.html", "tables", "figures"):
            print(f"{name}: {page.parent / name}")
    for name, error in outcome.failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
    sys.exit(1 if outcome.failures else 0)


def arguments() -> type:
    """One subcommand per named study."""
    presets = {name: make() for name, make in PRESETS.items()}
    defaults = {
        name: Args(Options(**vars(preset.study)), preset.source, folder(name), name)
        for name, preset in presets.items()
    }
    about = {name: (make.__doc__ or "").strip() for name, make in PRESETS.items()}
    return tyro.extras.subcommand_type_from_defaults(defaults, about, prefix_names=False)


if __name__ == "__main__":
    main(command, arguments(), __doc__)
