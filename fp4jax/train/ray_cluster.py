"""A Ray cluster: connected to, or started on this host, and how its processes become like this one.

For studies, whose groups are tasks (:mod:`fp4jax.study.engines.ray`), and for one training on
several hosts, whose processes are actors (:mod:`fp4jax.train.ray_hosts`).
"""

import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from fp4jax import plugins
from fp4jax.extras import Extra

_LOG = logging.getLogger(__name__)
_LOCAL = "local"
# Seconds in which the head of a cluster is found.
_PATIENCE = 10.0
# What changes numbers, memory and folders; the processes of a cluster have the environment in
# which somebody started its nodes.
_CARRIED = ("FP4JAX_", "JAX_", "NCCL_", "XLA_")
# But not what is of one process: which devices it has, and where it stands among others.
_OWN = ("JAX_COORDINATOR_", "JAX_LOCAL_", "JAX_NUM_PROCESSES", "JAX_PLATFORMS", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        ray: the module.
        grows: whether nodes may come; none do to a local Ray of this process.
    """

    ray: Any
    grows: bool

    def gpus(self, asked: float | int | None) -> float | int:
        """What was asked for of a process, else 1 where the cluster has GPUs, else 0."""
        return float(self._all("GPU") >= 1) if asked is None else asked

    def nodes(self, cpus: float | int, gpus: float | int, what: str) -> int:
        """How many have room for a run or a process, ``what``.

        Where none has, and one may come, it says so: Ray would wait without a word.

        Raises:
            ValueError: none has, and none will.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        large = [n for n in nodes if n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus]
        if not large and not self.grows:
            raise ValueError(
                f"a {what} needs {cpus:g} CPUs and {gpus:g} GPUs, and this machine has "
                f"{self._all('CPU'):g} and {self._all('GPU'):g}; give fewer, cpus_per_{what} and "
                f"gpus_per_{what}, or the address of a cluster that has them."
            )
        if not large:
            _LOG.warning(
                "None of the %d nodes of the Ray cluster has %g CPUs and %g GPUs for a %s: waiting "
                "for one that has. Or give fewer, cpus_per_%s and gpus_per_%s.",
                len(nodes),
                cpus,
                gpus,
                *[what] * 3,
            )
        return len(large)

    def check_room(self, count: int, cpus: float | int, gpus: float | int) -> None:
        """Raises ValueError if so many processes have no room at a time, and never will."""
        for kind, each in (("CPU", cpus), ("GPU", gpus)):
            if not self.grows and count * each > self._all(kind):
                raise ValueError(
                    f"processes is {count}, with {each:g} {kind}s each, and this machine has "
                    f"{self._all(kind):g}; give fewer, or the address of a cluster that has them."
                )

    def _all(self, kind: str) -> float:
        return self.ray.cluster_resources().get(kind, 0.0)


@contextlib.contextmanager
def connected(
    address: str | None, runtime_env: Mapping[str, Any], *, log: bool = False
) -> Iterator[Cluster]:
    """A Ray, connected while the block runs.

    Args:
        address: of a cluster, ``auto`` for the one of this host; default: ``$RAY_ADDRESS``, else a
            local Ray, which is ended after the block. A Ray that this process has connected to
            already is used, and left as it is.
        runtime_env: Ray's runtime environment; variables of this process that matter to JAX and
            fp4jax are added to it.
        log: print what processes of the cluster print.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    with Extra("ray"):
        import ray
    if ray.is_initialized():
        yield Cluster(ray, grows=True)
        return
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    _check_address(address)
    options: dict[str, Any] = {"address": address, "runtime_env": carried(runtime_env, os.environ)}
    if address == _LOCAL:
        # Nothing is sent to anybody that nobody asked for.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
    ray.init(log_to_driver=log, logging_level=logging.ERROR, **options)
    try:
        yield Cluster(ray, grows=address != _LOCAL)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raises ConnectionError if nobody listens there, for which Ray would wait many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():  # such as auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"there is no Ray cluster at the address {address} ({error}); give HOST:PORT of its "
            "head, as ray start --head says it, or auto on a machine of the cluster."
        ) from error


def carried(runtime_env: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """A runtime environment with the variables of this process that the others must have, too.

    Example:
        >>> variables = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4", "JAX_PLATFORMS": "cpu", "A": "1"}
        >>> carried({"working_dir": "."}, variables)
        {'working_dir': '.', 'env_vars': {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.4'}}
    """
    own = {
        name: value
        for name, value in environment.items()
        if name.startswith(_CARRIED) and not name.startswith(_OWN)
    }
    variables = own | dict(runtime_env.get("env_vars", {}))
    return dict(runtime_env) | ({"env_vars": variables} if variables else {})


@dataclasses.dataclass(frozen=True)
class Setting:
    """What makes a process of the cluster one that trains as this one would.

    Attributes:
        folder: that relative paths refer to.
        gpus: of a process, or its share of one.
        plugins: modules to import first.
        prepare: is called before anything is trained.
    """

    folder: str
    gpus: float
    plugins: Sequence[str]
    prepare: Callable[[], None] | None

    @classmethod
    def here(cls, gpus: float, prepare: Callable[[], None] | None) -> "Setting":
        """That of this process."""
        return cls(os.getcwd(), gpus, plugins.names(), prepare)

    def begin(self) -> None:
        """Takes it over; before JAX computes anything."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        if not self.gpus and jax.config.jax_platforms != "cpu":  # pyright: ignore
            # Ray hides the GPUs of a node from a process that asked for none.
            jax.config.update("jax_platforms", "cpu")
        plugins.load(self.plugins)
        if self.prepare is not None:
            self.prepare()
