"""The program ``fp4jax``: which verbs there are, and the way from a name to one of them."""

import ast
import difflib
import importlib
import sys
from importlib import resources
from typing import TYPE_CHECKING

from fp4jax.extras import Extra
from fp4jax.memory import use_large_pages
from fp4jax.version import __version__

if TYPE_CHECKING:
    from fp4jax.cli.command import Verb

#: In the order of a study.
VERBS = (
    "data",
    "train",
    "train-volumes",
    "evaluate",
    "study",
    "report",
    "diagnose",
    "predict",
    "segment",
    "export",
    "targets",
    "keep-lists",
    "claims",
    "slurm",
)
#: Those that train, for which it pays to start anew with large pages.
LONG = {"train", "train-volumes", "study"}
COMPLETION = "--tyro-print-completion"
_PACKAGE = "fp4jax.cli.verbs"


def main() -> None:
    """The entry point: exit code 2 for what is no verb, else that of the verb."""
    name, *argv = sys.argv[1:] or [""]
    match name:
        case "":
            print(about())
            sys.exit(2)
        case "-h" | "--help":
            print(about())
        case "--version":
            print(f"fp4jax {__version__}")
        case _ if name == COMPLETION:
            run_completion(argv)
        case _ if name.replace("_", "-") in VERBS:
            _start(name)
            run(name, argv)
        case _:
            end(f"no command {name!r}{_near(name)}; allowed: {', '.join(VERBS)}.")


def run(name: str, argv: list[str] | None = None) -> None:
    """Runs a verb.

    Args:
        name: of the verb.
        argv: its arguments; default: the command line of this process, for the modules of
            ``experiments``.
    """
    if argv is None:
        _start(name)
    try:
        verb = load(name)
    except ModuleNotFoundError as error:
        end(str(error))
    else:
        verb.run(argv, prog=f"fp4jax {name.replace('_', '-')}")


def _start(name: str) -> None:
    """What a process does first whose command line is a verb's."""
    if name.replace("_", "-") in LONG:
        use_large_pages()


def load(name: str) -> "Verb":
    """A verb by name, and nothing of the others.

    Raises:
        ModuleNotFoundError: packages that the commands need are not installed; the message says
            which extra has them.

    Example:
        >>> load("report").command.__module__
        'fp4jax.cli.verbs.report'
    """
    with Extra("study"):
        return importlib.import_module(f"{_PACKAGE}.{name.replace('-', '_')}").VERB


def run_completion(argv: list[str]) -> None:
    """Prints a script by which a shell completes verbs and options."""
    try:
        with Extra("study"):
            completion = importlib.import_module("fp4jax.cli.completion")
        completion.show(argv)
    except (ModuleNotFoundError, ValueError) as error:
        end(str(error))


def about() -> str:
    """What ``--help`` says; of each verb the first line of its module, which is not imported."""
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: fp4jax VERB [options]",
            "",
            "4-bit (NVFP4) quantization-aware training of segmentation networks: data, training,",
            "studies, and what is made of the trained networks.",
            "",
            *(f"  {name:{width}}  {summary(name)}" for name in VERBS),
            "",
            "fp4jax VERB --help   options, with examples",
            "fp4jax --version     the version",
            f"fp4jax {COMPLETION} bash   completion for a shell: bash, zsh, tcsh or fish",
        ]
    )


def summary(name: str) -> str:
    """A verb in one line.

    Example:
        >>> summary("report")
        'Write the report of a folder of runs: a page, tables and figures.'
    """
    source = resources.files(_PACKAGE).joinpath(f"{name.replace('-', '_')}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def end(message: str) -> None:
    """Ends the process: one line, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, VERBS, 1)
    return f"; perhaps you meant {near[0]}" if near else ""
