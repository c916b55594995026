"""The Ray engine: a task for each group of runs, on the nodes of a cluster.

Ray says where and when; what has become of a run is in its folder alone, which all nodes see. So a
task that Ray starts again after the loss of a node goes on from the last checkpoint, under the
run's lock.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from fp4jax.study.engines.ray_tasks import Tasks
from fp4jax.study.engines.work import Work
from fp4jax.train.ray_cluster import connected


@dataclasses.dataclass(frozen=True)
class RayEngine:
    """Groups of runs as tasks of Ray, https://docs.ray.io.

    The data go into Ray's object store: each node gets them once, and its processes share them. A
    task of ``qad`` or ``ptq`` takes that of its baseline as an object reference. Listeners are told
    of a run, and of its epochs, when its task has ended.

    Attributes:
        address: of a cluster, ``auto`` for the one of this host; default: ``$RAY_ADDRESS``, else a
            local Ray that is started, and ended after the study. A Ray that this process has
            connected to already is used, and left as it is.
        gpus_per_run: share of a GPU that is reserved for what is trained at a time, a run or the
            lanes of a group; below 1, several share a GPU, and its memory. Default: 1 where the
            cluster has GPUs, else 0.
        cpus_per_run: cores likewise.
        runtime_env: Ray's runtime environment, such as ``{"working_dir": "."}``, which copies code
            to the nodes; default: they see it as this process does. Variables of this process
            that begin with FP4JAX_, JAX_, NCCL_ or XLA_ are carried over in either case.
        retries: times that a task is started again after its process or node died; then its runs
            have failed.
        prepare: is called in each of Ray's processes before it trains; it must be importable there.

    Example:
        >>> RayEngine(gpus_per_run=0.5).gpus_per_run
        0.5
    """

    address: str | None = None
    gpus_per_run: float | int | None = None
    cpus_per_run: float | int = 1.0
    runtime_env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    retries: int = 50
    prepare: Callable[[], None] | None = None

    def __post_init__(self):
        gpus = self.gpus_per_run or 0
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ValueError(
                f"gpus_per_run is {self.gpus_per_run}; give a share of a GPU, such as 0.5, or 1."
            )
        if not self.cpus_per_run >= 0:
            raise ValueError(f"cpus_per_run is {self.cpus_per_run}; give a number of cores.")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; give how often a task may be repeated.")

    def __call__(self, work: Work) -> None:
        """Trains what is open.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            ValueError: this machine has less than a run is to have, and no cluster was named.
            ConnectionError: there is no cluster at the address.
            OSError: a node does not see the folder of runs, or it cannot be written to.
            fp4jax.train.Terminated: on SIGTERM; the runs are saved as of their last checkpoints.
        """
        with connected(self.address, self.runtime_env) as cluster:
            gpus = cluster.gpus(self.gpus_per_run)
            cluster.nodes(self.cpus_per_run, gpus, "run")
            Tasks(cluster.ray, work, gpus, self.cpus_per_run, self.retries, self.prepare)()
