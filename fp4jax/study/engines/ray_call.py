"""What a task does in a process of Ray's: trains runs, and says which are still open."""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fp4jax.study.lanes import lanes
from fp4jax.study.worker import Worker
from fp4jax.train.config import RunConfig
from fp4jax.train.fit import Saving
from fp4jax.train.ray_cluster import Setting
from fp4jax.train.run import Options
from fp4jax.train.signals import TERMINATED, Terminated
from fp4jax.train.task import Data

# Of the share of a GPU's memory that a process may have; the rest is for the driver's own needs.
_USABLE = 0.9


@dataclasses.dataclass(frozen=True)
class Call:
    """What is the same for all tasks of a study.

    Attributes:
        root: of the runs.
        setting: in which the study was started.
        saving: when checkpoints are written.
        max_lanes: most runs that go side by side.
        train: what trains a part.
    """

    root: Path
    setting: Setting
    saving: Saving
    max_lanes: int
    train: Callable[..., Any]

    def begin(self) -> None:
        """Makes this process one that trains as that of the study would.

        Raises:
            FileNotFoundError: this node does not see the folder of the runs.
        """
        if not self.root.parent.is_dir():
            raise FileNotFoundError(
                f"the node {platform.node()} does not see {self.root.parent}; write the study to a "
                "folder that all nodes share."
            )
        if 0 < self.setting.gpus < 1:
            share = f"{_USABLE * self.setting.gpus:.3f}"
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
        self.setting.begin()


def train_here(
    what: tuple[Call, Sequence[RunConfig]], data: Data, *baselines: Sequence[str]
) -> tuple[str, ...]:
    """Trains runs, parts of them side by side; ids of those that another process trains.

    Args:
        what: how, and which runs.
        data: of the runs; arrays lie in the node's memory once, for all processes.
        baselines: what the tasks returned that had to come before this one.
    """
    call, runs = what
    call.begin()
    options = Options(saving=call.saving, progress=False)
    worker = Worker(data, call.root, options=options, train=call.train)
    try:
        for part in lanes(runs, data, call.max_lanes):
            worker(part)
    except Terminated:
        # The node is asked to go: to Ray a process that died, whose task another node repeats.
        os._exit(TERMINATED)
    return tuple(worker.name(run) for run in runs if worker.is_open(run))
