"""Completion of the whole command line, all verbs together, by a shell."""

from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from fp4jax.cli.program import VERBS, load, summary


def show(argv: Sequence[str]) -> None:
    """Prints the script that a shell reads: ``--tyro-print-completion bash``.

    Raises:
        ValueError: a shell that tyro does not know.
    """
    from fp4jax.cli.parsing import parse

    parse(program(), argv, None, prog="fp4jax")


def program() -> Any:
    """All verbs as subcommands of one type, as tyro takes it."""
    verbs = [
        Annotated[_type(name), tyro.conf.subcommand(name, description=summary(name))]
        for name in VERBS
    ]
    return Union[tuple(verbs)]  # noqa: UP007 (of a tuple)


def _type(name: str) -> Any:
    """The arguments of a verb, where neither task nor model is named."""
    import inspect

    arguments = load(name).arguments
    return arguments([], None) if inspect.isfunction(arguments) else arguments
