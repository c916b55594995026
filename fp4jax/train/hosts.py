"""Hosts: the processes of one training find each other, and end together.

``jax.distributed`` connects them: by itself under SLURM and Open MPI, or with an address. Each
process is watched by its heartbeat. When one dies the others cannot go on, and end too; the same
command, repeated on all hosts, goes on from the last checkpoint.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from fp4jax.train.devices import Devices, is_agreed

#: Exit code of a process that ended because another one did: EX_TEMPFAIL, "try again".
LOST = 75
_LOST = (
    "another process of this training has ended, or cannot be reached. Repeat the command on all "
    "hosts: the run goes on from its last checkpoint."
)
_UNMET = (
    "not all processes of this training have come to {} within {} seconds. Start each of them "
    "once, numbered from 0 on, all with the address of the first one, which the others can reach."
)
#: Variables that say where a process stands, where jax.distributed does not look itself.
_ADDRESS = "JAX_COORDINATOR_ADDRESS"
_PLACES = (
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
# What jaxlib says when a collective or the coordinator is gone; gloo's come as ValueError.
_SIGNS = ("gloo", "nccl", "coordination", "heartbeat", "connection", "unavailable", "barrier")


class LostProcessError(RuntimeError):
    """Another process of the training has ended, or has not come; exit code 75."""

    exit_code = LOST

    def __init__(self, message: str = _LOST) -> None:
        super().__init__(message)


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of one training find each other.

    Nothing need be given under SLURM (``srun``) and Open MPI (``mpirun``). Elsewhere all three are,
    or are in the environment: JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID and JAX_NUM_PROCESSES.

    Example:
        >>> Hosts("10.0.0.1:1234", process_id=0, processes=2).heartbeat
        60
    """

    # HOST:PORT on which the first process listens; any free port
    coordinator: str | None = None
    # number of this process, from 0
    process_id: int | None = None
    # of the training
    processes: int | None = None
    # seconds without a sign of life after which a process is taken for dead, and all end
    heartbeat: int = 60

    def __post_init__(self):
        if self.heartbeat < 1:
            raise ValueError(f"heartbeat is {self.heartbeat}; give at least 1 second.")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes is {self.processes}; give at least 1.")
        place, of = self.process_id, self.processes
        if place is not None and (place < 0 or (of is not None and place >= of)):
            most = "" if of is None else f" .. {of - 1}, because processes is {of}"
            raise ValueError(f"process_id is {place}; give a number from 0{most}.")
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise ValueError(
                    f"coordinator is {self.coordinator!r}; give HOST:PORT of the first process, "
                    "such as 10.0.0.1:1234."
                )

    def found(self, environment: Mapping[str, str]) -> "Hosts":
        """With what the environment says where nothing is given.

        Raises:
            ValueError: a part of what is needed.

        Example:
            >>> Hosts("node1:1234").found({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}).process_id
            3
        """
        coordinator = self.coordinator or environment.get(_ADDRESS)
        place, of = self.process_id, self.processes
        if coordinator is not None:
            for rank, size in _PLACES:
                if rank in environment and size in environment:
                    place = int(environment[rank]) if place is None else place
                    of = int(environment[size]) if of is None else of
        if {coordinator, place, of} != {None} and None in (coordinator, place, of):
            given = {"coordinator": coordinator, "process_id": place, "processes": of}
            missing = " and ".join(name for name, value in given.items() if value is None)
            raise ValueError(
                f"coordinator, process_id and processes belong together; give {missing} too."
            )
        return dataclasses.replace(self, coordinator=coordinator, process_id=place, processes=of)


