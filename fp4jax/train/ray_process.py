"""One process of a training by several: an actor of Ray's, which has its share of the devices."""

import dataclasses
import os
import platform
import socket
import traceback
from collections.abc import Callable
from typing import Any, Literal

from fp4jax.train.devices import Devices, portable
from fp4jax.train.hosts import Hosts, LostProcessError, joined
from fp4jax.train.ray_cluster import Setting
from fp4jax.train.signals import Terminated

# Ray may itself have been started by a launcher, whose places are not those of the actors.
_LAUNCHERS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        how: it returned or raised, has lost another process, or was asked to end.
        value: what the first process returned, or what one raised.
    """

    how: Literal["returned", "raised", "lost", "terminated"]
    value: Any = None


class Process:
    """The process itself; Ray runs its methods one after the other, in the main thread."""

    def begin(self, setting: Setting) -> tuple[str, str, int]:
        """Makes it one like that of the command; (its node's address and id, its number there)."""
        import ray

        setting.begin()
        node = ray.get_runtime_context().get_node_id()
        return ray.util.get_node_ip_address(), node, os.getpid()

    def listening(self, host: str) -> str:
        """HOST:PORT on which it can listen."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{host}:{free.getsockname()[1]}"

    def run(self, function: Callable[[Devices], Any], hosts: Hosts) -> Outcome:
        """Calls a function when all processes are connected.

        What this process alone raised leaves it connected: the others are ended, not waited for.
        """
        for name in _LAUNCHERS:
            os.environ.pop(name, None)
        try:
            with joined(hosts) as devices:
                result = function(devices)
                return Outcome("returned", result if devices.first else None)
        except LostProcessError:
            return Outcome("lost")
        except Terminated:
            return Outcome("terminated")
        except Exception as error:
            # For people, where it is a mistake of the program.
            error.add_note(f"In a process on {platform.node()}:\n{traceback.format_exc()}")
            return Outcome("raised", portable(error))
