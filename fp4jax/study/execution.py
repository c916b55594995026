"""Executes a study: skips what is finished, records what failed, shares the work with others."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from fp4jax.data import Cohort
from fp4jax.study.expectations import Expectation
from fp4jax.study.lanes import lanes
from fp4jax.study.plan import Study
from fp4jax.study.record import described, write_record
from fp4jax.train.config import RunConfig
from fp4jax.train.fit import Saving
from fp4jax.train.folder import FinishedError, RunFolder
from fp4jax.train.lane import DivergedError
from fp4jax.train.listeners import Guarded, Listener
from fp4jax.train.lock import BusyError, LostError
from fp4jax.train.run import Options, bound, member_of, train_together
from fp4jax.train.task import Data

_LOG = logging.getLogger(__name__)
# Seconds between two looks at runs that other processes train.
_POLL = 1.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that was executed.

    Attributes:
        folders: of the finished runs, in the study's order.
        failures: (run, one line) of the runs that failed, now or in an earlier call.
        trained: number of runs that were finished now, by this process or another one.
        changed: whether a run was finished or failed now.
    """

    folders: tuple[RunFolder, ...]
    failures: tuple[tuple[str, str], ...]
    trained: int
    changed: bool


def execute(
    study: Study,
    data: Data | Cohort,
    out: Path,
    *,
    name: str = "study",
    expected: Sequence[Expectation] = (),
    retry: bool = False,
    saving: Saving | None = None,
    listener: Listener | None = None,
    synthetic: bool = False,
) -> Outcome:
    """Trains and evaluates all runs of a study that are not finished.

    Several processes may execute studies in one folder, the same ones too: a run is trained by one
    of them, the others go on with what else there is, and wait for it at the end.

    Args:
        study: what to run.
        data: what ``study.data.open(source)`` returned, or for slices a cohort.
        out: gets ``studies/<name>-<hash>.json`` (:mod:`fp4jax.study.record`) and ``runs/<id>/``;
            several studies may share it, and their runs.
        name: of the study, in files and reports.
        expected: what it should find.
        retry: runs that failed before, too; else they stay failed.
        saving: when checkpoints are written.
        listener: is told what happens, and of every run once when it has ended, of those that were
            finished before at the start; default: a bar for each run.
        synthetic: the data are no patients': reports may show them.

    Raises:
        ValueError: data that do not fit.
        fp4jax.train.Terminated: on SIGTERM, after a checkpoint.
        OSError: a disk that is full or read-only. Whatever else goes wrong in a run is recorded
            in its folder (``failed.json``, with the traceback), and the study goes on.

    Example:
        >>> import tempfile
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import Slices
        >>> cohort = phantom.load(patients=20, slices=4, image_size=16, cache=False)
        >>> small = {"model_options": {"stages": 2, "channels": 16}, "batch_size": 16}
        >>> task = Slices("phantom", image_size=16, augment=False)
        >>> study = Study(task, archs=("cnn",), recipes=("baseline",), epochs=1, **small)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     first, again = (execute(study, cohort, Path(out)) for _ in range(2))
        >>> first.trained, again.trained
        (1, 0)
    """
    runs = study.runs()
    data = bound(runs[0], data)
    # Whoever listens shows what there is to see.
    options = Options(listener, progress=listener is None, saving=saving or Saving())
    execution = _Execution(runs, data, out / "runs", retry, options)
    names = [execution.folder(run).path.name for run in runs]
    about = {**described(data), "synthetic": synthetic}
    write_record(study, about, out, names=names, name=name, expected=expected)
    parts = [part for group in study.groups() for part in lanes(group, data, study.max_lanes)]
    execution(parts)
    return execution.outcome()