@contextlib.contextmanager
def joined(hosts: Hosts | None = None) -> Iterator[Devices]:
    """Connects the processes of a training while the block runs; yields all their devices.

    Where neither the arguments nor the environment name any others, these are the devices of this
    process. Must be entered before JAX computes anything. At the end of the block, and where all
    processes raise the same, all wait for each other; after another error a process ends at once,
    by :func:`leave`, and the others notice it.

    Args:
        hosts: default: what the environment says.

    Raises:
        ValueError: a part of the arguments is missing, the first process cannot listen, or JAX has
            already computed something.
        LostProcessError: a process cannot be reached, or has ended.

    Example:
        >>> with joined() as devices:
        ...     devices.first
        True
    """
    hosts = (hosts or Hosts()).found(os.environ)
    connected = _connect(hosts)
    try:
        yield Devices.of()
    except BaseException as error:
        if connected and not is_agreed(error):
            if _is_loss(error):
                raise LostProcessError from error
            raise
        if connected:
            _disconnect()
        raise
    else:
        if connected:
            _disconnect()


def are_connected() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends a connected process at once, without waiting for the others; else does nothing.

    For commands, after their message: at Python's own end JAX would wait for processes that cannot
    come.
    """
    if are_connected():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _connect(hosts: Hosts) -> bool:
    """Whether there are several processes, which are then connected."""
    if are_connected():  # by the caller, who also ends it
        return False
    if hosts.coordinator is not None and hosts.process_id == 0:
        _check_port(int(hosts.coordinator.rpartition(":")[2]))
    known: Any = jax.config
    before = known.jax_cpu_collectives_implementation
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # SIGTERM is fp4jax's: all processes agree on the step after which they save and end.
    jax.config.update("jax_enable_preemption_service", False)
    given = hosts.coordinator is not None
    patience = max(60, hosts.heartbeat)
    unmet = _UNMET.format(hosts.coordinator or "the first one", patience)
    _at_abort(unmet)
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.processes,
            hosts.process_id,
            cluster_detection_method="deactivate" if given and not _gpus_are_shared() else None,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=hosts.heartbeat,
            shutdown_timeout_seconds=patience,
        )
    except ValueError:
        _at_abort(None)
        # There is no coordinator: one process.
        if given:
            raise
        jax.config.update("jax_cpu_collectives_implementation", before)
        return False
    except RuntimeError as error:
        _at_abort(None)
        jax.config.update("jax_cpu_collectives_implementation", before)
        if "before" not in str(error):
            raise LostProcessError(unmet) from error
        if not given and not _gpus_are_shared():
            return False
        raise ValueError(
            "JAX has already computed something in this process; connect the hosts first."
        ) from error
    _at_abort(_LOST)
    return True


def _check_port(port: int) -> None:
    """Raises ValueError if the first process cannot listen there: JAX would crash."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ValueError(
            f"process 0 cannot listen on port {port} of this host ({why}); give another coordinator"
            " on all hosts, or end what listens there."
        ) from error


def _gpus_are_shared() -> bool:
    """Under a launcher of several processes on a host, each takes the GPU of its place there."""
    return any(name in os.environ for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"))


def _disconnect() -> None:
    try:
        jax.distributed.shutdown()
    except RuntimeError as error:
        raise LostProcessError from error
    finally:
        _at_abort(None)


def _is_loss(error: BaseException) -> bool:
    """Whether an error is of the connection to other processes."""
    chain: BaseException | None = error
    while chain is not None:
        raised = isinstance(chain, (ValueError, jax.errors.JaxRuntimeError))
        if raised and any(sign in str(chain).lower() for sign in _SIGNS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _at_abort(message: str | None) -> None:
    """JAX aborts a process that has lost the others, from a thread of its own: it says why first.

    abort() calls the handler like a function, in a thread that holds nothing of Python's, so that
    the handler may be Python code; ``signal.signal`` would leave it to the main thread, which may
    be waiting for the others.
    """
    if os.name != "posix":
        return
    global _handler
    libc, kind = ctypes.CDLL(None), ctypes.CFUNCTYPE(None, ctypes.c_int)

    def last_words(number: int) -> None:
        os.write(2, f"error: {message}\n".encode())
        os._exit(LOST)

    before, _handler = _handler, None if message is None else kind(last_words)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, _handler and ctypes.cast(_handler, ctypes.c_void_p))
    del before  # not sooner than another one has its place


# Kept as long as the process may abort.
_handler: Any = None
