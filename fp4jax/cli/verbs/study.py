"""Run a study: architectures x scales x recipes x splits x seeds, then write its report.

    fp4jax study demo
    fp4jax study paper-cv --root kaggle_3m --epochs 50
    fp4jax study paper-seeds --root kaggle_3m --engine ray --address auto
    fp4jax study paper-seeds --root kaggle_3m --worker --gpu 1
    fp4jax study paper-seeds --watch

Starts from a named study; every option changes it. Repeating a command goes on where it was
interrupted and skips what is finished; several commands may share a folder, also the same ones at
the same time. --watch shows how far a study is, from any machine that sees its folder, and trains
nothing. Exit code 1 if a run failed, 143 after SIGTERM, when all is saved.
"""

import contextlib
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from fp4jax.analysis.report import report_folder
from fp4jax.cli import command as commands
from fp4jax.cli.command import Verb
from fp4jax.cli.engine_options import EngineOptions
from fp4jax.cli.options import SavingOptions, SliceOptions, of_named_data, plain
from fp4jax.cli.presets import PRESETS
from fp4jax.cli.recipe_options import recipe_of, text_of
from fp4jax.cli.tables import print_runs
from fp4jax.cli.track_options import TrackOptions
from fp4jax.predict.pictures import Pictures, is_synthetic
from fp4jax.study import Study, execute
from fp4jax.study.live import watching
from fp4jax.study.overview import shown, watch
from fp4jax.train import Listener, Listeners, Slices, Source, Task


@dataclasses.dataclass(frozen=True)
class StudyOptions(Study):
    """What is trained, and how."""

    data: Task = dataclasses.field(default_factory=SliceOptions)
    # QAT recipes, by names or by the paper's ids (0 to 7), or rules for layers, @FILE
    recipes: tuple[str, ...] = ("baseline", "full", "2d+rht+sr")
    # recipes of the products inside attention, each with each recipe: names; none: high precision
    attentions: tuple[str, ...] = ("none",)
    # further options of all models, by name and value: init ref
    model_options: dict[str, str] = dataclasses.field(default_factory=dict)
    per_arch: tyro.conf.Suppress[dict] = dataclasses.field(default_factory=dict)
    plugins: tyro.conf.Suppress[tuple[str, ...]] = ()

    def __post_init__(self):
        # Defaults are filled in when all options are known.
        pass

    def study(self) -> Study:
        """With the defaults, checked."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Study)}
        changed = {
            "data": plain(self.data),
            "recipes": tuple(map(recipe_of, self.recipes)),
            "plugins": commands.plugins(),
        }
        return Study(**{**fields, **changed})


@dataclasses.dataclass(frozen=True)
class Args:
    study: StudyOptions
    source: Source
    saving: SavingOptions
    engine: EngineOptions
    tracking: TrackOptions
    # gets the runs' folders, report.html, tables and figures
    out: Path
    # the named study that this one started from
    preset: tyro.conf.Suppress[str]
    # train runs again that failed before
    retry: bool = False
    # show images of patients in the report, which the data's licence may forbid to pass on; of
    # synthetic ones they are always shown
    pictures: tyro.conf.FlagCreatePairsOff[bool] = False
    # list the runs and train nothing
    dry_run: bool = False
    # show how far the study in the folder --out is, and train nothing; once, if the output is no
    # terminal
    watch: bool = False


def command(args: Args) -> None:
    study, preset = args.study.study(), PRESETS[args.preset]()
    if args.watch and (args.dry_run or args.engine.worker):
        raise ValueError("--watch trains nothing; leave out --worker and --dry-run.")
    # What is wrong with it is said at once, in a rehearsal too.
    engine = args.engine.made()
    if args.dry_run:
        _rehearse(study, args.source)
        for run in study.runs():
            name = run.recipe_name
            print(run.arch, run.scale, run.method, name, run.split, f"seed {run.seed}")
        return
    if args.watch:
        failed = [run for run in watch(args.out, args.preset) if run.status.state == "failed"]
        sys.exit(1 if failed else 0)
    args.engine.see_gpu()
    source = args.source if preset.prepare is None else preset.prepare(args.source)
    data = study.data.open(source)
    print("\n".join(data.describe()))
    synthetic = preset.prepare is not None and args.source.root is None
    with (
        args.tracking.listeners(args.out, synthetic or is_synthetic(study.data)) as trackers,
        _shown(args, study) as table,
    ):
        listener = Listeners([table, Pictures(args.pictures), *trackers])
        outcome = execute(
            study,
            data,
            args.out,
            name=args.preset,
            expected=preset.expected,
            retry=args.retry,
            saving=args.saving.saving(),
            listener=listener,
            synthetic=synthetic,
            engine=engine,
        )
    if outcome.folders:
        print_runs([run.summary() or {} for run in outcome.folders])
    if outcome.open:
        print(f"Other processes train {len(outcome.open)} runs.")
    elif not outcome.changed:
        print("All runs were finished before: nothing was trained.")
    if not args.engine.worker:
        for path in report_folder(args.out, pictures=args.pictures).paths:
            print(path)
    for name, error in outcome.failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
    sys.exit(1 if outcome.failures else 0)


def _rehearse(study: Study, source: Source) -> None:
    """Raises what would stop the runs: data that cannot be read, or that cannot be split so.

    Of files in a folder that is not named yet, only the options are looked at.
    """
    if source.root is None and study.data.needs_root:
        return
    data = study.data.open(source)
    for run in {run.split: run for run in study.runs()}.values():
        data.split(run)


@contextlib.contextmanager
def _shown(args: Args, study: Study) -> Iterator[Listener]:
    """What there is to see while it is executed: of runs elsewhere, what their folders say."""
    if args.engine.engine == "local" or not sys.stderr.isatty():
        with watching(study) as table:
            yield table
    else:
        with shown(args.out, args.preset):
            yield Listener()


def arguments(argv: Sequence[str] = (), default: Any = None) -> Any:
    """One subcommand per named study; plug-ins are imported by then."""
    made = {name: make() for name, make in PRESETS.items()}
    defaults = {
        name: Args(
            _options(preset.study, argv),
            preset.source,
            SavingOptions(),
            EngineOptions(),
            TrackOptions(),
            Path("runs") / name,
            name,
        )
        for name, preset in made.items()
    }
    about = {name: _unwrapped(make.__doc__) for name, make in PRESETS.items()}
    return tyro.extras.subcommand_type_from_defaults(defaults, about, prefix_names=False)


def _unwrapped(text: str | None) -> str:
    r"""A docstring with a line for each of its parts, which a terminal wraps in its own width.

    Example:
        >>> _unwrapped("First.\n\n    Cost: one\n    hour.\n    Command: x")
        'First.\n\nCost: one hour.\n\nCommand: x'
    """
    lines = re.sub(r"\n(?=[A-Z][a-z]+: )", "\n\n", inspect.cleandoc(text or "")).split("\n\n")
    return "\n\n".join(" ".join(line.split()) for line in lines)


def _options(study: Study, argv: Sequence[str] = ()) -> StudyOptions:
    """What the options of a command line start from."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    data = of_named_data(study.data, argv)
    if isinstance(data, Slices):
        fields["data"] = SliceOptions(**vars(data))
    fields["recipes"] = tuple(map(text_of, study.recipes))
    return StudyOptions(**fields)


VERB = Verb(command, arguments, __doc__)
