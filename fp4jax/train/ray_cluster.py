"""A Ray cluster: connected to, or started on this host, and how its processes become like this one.

For studies, whose groups are tasks (:mod:`fp4jax.study.engines.ray`), and for one training on
several hosts, whose processes are actors (:mod:`fp4jax.train.ray_hosts`).
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from fp4jax import plugins
from fp4jax.extras import Extra

_LOG = logging.getLogger(__name__)
_LOCAL = "local"
# What changes numbers, memory and folders; the processes of a cluster have the environment in
# which somebody started its nodes.
_CARRIED = ("FP4JAX_", "JAX_", "NCCL_", "XLA_")
# But not what is of one process: which devices it has, and where it stands among others.
_OWN = ("JAX_COORDINATOR_", "JAX_LOCAL_", "JAX_NUM_PROCESSES", "JAX_PLATFORMS", "JAX_PROCESS_ID")


@contextlib.contextmanager
def connected(
    address: str | None, runtime_env: Mapping[str, Any], *, log: bool = False
) -> Iterator[Any]:
    """The module ``ray``, connected while the block runs.

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
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    options: dict[str, Any] = {"address": address, "runtime_env": carried(runtime_env, os.environ)}
    if address == _LOCAL:
        # Nothing is sent to anybody that nobody asked for.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
    ray.init(log_to_driver=log, logging_level=logging.ERROR, **options)
    try:
        yield ray
    finally:
        ray.shutdown()


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


def gpus_or_default(ray: Any, gpus: float | int | None) -> float:
    """What was asked for, else 1 where the cluster has GPUs, else 0."""
    return float(ray.cluster_resources().get("GPU", 0) >= 1) if gpus is None else gpus


def large_nodes(ray: Any, cpus: float, gpus: float, what: str) -> int:
    """How many nodes have so much; says so if there are none: Ray would wait without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    large = [n for n in nodes if n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus]
    if not large:
        _LOG.warning(
            "None of the %d nodes of the Ray cluster has %g CPUs and %g GPUs for a %s: waiting for "
            "one that has. Or give fewer, cpus_per_%s and gpus_per_%s.",
            len(nodes),
            cpus,
            gpus,
            *[what] * 3,
        )
    return len(large)


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
