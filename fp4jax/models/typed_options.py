"""Option: an argument of a model's class that users may choose; its type, default and meaning."""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any

from fp4jax.models.option_values import UnfitError, convert, described, placeholder

#: Arguments that :func:`fp4jax.models.create` has itself: no options.
GIVEN = ("in_channels", "num_classes", "image_size", "rngs", "dtype", "spatial_dims")


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a model.

    Attributes:
        name: of the constructor's argument.
        type: its annotation; Any if it has none.
        default: its default; ``inspect.Parameter.empty`` if it has none, because scales set it.
        help: what the class's docstring says of it.
        scaled: whether scales set it.

    Example:
        >>> from fp4jax import models
        >>> strides = models.options("unet")["strides"]
        >>> strides.default, strides.parse("2"), strides.placeholder
        ((2, 2, 2, 2), (2,), 'INT|INT,... ...')
    """

    name: str
    type: Any
    default: Any = inspect.Parameter.empty
    help: str = ""
    scaled: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty

    @property
    def allowed(self) -> str:
        """The values that it takes, for people."""
        return described(self.type)

    @property
    def placeholder(self) -> str:
        """What stands for a value in the help of a command."""
        return placeholder(self.type)

    def parse(self, value: Any) -> Any:
        """A value, text or JSON as a value of the option's type.

        Raises:
            ValueError: what does not fit.
        """
        try:
            return convert(value, self.type)
        except UnfitError:
            raise ValueError(f"{self.name} is {value!r}; allowed: {self.allowed}.") from None


def of_class(model: Any) -> dict[str, Option]:
    """The options of a model's class, by name and in the order of the constructor's arguments."""
    return dict(_of_class(model))


@functools.cache  # a study asks for every run
def _of_class(model: Any) -> dict[str, Option]:
    try:
        hints = typing.get_type_hints(model.__init__, include_extras=True)
    except Exception:  # names in annotations that exist for type checkers only
        hints = {}
    texts = _texts(inspect.getdoc(model) or "")
    scaled = {name for values in model.scales.values() for name in values}
    return {
        name: Option(
            name=name,
            type=hints.get(name, _annotated(one)),
            default=one.default,
            help=texts.get(name, ""),
            scaled=name in scaled,
        )
        for name, one in parameters(model).items()
        if name not in GIVEN
    }


def parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    """The named arguments of a class's constructor."""
    every = list(inspect.signature(model.__init__).parameters.values())[1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {one.name: one for one in every if one.kind not in variable}


def parse(model: str, known: Mapping[str, Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options as their types; ``model`` is named in messages.

    Raises:
        ValueError: an option that the model has not, or a value that does not fit.
    """
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(
            f"{model} has no option {', '.join(unknown)}; its options are: {', '.join(known)}."
        )
    parsed = {}
    for name, value in values.items():
        try:
            parsed[name] = known[name].parse(value)
        except ValueError as error:
            raise ValueError(f"{model}: option {error}") from None
    return parsed


def _annotated(parameter: inspect.Parameter) -> Any:
    known = parameter.annotation
    return Any if known is inspect.Parameter.empty or isinstance(known, str) else known


def _texts(docstring: str) -> dict[str, str]:
    """What the part Args of a docstring says of each argument; several may share a text."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    texts: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", section[1].rstrip() if section else ""):
        names, _, text = entry.strip().partition(": ")
        plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", " ".join(text.split()))
        texts |= dict.fromkeys(re.split(r",\s*", names), plain.replace("``", ""))
    return texts
