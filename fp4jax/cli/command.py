"""What all commands share: plug-ins, exit codes, errors in one line."""

import dataclasses
import inspect
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fp4jax import plugins as loaded_plugins
from fp4jax.cli.logged_lines import shown_in_lines
from fp4jax.cli.parsing import COMMON, in_flags, parse, read_config, take_flag, take_values
from fp4jax.cli.process import prepare
from fp4jax.train import BusyError, DivergedError, Terminated, hosts
from fp4jax.train.arrays import OutOfMemoryError
from fp4jax.train.signals import TERMINATED

# What a shell says of a command whose output nobody reads: 128 + SIGPIPE.
_PIPE = 141


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command of the command line, as :func:`main` takes it.

    Attributes:
        command, arguments, description, config: see :func:`main`.
    """

    command: Callable[[Any], None]
    arguments: Any
    description: str | None
    config: Callable[[Path, Sequence[str]], Any] | None = None

    def run(self, argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
        """Runs it: :func:`main`."""
        main(
            self.command,
            self.arguments,
            self.description,
            config=self.config,
            argv=argv,
            prog=prog,
        )


def main(
    command: Callable[[Any], None],
    arguments: Any,
    description: str | None,
    *,
    config: Callable[[Path, Sequence[str]], Any] | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Imports the plug-ins, parses the command line, runs ``command``.

    Exit codes: 2 if what was asked is wrong, 1 for a run that diverged, 130 after Ctrl-C, 141 if
    nobody reads the output, 75 if another process of a training has ended, and that
    of an error's ``exit_code`` where it has one.

    Args:
        command: is called with the parsed arguments.
        arguments: their type, a dataclass or subcommands of tyro's; or a function of the command
            line and the default arguments (or None) that returns it, which is called when the
            plug-ins are imported, such as :func:`fp4jax.cli.model_options.typed`.
        description: for ``--help``.
        config: the arguments for a file and a command line, which changes something of them: the
            command then takes ``--config FILE``.
        argv: the command line without the program; default: of this process.
        prog: the program's name, for ``--help``; default: of this process.
    """
    prepare()
    debug, argv = take_flag(sys.argv[1:] if argv is None else argv, "--debug")
    kind: Any = arguments
    try:
        try:
            modules, argv = take_values(argv, "--plugin")
            loaded_plugins.load(modules)
            default = None
            if config is not None:
                path, argv = read_config(argv)
                default = path and config(path, argv)
            if inspect.isfunction(arguments):
                kind = arguments(argv, default)
            parsed = parse(kind, argv, _described(description, config), default, prog=prog)
            with shown_in_lines():
                command(parsed)
        finally:
            # Else the interpreter does it, after the last of the handlers below.
            sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(_PIPE)
        code, said = _ending(error, kind)
        if code is None:
            if not isinstance(error, SystemExit):
                _leave_others(error)
            raise
        if debug:
            traceback.print_exception(error)
        print(f"error: {said}", file=sys.stderr)
        # Of several processes of one training: the others are not waited for.
        hosts.leave(code)
        sys.exit(code)


def _leave_others(error: BaseException) -> None:
    """A mistake of the program ends this process of a training by several, with its traceback."""
    if hosts.are_connected():
        traceback.print_exception(error)
        hosts.leave(1)


def plugins() -> tuple[str, ...]:
    """The modules that ``--plugin`` named, for a run to record."""
    return loaded_plugins.names()


def _described(description: str | None, config: Any) -> str:
    """What ``--help`` says first: of the command, and of what every command takes."""
    text = (description or "").strip() + COMMON
    return text if config is None else f"{text}--config FILE starts from the config.json of a run."


def _ending(error: BaseException, arguments: Any) -> tuple[int | None, str]:
    """Exit code and message for an error; no code for one that is a mistake of the program."""
    match error:
        case KeyboardInterrupt():
            return 130, "interrupted; repeat the command to go on."
        case DivergedError():
            return 1, str(error)
        case BusyError() | OutOfMemoryError():
            return 2, str(error)
        case Terminated():
            return TERMINATED, "asked to end; all is saved. Repeat the command to go on."
        case ValueError() | OSError() | ModuleNotFoundError():
            return 2, in_flags(str(error), arguments)
        case _:
            return getattr(error, "exit_code", None), str(error)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that was closed; it is then no longer written to."""
    try:
        pipe = sys.stdout.fileno()
        state = select.poll()
        state.register(pipe, 0)
        closed = any(event & select.POLLERR for _, event in state.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows has no poll, a notebook no file
        return False
    if closed:
        # What is left in its buffer would fail once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)
    return closed
