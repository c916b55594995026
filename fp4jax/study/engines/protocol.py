"""Engine: the protocol, and engines by name."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from fp4jax.registration import Registry
from fp4jax.study.engines.work import Work


@runtime_checkable
class Engine(Protocol):
    """Has the runs of a study trained, wherever that is; returns when they are.

    The runs' folders are all that counts: what an engine is told, or forgets, changes no result.
    So one may be killed at any moment, and another one go on.
    """

    def __call__(self, work: Work) -> None:
        """Trains what is open.

        Args:
            work: the study's groups in their order, and what trains parts of them.

        Raises:
            OSError: the folder of runs cannot be written to.
        """
        ...


_ENGINES: Registry[Callable[..., Engine]] = Registry("engine")


def register_engine(name: str, make: Callable[..., Engine]) -> None:
    """Makes an engine known by a name, to :func:`engine` and ``fp4jax study --engine``.

    Args:
        name: letters, digits and ``_ . + -``.
        make: a class or function that returns an :class:`Engine`; its arguments are the options.

    Raises:
        ValueError: the name is taken, or ``make`` cannot be called.

    Example:
        >>> def backwards():
        ...     def run(work):
        ...         for part in reversed(list(work.parts())):
        ...             work.train(part)
        ...
        ...     return run
        >>> register_engine("backwards", backwards)
        >>> engine("backwards")  # doctest: +ELLIPSIS
        <function ...>
        >>> _ENGINES.remove("backwards")
    """
    if not callable(make):
        raise ValueError(f"engine {name!r}: {make!r} cannot be called; give a class or a function.")
    _ENGINES.add(name, make)


def engine(name: str, **options: Any) -> Engine:
    """The engine of that name.

    Args:
        name: ``local`` (:class:`fp4jax.study.engines.Local`), ``ray``
            (:class:`fp4jax.study.engines.RayEngine`), or a registered one.
        options: its arguments.

    Raises:
        ValueError: there is none of that name, or it has no such option.

    Example:
        >>> engine("local", wait=120.0)
        Local(wait=120.0)
        >>> engine("slurm")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: no engine 'slurm'; known names: local, ray...
    """
    make = _ENGINES.find(name)
    try:
        return make(**options)
    except TypeError as error:
        raise ValueError(f"engine {name!r}: {error}.") from error
