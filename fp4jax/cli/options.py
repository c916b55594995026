"""The options of a run on the command line: its data, by task, and all else, with typed flags."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fp4jax.cli import command, model_options
from fp4jax.cli.parsing import take_values
from fp4jax.cli.recipe_options import recipe_of, text_of
from fp4jax.files import read_json
from fp4jax.train import (
    RunConfig,
    Saving,
    Slices,
    Task,
    from_json,
    tasks,
)
from fp4jax.train.task import get_task


@dataclasses.dataclass(frozen=True)
class SliceOptions(Slices):
    """Slices: which cohort, of which size, in which channels."""

    # phantom: the embedded synthetic cohort; lgg: the LGG MRI segmentation data set; images: slices
    # in PNG and TIFF with masks NAME_mask beside them; brats, msd: slices of the NIfTI volumes of
    # BraTS and of the Medical Segmentation Decathlon; or the name that a plug-in registered
    cohort: Annotated[str, tyro.conf.arg(name="data")] = "phantom"


@dataclasses.dataclass(frozen=True)
class RunOptions(RunConfig):
    """What is trained, and how."""

    data: Task = dataclasses.field(default_factory=SliceOptions)
    # QAT recipe, by name or by the paper's id (0 to 7); or rules for layers, @FILE with a JSON
    # object of patterns and recipes (or null), as fp4jax diagnose --sensitivity --budget writes it
    recipe: str = "baseline"
    # recipe of the products inside attention, such as attention_qat, for all attention of the
    # model; default: high precision
    attention: str | None = None
    # further options of the model, by name and value; typed ones are --model.NAME
    model_options: dict[str, str] = dataclasses.field(default_factory=dict)
    plugins: tyro.conf.Suppress[tuple[str, ...]] = ()

    def __post_init__(self):
        # Defaults of the task and the architecture are filled in when all options are known.
        pass

    def config(self) -> RunConfig:
        """With the defaults, checked."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(RunConfig)}
        changed = {
            "data": plain(self.data),
            "recipe": recipe_of(self.recipe),
            "plugins": command.plugins(),
        }
        return RunConfig(**{**fields, **changed})


@dataclasses.dataclass(frozen=True)
class SavingOptions:
    """When a run is saved while it is trained; its numbers do not depend on it."""

    # a checkpoint after every so many epochs; default: by time alone
    checkpoint_epochs: int | None = None
    # a checkpoint after an epoch that ends so many seconds after the last one
    checkpoint_seconds: float = 60.0

    def saving(self) -> Saving:
        """As the trainer takes it."""
        return Saving(self.checkpoint_epochs, self.checkpoint_seconds)


def plain(task: Task) -> Task:
    """The task that options of the command line stand for."""
    return Slices(**vars(task)) if isinstance(task, SliceOptions) else task


def aside(task: Task, names: Sequence[str]) -> Task:
    """A task of a class whose flags of these names are ``--data-NAME``: a command has them itself.

    Example:
        >>> options = aside(SliceOptions(), ["target"])
        >>> options == SliceOptions(), plain(options) == plain(SliceOptions())
        (False, True)
    """
    kind: Any = type(task)
    own = [field for field in dataclasses.fields(kind) if field.name in names]
    if not own:
        return task

    def renamed(field: Any) -> Any:
        return Annotated[field.type, tyro.conf.arg(name=f"data-{field.name}")]

    made = dataclasses.make_dataclass(
        kind.__name__,
        [(f.name, renamed(f), dataclasses.field(default=f.default)) for f in own],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__, "__module__": kind.__module__},
        frozen=True,
    )
    return made(**vars(task))


def by_task(
    arguments: type, task: str = "slices", taken: Sequence[str] = ()
) -> Callable[[Sequence[str], Any], type]:
    """For :func:`fp4jax.cli.command.main`: arguments whose data options are those of ``--task``.

    Args:
        arguments: a dataclass with the fields ``run`` (:class:`RunOptions`) and ``task``.
        task: where the command line names none.
        taken: names of flags that the command has itself, see :func:`aside`.
    """

    def kind(argv: Sequence[str], default: Any = None) -> type:
        named, _ = take_values(argv, "--task")
        name = named[-1] if named else (default.run.data.kind if default else task)
        chosen = get_task(name)
        options: Any = SliceOptions if chosen is Slices else chosen
        run = dataclasses.field(default_factory=lambda: RunOptions(data=aside(options(), taken)))
        of_task = dataclasses.make_dataclass(
            arguments.__name__,
            [
                ("task", Literal[tasks()], dataclasses.field(default=name)),
                ("run", RunOptions, run),
            ],
            bases=(arguments,),
            namespace={"__doc__": arguments.__doc__, "__module__": arguments.__module__},
            frozen=True,
        )
        return model_options.typed(of_task, "run", chosen.defaults.arch)(argv, default)

    return kind


def of_named_data(task: Task, argv: Sequence[str]) -> Task:
    """What options start from where the command line may name other data (``--data``) than these.

    Options that describe the files of the former data are left out then.

    Example:
        >>> of_named_data(Slices("phantom", patients=12), ["--data", "lgg"]) == Slices("lgg")
        True
    """
    named, _ = take_values(argv, "--data")
    return task.of_cohort(named[-1]) if named and isinstance(task, Slices) else task


def from_config(
    arguments: Callable[..., Any], taken: Sequence[str] = ()
) -> Callable[[Path, Sequence[str]], Any]:
    """For ``--config``: arguments that start from the configuration of a run.

    Args:
        arguments, taken: as for :func:`by_task`.
    """

    def read(path: Path, argv: Sequence[str] = ()) -> Any:
        config = from_json(read_json(path) or {})
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        fields["data"] = data = of_named_data(config.data, argv)
        if isinstance(data, Slices):
            fields["data"] = SliceOptions(**vars(data))
        fields["data"] = aside(fields["data"], taken)
        fields["recipe"] = text_of(config.recipe)
        fields["model_options"] = {k: _text(v) for k, v in config.model_options.items()}
        return arguments(task=config.data.kind, run=RunOptions(**fields))

    return read


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