class _Execution:
    """Runs, and what became of them."""

    def __init__(
        self, runs: Sequence[RunConfig], data: Data, root: Path, retry: bool, options: Options
    ):
        self.runs, self.data, self.root, self.retry = list(runs), data, root, retry
        self._folders: dict[str, RunFolder] = {}
        self._listener = _Once(options.listener or Listener())
        self._options = dataclasses.replace(options, listener=self._listener)
        # Names of runs that failed in this call: they are not tried once more.
        self._failed: set[str] = set()
        self._open = [run for run in self.runs if self._is_open(run)]

    def __call__(self, parts: Sequence[list[RunConfig]]) -> None:
        """Trains parts of the study, those that other processes train last."""
        for run in self.runs:
            if not self._is_open(run):
                self._tell(run)
        busy = [part for part in parts if not self._part(part)]
        if busy:
            count = sum(self._is_open(run) for part in busy for run in part)
            _LOG.warning("Waiting for other processes, which train what is left (%d runs).", count)
        while busy:
            time.sleep(_POLL)
            busy = [part for part in busy if not self._part(part)]

    def folder(self, run: RunConfig) -> RunFolder:
        """Of a run, which need not be there."""
        key = str(run.to_json())
        if key not in self._folders:
            self._folders[key] = member_of(run, self.data, self.root).folder
        return self._folders[key]

    def outcome(self) -> Outcome:
        """What there is now."""
        finished, failures = [], []
        for run in self.runs:
            folder = self.folder(run)
            if folder.summary() is not None:
                finished.append(folder)
            else:
                error = (folder.failure() or {"error": "not run"})["error"]
                failures.append((folder.path.name, error.splitlines()[0]))
        trained = sum(self.folder(run).summary() is not None for run in self._open)
        changed = bool(trained or self._failed)
        return Outcome(tuple(finished), tuple(failures), trained, changed)

    def _is_open(self, run: RunConfig) -> bool:
        """Whether a run is to be trained: it is not finished, and has not failed for good."""
        folder = self.folder(run)
        if folder.summary() is not None:
            return False
        tried = not self.retry or folder.path.name in self._failed
        return not (tried and folder.failure() is not None)

    def _part(self, part: Sequence[RunConfig]) -> bool:
        """Trains what is open; False if another process trains some of it."""
        for run in part:
            self._without_teacher(run)
        open_ = [run for run in part if self._is_open(run)]
        if any(self._is_running(run) for run in open_):
            return False
        if not open_:
            return True
        error: Exception | None = None
        if open_[0].method == "ptq":
            self._listener.begins(open_)  # nothing is trained, so the trainer does not say it
        try:
            train_together(open_, self.data, self.root, options=self._options)
        except OSError:
            raise
        except (BusyError, LostError, FinishedError):
            return False
        except Exception as caught:
            error = caught
        for teacher in self._teachers(open_):
            if teacher.summary() is None and teacher.failure() is not None:
                self._failed.add(teacher.path.name)
        settled = [self._settle(run, error) for run in open_]
        return all(settled)

    def _settle(self, run: RunConfig, error: Exception | None) -> bool:
        """After training: records why a run has failed; False if that is not known yet."""
        folder = self.folder(run)
        if folder.summary() is None and not self._without_teacher(run):
            if isinstance(error, DivergedError):
                # The trainer records which of the runs diverged; another process has the rest.
                if folder.failure() is None:
                    return False
            elif error is not None:
                folder.write_failure(error)
            self._failed.add(folder.path.name)
        self._tell(run)
        return True

    def _without_teacher(self, run: RunConfig) -> bool:
        """Whether the baseline that an open run starts from has failed; the run has then too."""
        if run.method == "qat" or not self._is_open(run) or self._is_open(run.teacher()):
            return False
        teacher = self.folder(run.teacher())
        failure = teacher.failure()
        if failure is None or teacher.summary() is not None:
            return False
        reason = f"its baseline {teacher.path.name} has failed: {failure['error']}"
        folder = self.folder(run)
        folder.write_failure(DivergedError(reason.splitlines()[0]))
        self._failed.add(folder.path.name)
        self._tell(run)
        return True

    def _is_running(self, run: RunConfig) -> bool:
        """Whether another process trains a run or what it starts from, by its heartbeat."""
        needed = [self.folder(run), *self._teachers([run])]
        return any(folder.status().state == "running" for folder in needed)

    def _teachers(self, runs: Sequence[RunConfig]) -> list[RunFolder]:
        """Folders of the baselines that runs start from."""
        return [self.folder(run.teacher()) for run in runs if run.method != "qat"]

    def _tell(self, run: RunConfig) -> None:
        folder = self.folder(run)
        self._listener.ended(run, folder.summary(), folder.path)


class _Once(Listener):
    """Tells of the end of a run once, whoever says it first."""

    def __init__(self, listener: Listener):
        self._inner, self._told = Guarded(listener), set[str]()

    def begins(self, runs) -> None:
        self._inner.begins(runs)

    def steps(self, done) -> None:
        self._inner.steps(done)

    def epoch(self, run, record) -> None:
        self._inner.epoch(run, record)

    def ended(self, run, summary, folder) -> None:
        if folder.name not in self._told:
            self._told.add(folder.name)
            self._inner.ended(run, summary, folder)
