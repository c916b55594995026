"""Executes a study: skips what is finished, and has an engine train the rest."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data import Cohort
from fp4jax.study.engines import Engine, Local, Work
from fp4jax.study.expectations import Expectation
from fp4jax.study.plan import Study
from fp4jax.study.record import described, write_record
from fp4jax.study.worker import Worker
from fp4jax.train.config import RunConfig
from fp4jax.train.fit import Saving
from fp4jax.train.folder import RunFolder
from fp4jax.train.listeners import Listener
from fp4jax.train.run import Options, bound, train_together
from fp4jax.train.task import Data


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A study that was executed.

    Attributes:
        folders: of the finished runs, in the study's order.
        failures: (run, one line) of the runs that failed, now or in an earlier call.
        trained: number of runs that were finished now, by this process or another one.
        changed: whether a run was finished or failed now.
        open: runs that are neither: other processes train them, and the engine did not wait.
    """

    folders: tuple[RunFolder, ...]
    failures: tuple[tuple[str, str], ...]
    trained: int
    changed: bool
    open: tuple[str, ...] = ()


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
    engine: Engine | None = None,
    train: Callable[..., Any] = train_together,
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
        retry: runs that failed before, too; else they stay failed. What is known of the failures
            is deleted first.
        saving: when checkpoints are written.
        listener: is told what happens, and of every run once when it has ended, of those that were
            finished before at the start; default: a bar for each run.
        synthetic: the data are no patients': reports may show them.
        engine: what has the runs trained, :func:`fp4jax.study.engine`; default: this process.
        train: what trains a part, with the arguments of :func:`fp4jax.train.train_together`; for
            rehearsals of a study.

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
    groups = study.groups()
    runs = [run for group in groups for run in group]
    data = bound(runs[0], data)
    # Whoever listens shows what there is to see.
    options = Options(listener, progress=listener is None, saving=saving or Saving())
    worker = Worker(data, out / "runs", options=options, train=train)
    names = [worker.name(run) for run in runs]
    about = {**described(data), "synthetic": synthetic}
    write_record(study, about, out, names=names, name=name, expected=expected)
    if retry:
        for run in runs:
            worker.folder(run).clear_failure()
    open_ = []
    for run in runs:
        if worker.is_open(run):
            open_.append(run)
        else:
            worker.tell(run)
    if open_:
        (engine or Local())(Work(groups, worker, study.max_lanes))
    return _outcome(runs, open_, worker)


def _outcome(runs: Sequence[RunConfig], before: Sequence[RunConfig], worker: Worker) -> Outcome:
    """What there is now; ``before``: the runs that were open."""
    finished, failures, left = [], [], []
    for run in runs:
        folder = worker.folder(run)
        if worker.is_finished(run):
            finished.append(folder)
        elif (failure := folder.failure()) is not None:
            failures.append((folder.path.name, failure["error"].splitlines()[0]))
        else:
            left.append(folder.path.name)
    trained = sum(map(worker.is_finished, before))
    changed = not all(map(worker.is_open, before))
    return Outcome(tuple(finished), tuple(failures), trained, changed, tuple(left))
