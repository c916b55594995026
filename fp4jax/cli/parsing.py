"""The command line: what every command takes, typed arguments by tyro, messages in one line."""

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from fp4jax.cli.refusals import refusal
from fp4jax.files import expanded

#: What the description of every command ends with.
COMMON = """

Every command takes --plugin MODULE, which imports a module of yours first (it may register models,
losses, data sets and recipes; repeat it for several), and --debug, which shows where an error comes
from.
"""


def take_flag(argv: Sequence[str], flag: str) -> tuple[bool, list[str]]:
    """Whether a flag without a value is there, and the arguments without it."""
    return flag in argv, [word for word in argv if word != flag]


def take_values(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The values of a flag that may be repeated, and the arguments without them.

    Raises:
        ValueError: a flag without a value.
    """
    values, rest, words = [], [], iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != flag:
            rest.append(word)
            continue
        if not equals and (value := next(words, "-")).startswith("-"):
            raise ValueError(f"{flag} has no value; give one after it.")
        values.append(value)
    return values, rest


def read_config(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file after ``--config``, or None, and the arguments without it.

    Raises:
        ValueError: several, or a file that does not exist.
    """
    values, rest = take_values(argv, "--config")
    if len(values) > 1:
        raise ValueError(f"--config is given {len(values)} times; give it once.")
    path = Path(values[0]).expanduser() if values else None
    if path is not None and not path.is_file():
        raise ValueError(f"--config: there is no file {path}; give the config.json of a run.")
    return path, rest


def parse(
    arguments: Any,
    argv: Sequence[str],
    description: str | None,
    default: Any = None,
    *,
    prog: str | None = None,
) -> Any:
    """What the command line says, as an object of the type ``arguments``.

    Args:
        arguments: a dataclass, or subcommands of tyro's.
        argv: the command line, without the program.
        description: of the command, for ``--help``.
        default: what holds where the command line says nothing, an object of that type (or of a
            class that it derives from).
        prog: the program's name, for ``--help``.

    Raises:
        ValueError: what was refused, in one line; tyro frames it in a box of many.
    """
    refused = io.StringIO()
    options = {} if default is None else {"default": _as(arguments, default)}
    try:
        with contextlib.redirect_stderr(refused):
            parsed = tyro.cli(
                arguments,
                args=list(argv),
                description=description,
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise refusal(stop, refused.getvalue()) from stop
    return at_home(parsed)


def at_home(value: Any) -> Any:
    """Arguments with ``~`` and ``~user`` in every path replaced by home folders.

    A shell does that only where a word begins with ``~``, not in ``--out=~/runs``.

    Raises:
        ValueError: a user who does not exist.

    Example:
        >>> at_home((Path("~/runs"), "~"))[0] == Path.home() / "runs"
        True
    """
    match value:
        case Path():
            return expanded(value)
        case tuple() | list():
            return type(value)(map(at_home, value))
        case dict():
            return {key: at_home(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            new = at_home(old)
            if new is not old:
                object.__setattr__(value, field.name, new)
    return value


def _as(kind: Any, value: Any) -> Any:
    """A value of a class as one of a class that derives from it."""
    if not isinstance(kind, type) or isinstance(value, kind):
        return value
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    return kind(**{name: getattr(value, name) for name in fields})


def in_flags(message: str, arguments: Any) -> str:
    """A message with the names of arguments as the command line has them: ``--image-size``.

    Names of several words are replaced wherever they are; a name of one word, which may be just a
    word, where something is said of it.

    Example:
        >>> @dataclasses.dataclass
        ... class Args:
        ...     image_size: int = 64
        ...     root: str | None = None
        >>> in_flags("image_size is 0; pass root, the root of all", Args)
        '--image-size is 0; pass --root, the root of all'
    """
    for name, flag in sorted(set(_flags(arguments)), key=lambda pair: -len(pair[0])):
        if "_" in name:
            message = re.sub(rf"(?<![\w.'\"/`-]){name}(?![\w.'\"/`(])", flag, message)
        else:
            said_of = rf"(^|[;:.] |\b(?:pass|give|set|leave) ){name}(?= (?:is|are|out)\b|=|,|;|\.$)"
            message = re.sub(said_of, rf"\1{flag}", message)
    return message


def _flags(kind: Any) -> Iterator[tuple[str, str]]:
    """(name, flag) of the arguments in a dataclass, in those within it, and in subcommands."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints: dict[str, Any] = {}
        with contextlib.suppress(NameError):  # annotations that exist for type checkers only
            hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            usual = "--" + field.name.replace("_", "-")
            yield from list(_flags(hints.get(field.name))) or [
                (field.name, field.metadata.get("flag", usual))
            ]
    else:
        for part in typing.get_args(kind):
            yield from _flags(part)
