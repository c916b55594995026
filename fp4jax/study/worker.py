"""Worker: trains parts of a study in this process, under the runs' locks, and records failures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fp4jax.study.progress import Progress
from fp4jax.train.config import RunConfig
from fp4jax.train.folder import FinishedError
from fp4jax.train.lane import DivergedError
from fp4jax.train.listeners import Guarded, Listener
from fp4jax.train.lock import BusyError, LostError
from fp4jax.train.run import Options, train_together
from fp4jax.train.task import Data

#: What has become of a part: nothing in it is open any more; another process trains some of it; or
#: another process trains a baseline that it starts from.
State = Literal["done", "busy", "waiting"]


class Worker(Progress):
    """Trains parts of a study; any number of them, in any processes, may share a folder of runs.

    Args:
        data: of all runs.
        root: folder of the runs.
        options: how they are trained; the listener is told of the end of each run once.
        train: what trains a part, :func:`fp4jax.train.train_together` or, for a rehearsal of what
            goes on around training, something with its arguments.
    """

    def __init__(
        self,
        data: Data,
        root: Path,
        *,
        options: Options | None = None,
        train: Callable[..., Any] = train_together,
    ):
        super().__init__(data, root)
        options = options or Options()
        self.listener = _Once(options.listener or Listener())
        self.options = dataclasses.replace(options, listener=self.listener)
        self.train = train

    def __call__(self, part: Sequence[RunConfig]) -> State:
        """Trains what is open of runs that differ in split and seed alone.

        Raises:
            OSError: a disk that is full or read-only. Whatever else goes wrong is recorded in the
                folder of the run.
            fp4jax.train.Terminated: on SIGTERM, after a checkpoint.
        """
        for run in part:
            self.has_no_teacher(run)
        open_ = [run for run in part if self.is_open(run)]
        if not open_:
            for run in part:
                self.tell(run)
            return "done"
        if (state := self.elsewhere(open_)) is not None:
            return state
        error: Exception | None = None
        if open_[0].method == "ptq":
            self.listener.begins(open_)  # nothing is trained, so the trainer does not say it
        try:
            self.train(open_, self.data, self.root, options=self.options)
        except OSError:
            raise
        except (BusyError, LostError, FinishedError):
            return self.elsewhere(open_) or "busy"
        except Exception as caught:
            error = caught
        settled = [self._settle(run, error) for run in open_]
        return "done" if all(settled) else "busy"

    def tell(self, run: RunConfig) -> None:
        """Says that a run has ended, if nobody did."""
        folder = self.folder(run)
        if folder.path.name in self.listener.told:
            return
        self.listener.ended(run, folder.summary(), folder.path)

    def _settle(self, run: RunConfig, error: Exception | None) -> bool:
        """After training: records why a run has failed; False if that is not known yet."""
        folder = self.folder(run)
        if not self.is_finished(run) and not self.has_no_teacher(run) and error is not None:
            # The trainer records which of the runs diverged; another process has the rest.
            if not isinstance(error, DivergedError):
                folder.write_failure(error)
            elif folder.failure() is None:
                return False
        self.tell(run)
        return True


class _Once(Listener):
    """Tells of the end of a run once, whoever says it first."""

    def __init__(self, listener: Listener):
        self._inner, self.told = Guarded(listener), set[str]()

    def begins(self, runs) -> None:
        self._inner.begins(runs)

    def starts(self, run, folder) -> None:
        self._inner.starts(run, folder)

    def steps(self, done) -> None:
        self._inner.steps(done)

    def epoch(self, run, record) -> None:
        self._inner.epoch(run, record)

    def ended(self, run, summary, folder) -> None:
        if folder.name not in self.told:
            self.told.add(folder.name)
            self._inner.ended(run, summary, folder)
