"""Where a study is executed: engine, worker, GPU, as options of the command line."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax

from fp4jax.cli.process import prepare
from fp4jax.study import Engine, engine

#: Seconds that a worker stays while others train all that is left; the locks of a dead process
#: are free after 60.
WAIT = 120.0


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """Who trains the runs; their numbers do not depend on it."""

    # local: this process, sharing with others that were started in the same folder; ray: a task
    # per group of runs on a Ray cluster; or the name that a plug-in registered
    engine: str = "local"
    # train what no other process does, and leave when nothing is left to claim, without a report:
    # for array jobs and shells
    worker: bool = False
    # the only GPU that this process sees, by number; several processes, one GPU each, share a study
    gpu: int | None = None
    # of ray: address of the cluster; default: $RAY_ADDRESS, else a local Ray for this study
    address: str | None = None
    # of ray: share of a GPU for a run, or for the lanes of a group; default: 1 where there are any
    gpus_per_run: float | None = None
    # of ray: cores likewise
    cpus_per_run: float = 1.0
    # of ray: copy this folder of code to the nodes; default: they see the code as this process does
    working_dir: Path | None = None

    def see_gpu(self) -> None:
        """Hides the other GPUs from JAX; before its first use.

        Where JAX is told to use the CPU, the same commands can be tried without GPUs.

        Raises:
            ValueError: a number that is none of a GPU, where JAX would go on with the CPU.
        """
        if self.gpu is None:
            return
        if self.gpu < 0 or self.engine == "ray":
            raise ValueError(
                f"gpu is {self.gpu} with engine {self.engine}; give a number from 0 on, as "
                "nvidia-smi lists them. Ray chooses the GPUs itself."
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = str(self.gpu)
        known: Any = jax.config
        if known.jax_platforms != "cpu" and jax.default_backend() == "cpu":
            raise ValueError(
                f"gpu is {self.gpu}, but JAX finds no such GPU here; give a number that nvidia-smi "
                "lists, install jax[cuda13], or leave gpu out to train on the CPU."
            )

    def made(self) -> Engine:
        """The engine itself.

        Raises:
            ValueError: options of one engine for another.
        """
        of_ray = {
            "address": self.address,
            "gpus_per_run": self.gpus_per_run,
            "cpus_per_run": self.cpus_per_run,
        }
        defaults = EngineOptions()
        changed = [name for name, value in of_ray.items() if value != getattr(defaults, name)]
        changed += ["working_dir"] * (self.working_dir is not None)
        if self.engine != "ray" and changed:
            raise ValueError(
                f"{changed[0]} is for Ray; give --engine ray with it, or leave it out."
            )
        if self.worker and self.engine != "local":
            raise ValueError("--worker trains in this process; leave --engine out.")
        if self.engine == "local":
            return engine("local", wait=WAIT if self.worker else None)
        if self.engine == "ray":
            env = {} if self.working_dir is None else {"working_dir": str(self.working_dir)}
            return engine("ray", **of_ray, runtime_env=env, prepare=prepare)
        return engine(self.engine)
