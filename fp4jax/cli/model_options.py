"""A model's options as typed flags: ``--arch unet --model.channels 4 8 --model.strides 2``.

    VERB = Verb(command, model_options.typed(Args), __doc__)

The flags are those of the architecture that the command line names, so ``--arch unet --help`` lists
them with their types, defaults and meaning. What is given ends up in ``model_options`` of the run.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from fp4jax import models
from fp4jax.cli.parsing import take_values


def typed(
    arguments: type, run: str = "run", arch: str | None = None
) -> Callable[[Sequence[str], Any], type]:
    """For :func:`fp4jax.cli.command.main`: the arguments of a command, and its model's options.

    Args:
        arguments: a dataclass.
        run: the field of it with the run's configuration, which has ``arch`` and
            ``model_options``.
        arch: the architecture where neither the command line nor the configuration names one.

    Returns:
        A function of the command line and the default arguments (None: the class's own). It returns
        a class that derives from ``arguments`` and has one field more, ``model``. Without an
        architecture, or for an unknown one, it returns ``arguments``.
    """

    def kind(argv: Sequence[str], default: Any = None) -> type:
        named, _ = take_values(argv, "--arch")
        name = named[-1] if named else _configured(arguments, default, run) or arch
        return with_options(arguments, run, name) if name in models.names() else arguments

    return kind


def _configured(arguments: type, default: Any, run: str) -> str | None:
    if default is not None:
        return getattr(default, run).arch
    (field,) = (field for field in dataclasses.fields(arguments) if field.name == run)
    made = field.default
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
    return getattr(made, "arch", None)


def with_options(arguments: type, run: str, arch: str) -> type:
    """A class that derives from ``arguments`` and has the options of a model as field ``model``."""
    options = _flags(arch)

    def merge(self: Any) -> None:
        if inherited := getattr(arguments, "__post_init__", None):
            inherited(self)
        words = vars(self.model).items()
        given = {name: _text(value) for name, value in words if value}
        models.parse_options(arch, given)  # raises for what does not fit
        if given:
            config = getattr(self, run)
            both = {**config.model_options, **given}
            object.__setattr__(self, run, dataclasses.replace(config, model_options=both))

    return dataclasses.make_dataclass(
        arguments.__name__,
        [("model", options, dataclasses.field(default_factory=options))],
        bases=(arguments,),
        namespace={
            "__post_init__": merge,
            "__doc__": arguments.__doc__,
            # Where tyro reads what its fields mean.
            "__module__": arguments.__module__,
        },
        frozen=True,
    )


def _flags(arch: str) -> type:
    """A dataclass of the words that are given for each option of a model; () for none."""
    fields = []
    for option in models.options(arch).values():
        name = f"model.{option.name}".replace("_", "-")
        about = tyro.conf.arg(
            name=name,
            metavar=option.placeholder,
            help=option.help,
            help_behavior_hint=f"(default: {_default(option)})",
        )
        words = dataclasses.field(default=(), metadata={"flag": f"--{name}"})
        fields.append((option.name, Annotated[tuple[str, ...], about], words))
    about = f"Options of {arch}."
    return dataclasses.make_dataclass(
        f"{arch}_options", fields, namespace={"__doc__": about}, frozen=True
    )


def _default(option: models.Option) -> str:
    if option.required:
        return "the scale's"
    values = option.default if isinstance(option.default, tuple) else (option.default,)
    # As they are written on the command line: none, true.
    words = [str(v).lower() if v is None or isinstance(v, bool) else str(v) for v in values]
    return " ".join(words) + (", or the scale's" if option.scaled else "")


def _text(words: Sequence[str]) -> str:
    """The words of an option as one: a list has commas between its elements."""
    if len(words) == 1:
        return words[0]
    words = [word.removesuffix(",") for word in words]
    if any("," in word for word in words):
        return "[" + ",".join(f"[{word}]" if "," in word else word for word in words) + "]"
    return ",".join(words)
