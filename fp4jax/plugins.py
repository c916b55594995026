"""Plug-ins: users' own modules, imported by name because they register models, losses, data."""

import importlib
import os
import sys
import traceback
from collections.abc import Iterable

_loaded: list[str] = []


def load(modules: Iterable[str]) -> None:
    """Imports modules, from what is installed or else from the current folder.

    A module registers what it brings when it is imported: with :func:`fp4jax.models.register`,
    :func:`fp4jax.losses.register`, :func:`fp4jax.data.register` or
    :func:`fp4jax.register_recipe`. One that was loaded before is not run again.

    Raises:
        ValueError: a module that is not found, or whatever it raises, in one line with its name.

    Example:
        >>> load(["colorsys"])
        >>> names()
        ('colorsys',)
        >>> _loaded.remove("colorsys")
        >>> load(["no_such_module"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: plug-in 'no_such_module': there is no module of that name, neither installed ...
    """
    for name in modules:
        _import(name)
        if name not in _loaded:
            _loaded.append(name)


def names() -> tuple[str, ...]:
    """Of the plug-ins that were loaded, in that order: what a run records."""
    return tuple(_loaded)


def _import(name: str) -> None:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    if name.endswith(".py") or os.sep in name:
        module = os.path.splitext(os.path.basename(name))[0]
        raise ValueError(
            f"plug-in {name!r} is a file; give its module's name, {module}, in the folder that has "
            "it."
        )
    try:
        importlib.invalidate_caches()  # it may have been written a moment ago
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"plug-in {name!r} needs a module: {error}") from error
        raise ValueError(
            f"plug-in {name!r}: there is no module of that name, neither installed nor in {here}."
        ) from error
    except (Exception, SystemExit) as error:
        # The deepest line of its own.
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())
        raise ValueError(
            f"plug-in {name!r} cannot be imported: {type(error).__name__}: {said} "
            f"({where.filename}, line {where.lineno})."
        ) from error
