"""Shown: one run in one tracker, whose log is opened when it is needed and never told twice."""

import collections
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fp4jax.track.claim import Claim
from fp4jax.track.protocol import Log, State, Tracked, Tracker
from fp4jax.track.values import numbers


class Shown:
    """Tells a tracker of a run's epochs, each once and in order.

    What a call could not tell, because the tracker failed, is told with the next one.

    Args:
        tracker: that is told.
        run: the run.
        lock: a file by which other processes see that this one tells; default: there are none.

    Example:
        >>> class Kept(Tracker, Log):
        ...     seen = ()
        ...
        ...     def open(self, run):
        ...         return self
        ...
        ...     def scalars(self, epoch, values):
        ...         self.seen += ((epoch, values["train_loss"]),)
        >>> kept = Kept()
        >>> shown = Shown(kept, Tracked("cnn", Path("runs/cnn"), {}))
        >>> for history in ([1], [1, 2], [2]):
        ...     shown.epochs([{"epoch": i, "train_loss": 0.5} for i in history])
        >>> kept.seen
        ((1, 0.5), (2, 0.5))
    """

    def __init__(self, tracker: Tracker, run: Tracked, lock: Path | None = None):
        self.tracker, self.run = tracker, run
        self._claim = Claim(lock)
        self._log: Log | None = None
        self._pending: collections.deque[dict[str, Any]] = collections.deque()

    def epochs(self, records: Iterable[dict[str, Any]]) -> None:
        """Tells records of ``metrics.jsonl``; none opens the log.

        Raises:
            BlockingIOError: another process tells of the run.
        """
        self._pending.extend(records)
        if self._log is None:
            if not self._claim.take():
                raise BlockingIOError(f"another process shows {self.run.name}")
            self._log = self.tracker.open(self.run)
        while self._pending:
            record = self._pending[0]
            if record["epoch"] > self._log.epoch:
                self._log.scalars(record["epoch"], numbers(record))
                self._log.epoch = record["epoch"]
            self._pending.popleft()

    def finish(
        self,
        records: Iterable[dict[str, Any]],
        scores: Mapping[str, float],
        pictures: Callable[[], Mapping[str, bytes]],
    ) -> None:
        """Tells all that a finished run has, unless the tracker has it."""
        if self._log is None and (self.tracker.has(self.run) or not self._claim.take()):
            return
        try:
            # Another process may have been faster.
            if self._log is None and self.tracker.has(self.run):
                return
            self.epochs(records)
            log, self._log = self._log, None
            assert log is not None
            log.scores(log.epoch, scores)
            for name, png in pictures().items():
                log.picture(name, png)
            log.close("finished")
        finally:
            self._claim.give_back()

    def leave(self, state: State) -> None:
        """Closes the log of a run that is not finished."""
        log, self._log = self._log, None
        try:
            if log is not None:
                log.close(state)
        finally:
            self._claim.give_back()
