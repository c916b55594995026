"""One training on several hosts or devices, as options of the command line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from fp4jax.cli.engine_options import prepare
from fp4jax.train import Devices, Hosts, RayHosts, joined
from fp4jax.train.status import STALE

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class HostOptions(Hosts):
    """One training on several hosts or devices."""

    # share each batch among all devices: of this process, and of all processes that srun, mpirun,
    # the options above or Ray connect
    distributed: bool = False
    # who starts the processes of --distributed: local: you, srun or mpirun; ray: this command, on a
    # Ray cluster; --processes then says how many (default: one per GPU, without GPUs per node)
    engine: Literal["local", "ray"] = "local"
    # of ray: address of the cluster; default: $RAY_ADDRESS, else a local Ray for this training
    address: str | None = None
    # of ray: whole GPUs of each process; default: 1 where there are any
    gpus_per_process: int | None = None
    # of ray: cores that each process reserves
    cpus_per_process: float = 1.0
    # of ray: copy this folder of code to the nodes; default: they see the code as this process does
    working_dir: Path | None = None

    @property
    def wait(self) -> float:
        """Seconds to wait for a run that another process trains.

        On Ray longer than the lock of a process lasts that died on another host: who restarts a
        training, or repeats the command, goes on from what that left.
        """
        return STALE + 10.0 if self.engine == "ray" else 0.0

    def run(self, function: Callable[[Devices | None], T]) -> T | None:
        """Calls a function with the devices that share a batch; None if one trains alone.

        Returns:
            What it returned; of several processes in the first one, or in that which started them.

        Raises:
            ValueError: options that do not go together.
        """
        self._check()
        if self.engine == "ray":
            return self._on_ray()(function)
        if not self.distributed:
            return function(None)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Hosts)}
        with joined(Hosts(**fields)) as devices:
            result = function(devices)
            return result if devices.first else None

    def _check(self) -> None:
        connecting = ["coordinator", "process_id", "processes"]
        of_ray = ["address", "gpus_per_process", "cpus_per_process", "working_dir"]
        changed = {
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if not self.distributed:
            for name in ("engine", *connecting):
                if name in changed:
                    raise ValueError(f"{name} is of several processes; give --distributed with it.")
        if self.engine != "ray":
            for name in of_ray:
                if name in changed:
                    raise ValueError(
                        f"{name} is for Ray; give --distributed --engine ray with it, or leave it "
                        "out."
                    )
        elif changed & {"coordinator", "process_id"}:
            raise ValueError(
                "with --engine ray this command starts and numbers the processes; leave out "
                "--coordinator and --process-id."
            )

    def _on_ray(self) -> RayHosts:
        names = ("processes", "address", "gpus_per_process", "cpus_per_process", "heartbeat")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        env = {} if self.working_dir is None else {"working_dir": str(self.working_dir)}
        return RayHosts(**options, runtime_env=env, prepare=prepare)
