"""The Ray engine: a task for each group of runs, on the nodes of a cluster.

Ray says where and when; what has become of a run is in its folder alone, which all nodes see. So a
task that Ray starts again after the loss of a node goes on from the last checkpoint, under the
run's lock.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fp4jax.extras import Extra
from fp4jax.study.engines.ray_tasks import Tasks
from fp4jax.study.engines.work import Work

_LOG = logging.getLogger(__name__)
_LOCAL = "local"


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
            to the nodes; default: they see it as this process does.
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
            ConnectionError: there is no cluster at the address.
            OSError: a node does not see the folder of runs, or it cannot be written to.
            fp4jax.train.Terminated: on SIGTERM; the runs are saved as of their last checkpoints.
        """
        with Extra("ray"):
            import ray
        with self._connected(ray):
            gpus = self.gpus_per_run
            if gpus is None:
                gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
            self._check(ray, gpus)
            Tasks(ray, work, gpus, self.cpus_per_run, self.retries, self.prepare)()

    @contextlib.contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        if ray.is_initialized():
            yield
            return
        address = self.address or os.environ.get("RAY_ADDRESS") or _LOCAL
        options: dict[str, Any] = {"address": address, "runtime_env": dict(self.runtime_env)}
        if address == _LOCAL:
            # Nothing is sent to anybody that nobody asked for.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options["include_dashboard"] = False
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        try:
            yield
        finally:
            ray.shutdown()

    def _check(self, ray: Any, gpus: float) -> None:
        """Says so if no node is large enough: Ray would wait for one without a word."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        large = [
            node
            for node in nodes
            if node.get("CPU", 0) >= self.cpus_per_run and node.get("GPU", 0) >= gpus
        ]
        if not large:
            _LOG.warning(
                "None of the %d nodes of the Ray cluster has %g CPUs and %g GPUs free for a run: "
                "waiting for one that has. Or give fewer, cpus_per_run and gpus_per_run.",
                len(nodes),
                self.cpus_per_run,
                gpus,
            )
