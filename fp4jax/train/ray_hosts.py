"""One training on the nodes of a Ray cluster: a process for each GPU or host, as Ray's actors.

The actors of a placement group connect as processes that ``srun`` had started. When one dies, or
its node, all are ended, and others are started, which go on from the last checkpoint.
"""

import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from fp4jax.train.devices import Devices
from fp4jax.train.hosts import Hosts, LostProcessError
from fp4jax.train.ray_cluster import Cluster, Setting, connected
from fp4jax.train.ray_process import Outcome, Process
from fp4jax.train.signals import Terminated, Termination

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
# Seconds between two looks at SIGTERM, and after which it is said that Ray has no room.
_POLL, _PATIENCE = 1.0, 15


@dataclasses.dataclass(frozen=True)
class RayHosts:
    """Starts the processes of one training as actors of Ray, https://docs.ray.io.

    Attributes:
        processes: default: one for each GPU of the cluster, or ``gpus_per_process`` of them; where
            it has none, one for each node.
        address: of a cluster, ``auto`` for the one of this host; default: ``$RAY_ADDRESS``, else a
            local Ray that is started, and ended after the training.
        gpus_per_process: whole ones. Default: 1 where the cluster has GPUs, else 0.
        cpus_per_process: cores that are reserved.
        heartbeat: seconds without a sign of life after which a process is taken for dead.
        runtime_env: Ray's runtime environment, such as ``{"working_dir": "."}``, which copies code
            to the nodes; default: they see it as this process does.
        retries: times that all are started again after one of them, or its node, died.
        prepare: is called in each process before it computes anything; importable there.

    Example:
        >>> RayHosts(processes=2, gpus_per_process=4).heartbeat
        60
    """

    processes: int | None = None
    address: str | None = None
    gpus_per_process: float | int | None = None
    cpus_per_process: float | int = 1.0
    heartbeat: int = 60
    runtime_env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    retries: int = 10
    prepare: Callable[[], None] | None = None

    def __post_init__(self):
        Hosts(processes=self.processes, heartbeat=self.heartbeat)  # checks them
        gpus = self.gpus_per_process or 0
        if gpus < 0 or gpus != int(gpus):
            raise ValueError(
                f"gpus_per_process is {gpus}; give whole GPUs: processes of one training wait for "
                "each other at each step, so that sharing a GPU gains nothing."
            )
        if not self.cpus_per_process > 0:
            raise ValueError(f"cpus_per_process is {self.cpus_per_process}; give a number above 0.")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; give how often all may start again.")

    def __call__(self, function: Callable[[Devices], T]) -> T:
        """Calls a function in all processes once they are connected; what it returns in the first.

        It is called again, in other processes, after the loss of one: so it should do what is left
        to do, as :func:`fp4jax.train.train` does.

        Args:
            function: is sent to the nodes, with what it holds.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            ValueError: this machine has no room for the processes, and no cluster was named.
            ConnectionError: there is no cluster at the address.
            LostProcessError: processes were lost again and again.
            fp4jax.train.Terminated: on SIGTERM, when all have saved and ended.
            Exception: what the function raised.
        """
        with (
            connected(self.address, self.runtime_env, log=True) as cluster,
            Termination() as termination,
        ):
            ray = cluster.ray
            count, shares = self._size(cluster)
            for left in reversed(range(self.retries + 1)):
                try:
                    return self._once(ray, function, count, shares, termination)
                except LostProcessError:
                    if not left or termination.asked:
                        raise
                    _LOG.warning("A process was lost. All start again, from the last checkpoint.")
        raise AssertionError  # the last one returned or raised

    def _size(self, cluster: Cluster) -> tuple[int, dict[str, float]]:
        """(processes, what each of them reserves)."""
        cpus, gpus = self.cpus_per_process, cluster.gpus(self.gpus_per_process)
        nodes = cluster.nodes(cpus, gpus, "process")
        count = self.processes
        if count is None and gpus:
            count = int(cluster.ray.cluster_resources().get("GPU", 0) // gpus)
        count = count or max(nodes, 1)
        cluster.check_room(count, cpus, gpus)
        return count, {"CPU": cpus} | ({"GPU": gpus} if gpus else {})

    def _once(
        self,
        ray: Any,
        function: Callable[[Devices], T],
        count: int,
        shares: Mapping[str, float],
        termination: Termination,
    ) -> T:
        setting = Setting.here(shares.get("GPU", 0), self.prepare)
        with _actors(ray, count, shares, termination) as actors, _lost(ray):
            begun = ray.get([actor.begin.remote(setting) for actor in actors])
            # Side by side on a node, side by side in the mesh.
            order = sorted(range(count), key=begun.__getitem__)
            first = order[0]
            address = ray.get(actors[first].listening.remote(begun[first][0]))
            tasks = {
                actors[which].run.remote(function, Hosts(address, place, count, self.heartbeat)): (
                    which == first
                )
                for place, which in enumerate(order)
            }
            return _awaited(ray, tasks, lambda: _stop(ray, begun[first]), termination)


@contextlib.contextmanager
def _actors(
    ray: Any, count: int, shares: Mapping[str, float], termination: Termination
) -> Iterator[list[Any]]:
    """Actors in a placement group, which are ended with the block, whatever they do."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    # GPUs talk fastest inside a host; on CPU a host is a process, which uses all its cores.
    near = "PACK" if "GPU" in shares else "SPREAD"
    group = ray.util.placement_group([dict(shares)] * count, strategy=near)
    actors: list[Any] = []
    try:
        waited = 0
        while not group.wait(_POLL):
            if termination.asked:
                raise Terminated
            waited += 1
            if waited == _PATIENCE:
                each = " and ".join(f"{value:g} {name}s" for name, value in shares.items())
                _LOG.warning("Waiting for %d x %s that are free in the Ray cluster.", count, each)
        for i in range(count):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
            actor = ray.remote(Process).options(
                num_cpus=shares["CPU"],
                num_gpus=shares.get("GPU", 0),
                max_restarts=0,
                scheduling_strategy=place,
            )
            actors.append(actor.remote())
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)
        ray.util.remove_placement_group(group)


@contextlib.contextmanager
def _lost(ray: Any) -> Iterator[None]:
    """What Ray says of dead actors is the loss of a process."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise LostProcessError from error


def _awaited(
    ray: Any, tasks: Mapping[Any, bool], stop: Callable[[], None], termination: Termination
) -> Any:
    """What the first process returns, when all have ended well.

    Args:
        tasks: and whether each is that of the first process.
        stop: asks the first process to end, after which all do.
    """
    pending, result, asked = list(tasks), None, False
    while pending:
        ended, pending = ray.wait(pending, num_returns=1, timeout=_POLL)
        for task in ended:
            outcome: Outcome = ray.get(task)
            if outcome.how == "raised":
                raise outcome.value
            if outcome.how == "lost" or (outcome.how == "terminated" and not asked):
                raise LostProcessError
            if outcome.how == "terminated" and not pending:
                raise Terminated
            if tasks[task]:
                result = outcome.value
        if termination.asked and not asked:
            asked = True
            stop()
    return result


def _stop(ray: Any, where: tuple[str, str, int]) -> None:
    """SIGTERM to a process, from its node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    _, node, number = where

    def terminate() -> None:  # sent as it is: nothing of this package is imported for it
        os.kill(number, signal.SIGTERM)

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.get(ray.remote(terminate).options(num_cpus=0, scheduling_strategy=there).remote())
