"""Completion of the whole command line, all verbs together, by a shell."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from fp4jax.cli.command import main
from fp4jax.cli.program import COMPLETION, VERBS, load, summary

SHELLS = ("bash", "zsh", "tcsh", "fish")


def show(argv: Sequence[str]) -> None:
    """Prints the script that a shell reads.

    Args:
        argv: the name of a shell.

    Raises:
        ValueError: anything else.

    Example:
        >>> show(["csh"])
        Traceback (most recent call last):
        ...
        ValueError: --tyro-print-completion csh: name one shell of bash, zsh, tcsh, fish.
    """
    if len(argv) != 1 or argv[0] not in SHELLS:
        given = " ".join([COMPLETION, *argv])
        raise ValueError(f"{given}: name one shell of {', '.join(SHELLS)}.")
    main(print, _program, None, argv=[COMPLETION, *argv], prog="fp4jax")


def _program(argv: Sequence[str], default: Any = None) -> Any:
    """All verbs as subcommands of one type, as tyro takes it."""
    verbs = [
        Annotated[_type(name), tyro.conf.subcommand(name, description=summary(name))]
        for name in VERBS
    ]
    return Union[tuple(verbs)]  # noqa: UP007 (of a tuple)


def _type(name: str) -> Any:
    """The arguments of a verb, where neither task nor model is named."""
    arguments = load(name).arguments
    return arguments([], None) if inspect.isfunction(arguments) else arguments
