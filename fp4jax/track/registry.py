"""Trackers by name, the package's own and users'."""

from collections.abc import Callable
from pathlib import Path

from fp4jax.registration import Registry
from fp4jax.track.protocol import Tracker

_TRACKERS: Registry[Callable[[str, Path], Tracker]] = Registry("tracker")


def register_tracker(name: str, make: Callable[[str, Path], Tracker]) -> None:
    """Makes a tracker known by a name, to :func:`tracker` and ``--track NAME:TARGET``.

    Args:
        name: letters, digits and ``_ . + -``.
        make: a class or function of (target, out) that returns a :class:`Tracker`. ``target`` is
            what stands behind the colon, or "", and ``out`` the folder that the runs' folders, or
            those of a study, lie in.

    Raises:
        ValueError: the name is taken, or ``make`` cannot be called.

    Example:
        >>> register_tracker("nowhere", lambda target, out: Tracker())
        >>> type(tracker("nowhere:anything", Path("runs"))).__name__
        'Tracker'
        >>> _TRACKERS.remove("nowhere")
    """
    if not callable(make):
        raise ValueError(f"tracker {name!r}: {make!r} cannot be called; give a class or function.")
    _TRACKERS.add(name, make)


def tracker(spec: str, out: Path) -> Tracker:
    """The tracker that a command line names: ``tensorboard``, ``mlflow:URI``, ``wandb:PROJECT``.

    Raises:
        ValueError: there is none of that name, or what stands behind the colon is not for it.
        ModuleNotFoundError: its package is not installed; the message says what to install.

    Example:
        >>> tracker("neptune:lab", Path("runs"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: no tracker 'neptune'; known names: tensorboard, mlflow, wandb...
    """
    name, _, target = spec.partition(":")
    return _TRACKERS.find(name)(target, out)
