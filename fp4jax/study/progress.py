"""Progress: what has become of a study's runs, from their folders; each is looked at when asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fp4jax.train.config import RunConfig
from fp4jax.train.folder import RunFolder
from fp4jax.train.lane import DivergedError
from fp4jax.train.member import member_of
from fp4jax.train.task import Data


class Progress:
    """The runs of studies on some data, in one folder.

    A shared folder answers slowly: that a run is finished, which never changes, is asked for until
    it is so and then no more, and a run's id is computed once.

    Args:
        data: of all runs.
        root: folder of the runs.
    """

    def __init__(self, data: Data, root: Path):
        self.data, self.root = data, root
        # By identity, and with the run so that no other one can have it.
        self._folders: dict[int, tuple[RunConfig, RunFolder]] = {}
        self._teachers: dict[int, tuple[RunConfig, RunConfig]] = {}
        self._finished: set[Path] = set()

    def folder(self, run: RunConfig) -> RunFolder:
        """Of a run, which need not be there."""
        if id(run) not in self._folders:
            self._folders[id(run)] = run, member_of(run, self.data, self.root).folder
        return self._folders[id(run)][1]

    def name(self, run: RunConfig) -> str:
        """The run's id, the name of its folder."""
        return self.folder(run).path.name

    def teacher(self, run: RunConfig) -> RunConfig | None:
        """The baseline that a run starts from; None for one that starts from nothing."""
        if run.method == "qat":
            return None
        if id(run) not in self._teachers:
            self._teachers[id(run)] = run, run.teacher()
        return self._teachers[id(run)][1]

    def is_finished(self, run: RunConfig) -> bool:
        """Whether a run has its summary."""
        folder = self.folder(run)
        if folder.path not in self._finished:
            if not folder.finished:
                return False
            self._finished.add(folder.path)
        return True

    def is_open(self, run: RunConfig) -> bool:
        """Whether a run is to be trained: it is neither finished nor failed."""
        return not self.is_finished(run) and not self.folder(run).failed

    def elsewhere(self, runs: Sequence[RunConfig]) -> Literal["busy", "waiting"] | None:
        """Whether another process trains one of the runs, or what one starts from.

        By the heartbeats. None: nobody does, as far as one sees.
        """
        if any(self.folder(run).running for run in runs):
            return "busy"
        teachers = [teacher for run in runs if (teacher := self.teacher(run)) is not None]
        trained = (self.folder(t).running for t in teachers if not self.is_finished(t))
        return "waiting" if any(trained) else None

    def has_no_teacher(self, run: RunConfig) -> bool:
        """Whether the baseline that an open run starts from has failed; so has the run then."""
        teacher = self.teacher(run)
        if teacher is None or not self.is_open(run) or self.is_finished(teacher):
            return False
        failure = self.folder(teacher).failure()
        if failure is None:
            return False
        reason = f"its baseline {self.name(teacher)} has failed: {failure['error']}"
        self.folder(run).write_failure(DivergedError(reason.splitlines()[0]))
        return True
