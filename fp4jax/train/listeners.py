"""Listener: who is told what training does, such as a progress bar, a tracker, a study's table."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


class Listener:
    """Who is told what training does; this one keeps it to itself.

    Derive from it, and override what you want to know. Calls come from the process and the thread
    that train, between steps, so return soon. Nothing that a listener does changes a run, and an
    error in it stops none (:class:`Guarded`).

    Example:
        >>> class Best(Listener):
        ...     value = 0.0
        ...
        ...     def epoch(self, run, record):
        ...         self.value = max(self.value, record.get("val_auprc", 0.0))
        >>> best = Best()
        >>> listeners = Listeners([best, Listener()])
        >>> listeners.epoch("cnn_4m", {"epoch": 1, "val_auprc": 0.5})
        >>> best.value
        0.5
    """

    def begins(self, runs: Sequence[Any]) -> None:
        """Runs are trained next.

        Args:
            runs: their configurations (:class:`fp4jax.train.RunConfig`); several go side by side.
        """

    def starts(self, run: Any, folder: Path) -> None:
        """A run starts, or goes on after the epochs that its ``metrics.jsonl`` has.

        Args:
            run: its configuration.
            folder: of the run; its name is the run's id.
        """

    def steps(self, done: int) -> None:
        """Steps were taken.

        Args:
            done: so many since the last call; runs that go side by side take a step together.
        """

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """An epoch of a run ended, and was validated if it was its turn.

        Args:
            run: the run's id, the name of its folder.
            record: what the epoch's line of ``metrics.jsonl`` has: ``epoch`` (from 1), and scalars
                such as ``train_loss``, ``val_loss``, ``val_auprc``, ``learning_rate``.
        """

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """A run ended, now or before this call.

        Args:
            run: its configuration.
            summary: its ``summary.json``; None if it failed or was interrupted.
            folder: of the run.
        """


class Guarded(Listener):
    """A listener whose errors stop nothing.

    At its first error a RuntimeWarning says what went wrong; of what follows it is told all the
    same. Ctrl-C passes.

    Args:
        listener: that may fail.

    Example:
        >>> class Broken(Listener):
        ...     def steps(self, done):
        ...         raise OSError("no route to host")
        >>> guarded = Guarded(Broken())
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     guarded.steps(1)
        ...     guarded.steps(1)
        >>> [str(warning.message) for warning in caught]
        ['listener Broken failed and training goes on: OSError: no route to host']
    """

    def __init__(self, listener: Listener):
        self.listener = listener
        self._warned = False

    def begins(self, runs: Sequence[Any]) -> None:
        """Told on."""
        with self._guard():
            self.listener.begins(runs)

    def starts(self, run: Any, folder: Path) -> None:
        """Told on."""
        with self._guard():
            self.listener.starts(run, folder)

    def steps(self, done: int) -> None:
        """Told on."""
        with self._guard():
            self.listener.steps(done)

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """Told on, with a copy of the record."""
        with self._guard():
            self.listener.epoch(run, dict(record))

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """Told on."""
        with self._guard():
            self.listener.ended(run, summary, folder)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._warned:
                return
            self._warned = True
            # Several may be of one class.
            name = getattr(self.listener, "name", type(self.listener).__name__)
            what = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"listener {name} failed and training goes on: {what}", RuntimeWarning, stacklevel=4
            )


class Listeners(Listener):
    """Several listeners, each told in turn and each guarded.

    Args:
        listeners: those that are told.
    """

    def __init__(self, listeners: Iterable[Listener]):
        self.listeners = tuple(map(Guarded, listeners))

    def begins(self, runs: Sequence[Any]) -> None:
        """Told to all."""
        for listener in self.listeners:
            listener.begins(runs)

    def starts(self, run: Any, folder: Path) -> None:
        """Told to all."""
        for listener in self.listeners:
            listener.starts(run, folder)

    def steps(self, done: int) -> None:
        """Told to all."""
        for listener in self.listeners:
            listener.steps(done)

    def epoch(self, run: str, record: dict[str, Any]) -> None:
        """Told to all."""
        for listener in self.listeners:
            listener.epoch(run, record)

    def ended(self, run: Any, summary: dict[str, Any] | None, folder: Path) -> None:
        """Told to all."""
        for listener in self.listeners:
            listener.ended(run, summary, folder)
