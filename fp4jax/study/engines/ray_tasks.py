"""The tasks of a study on a Ray cluster: submitted in order, repeated until nothing is open."""

import collections
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fp4jax.study.engines.ray_call import Call, train_here
from fp4jax.study.engines.work import Work
from fp4jax.study.worker import Worker
from fp4jax.train.config import RunConfig
from fp4jax.train.ray_cluster import Setting
from fp4jax.train.signals import Terminated, Termination
from fp4jax.train.task import Data

# Tasks that Ray knows of at a time; the others wait here, where they cost nothing.
_AHEAD = 1000
# Seconds between two looks at SIGTERM and at runs that other processes train.
_POLL = 1.0
# Seconds before runs that another process trained are tried again.
_AGAIN = 5.0


class Tasks:
    """Has the groups of a study trained by tasks of a Ray that is connected."""

    def __init__(
        self,
        ray: Any,
        work: Work,
        gpus: float | int,
        cpus: float | int,
        retries: int,
        prepare: Callable[[], None] | None,
    ):
        self.ray, self.work, self.worker = ray, work, work.worker
        self._task = task(ray, gpus, cpus, retries)
        self._size = work.max_lanes if gpus else 1
        self._shared = _put(ray, self.worker.data)
        self._call = Call(
            root=self.worker.root.absolute(),
            setting=Setting.here(gpus, prepare),
            saving=self.worker.options.saving,
            max_lanes=work.max_lanes,
            train=self.worker.train,
        )
        # What every run's task returns, by the run's id.
        self._of_run: dict[str, Any] = {}
        self._pending: dict[Any, list[RunConfig]] = {}
        # (when, what) is to be submitted once more.
        self._again: list[tuple[float, list[RunConfig]]] = []

    def __call__(self) -> None:
        """Returns when nothing is open any more."""
        queue = collections.deque(self._parts())
        try:
            with Termination() as termination:
                while queue or self._pending or self._again:
                    while queue and len(self._pending) < _AHEAD:
                        self._submit(queue.popleft())
                    self._repeat()
                    self._wait()
                    if termination.asked:
                        raise Terminated
        finally:
            for task in self._pending:
                self.ray.cancel(task)

    def _parts(self) -> Iterable[list[RunConfig]]:
        """Of the groups what is open; a group at most as large as its lanes may be."""
        for group in self.work.groups:
            for start in range(0, len(group), self._size):
                part = group[start : start + self._size]
                if open_ := [run for run in part if self.worker.is_open(run)]:
                    yield open_

    def _submit(self, part: Sequence[RunConfig]) -> None:
        """A task for runs, after one for what they start from."""
        part = [run for run in part if self.worker.name(run) not in self._of_run]
        if part:
            baselines = self._baselines(part)
            task = self._task.remote((self._call, part), self._shared, *baselines)
            self._pending[task] = part
            self._of_run |= {self.worker.name(run): task for run in part}

    def _baselines(self, part: Sequence[RunConfig]) -> list[Any]:
        """Tasks that train what runs start from; made here where the study has no such runs."""
        teachers = {
            self.worker.name(teacher): teacher
            for run in part
            if (teacher := self.worker.teacher(run)) is not None and self.worker.is_open(teacher)
        }
        self._submit(list(teachers.values()))
        return list(dict.fromkeys(self._of_run[name] for name in teachers))

    def _wait(self) -> None:
        """Until some tasks have ended, or a while."""
        if not self._pending:
            time.sleep(_POLL)
            return
        tasks = list(self._pending)
        # Those that ended together are looked at together.
        ended, _ = self.ray.wait(tasks, num_returns=1, timeout=_POLL)
        if ended:
            ended, _ = self.ray.wait(tasks, num_returns=len(tasks), timeout=0)
        for task in sorted(ended, key=tasks.index):
            self._ended(task, self._pending.pop(task))

    def _ended(self, task: Any, part: list[RunConfig]) -> None:
        errors = self.ray.exceptions
        try:
            left = set(self.ray.get(task))
        except errors.RayTaskError as error:
            # What ends a study here would end it there: a full disk, a folder that is not shared.
            raise error.cause from error
        except errors.RayError as error:
            left = set()
            self._died(part, error)
        open_ = []
        for run in part:
            if self.worker.name(run) in left and self.worker.is_open(run):
                open_.append(run)
            else:
                _tell(self.worker, run)
        if open_:
            self._again.append((time.monotonic() + _AGAIN, open_))

    def _repeat(self) -> None:
        """What another process trained, when that has stopped."""
        now, later = time.monotonic(), []
        for when, part in self._again:
            if now < when:
                later.append((when, part))
            elif self.worker.elsewhere(part):
                later.append((now + _AGAIN, part))
            else:
                for run in part:
                    del self._of_run[self.worker.name(run)]
                self._submit(part)
        self._again = later

    def _died(self, part: Sequence[RunConfig], error: Exception) -> None:
        """The task's process died time and again, or that of the baselines."""
        for run in part:
            self.worker.has_no_teacher(run)
            if self.worker.is_open(run) and not self.worker.folder(run).running:
                reason = " ".join(str(error).split())[:500]
                self.worker.folder(run).write_failure(RuntimeError(f"its task died: {reason}"))


def task(ray: Any, gpus: float | int, cpus: float | int, retries: int) -> Any:
    """What trains runs in a process of Ray's, with what it reserves."""
    # A GPU's memory is free for others only when the process is gone. On CPUs it goes on, with what
    # it has compiled.
    once = {"max_calls": 1} if gpus else {}
    return ray.remote(
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=retries,
        retry_exceptions=False,
        scheduling_strategy="SPREAD",
        **once,
    )(train_here)


def _put(ray: Any, data: Data) -> Any:
    """Data in the object store, from which each node gets them once."""
    try:
        return ray.put(data)
    except TypeError as error:
        raise ValueError(
            f"data of the type {type(data).__name__} cannot be sent to other processes, since "
            f"pickle refuses them ({error}); keep open files and locks out of them."
        ) from error


def _tell(worker: Worker, run: RunConfig) -> None:
    """Listeners learn afterwards what happened to a run elsewhere."""
    folder = worker.folder(run)
    worker.listener.begins([run])
    for record in folder.history():
        worker.listener.epoch(folder.path.name, record)
    worker.tell(run)
