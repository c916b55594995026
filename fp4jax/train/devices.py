"""Devices: one training on several of them, in one process or in several on several hosts.

Every device takes an equal part of each batch and keeps all parameters. The step is the program of
one device, over the whole batch: the compiler divides it, so that means, batch norm, the gradient's
norm, amax and random bits are those of the whole batch, not of a part. What is decided on the host
(validation, early stopping, checkpoints) is decided by the first process, which tells the others.
"""

import concurrent.futures
import dataclasses
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fp4jax.train.state import Batch

T = TypeVar("T")

_AXIS = "batch"
# Seconds in which processes hear from the first one, while it works alone.
_PATIENCE = 10.0
# Sizes of messages are rounded up to powers of two from here on: each size is a program.
_SMALLEST = 1 << 12


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh over devices, and what the processes that have them say to each other.

    What communicates is called by all processes, in the same order.

    Attributes:
        mesh: of one axis; all devices of a process lie side by side.

    Example:
        >>> devices = Devices.of(jax.devices()[:1])
        >>> devices.first, devices.rows(8), devices.said([1, "any object"])
        (True, slice(0, 8, None), [1, 'any object'])
    """

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[Any] | None = None) -> "Devices":
        """Those of all processes, or the given ones."""
        found = jax.devices() if devices is None else devices
        found = sorted(found, key=lambda device: (device.process_index, device.id))
        return cls(Mesh(np.array(found), (_AXIS,)))

    @property
    def count(self) -> int:
        """Of all processes together."""
        return self.mesh.size

    @property
    def processes(self) -> list[int]:
        """Numbers of the processes, ascending."""
        return sorted({device.process_index for device in self.mesh.devices})

    @property
    def place(self) -> int:
        """Of this process among them."""
        return self.processes.index(jax.process_index())

    @property
    def first(self) -> bool:
        """Whether this process decides and writes."""
        return self.place == 0

    def __str__(self) -> str:
        kind = self.mesh.devices[0].device_kind
        several, processes = self.count > 1, len(self.processes)
        of = f"{processes} process{'es' * (processes > 1)}"
        return f"{self.count} device{'s' * several} ({kind}) of {of}"

    def check(self, batch_size: int) -> None:
        """Raises ValueError if a batch does not divide into equal parts."""
        if batch_size % self.count:
            below = batch_size // self.count * self.count
            allowed = [n for n in (below, below + self.count) if n]
            raise ValueError(
                f"batch_size is {batch_size}, but {self.count} devices take equal parts of it; "
                f"give a multiple of {self.count}, such as {' or '.join(map(str, allowed))}."
            )

    def rows(self, batch_size: int) -> slice:
        """The part of a batch that this process draws."""
        owners = [device.process_index for device in self.mesh.devices]
        each, own = batch_size // self.count, jax.process_index()
        first = owners.index(own)
        return slice(first * each, (first + owners.count(own)) * each)

    def batch(self, part: Batch, batch_size: int) -> Batch:
        """The whole batch, of which each process gives its :meth:`rows`."""

        def divided(rows: Any) -> jax.Array:
            rows = np.asarray(rows)
            shape = (batch_size, *rows.shape[1:])
            return jax.make_array_from_process_local_data(self._divided, rows, shape)

        return Batch(
            images=divided(part.images),
            targets=divided(part.targets),
            index=divided(part.index),
            epoch=self.everywhere(part.epoch),
            rate=self.everywhere(part.rate),
        )

    def flags(self, value: bool) -> jax.Array:
        """One for each device, whose maximum a step takes."""
        own = np.full(len(self.mesh.local_devices), value, np.int32)
        return jax.make_array_from_process_local_data(self._divided, own, (self.count,))

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of examples, inside of a program: each device has its own ones alone.

        Left to the compiler, a function that gathers pixels would be computed on every device for
        the whole batch, and so would be all that follows from it.
        """
        spec = self._divided.spec
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False
        )

    def everywhere(self, tree: Any) -> Any:
        """Arrays that all processes have, on all devices."""

        def copies(leaf: Any) -> jax.Array:
            array = np.array(leaf)
            return jax.make_array_from_process_local_data(self.replicated, array, array.shape)

        return jax.tree.map(copies, tree)

    def here(self, tree: Any) -> Any:
        """Arrays of :meth:`everywhere` on one device of this process, which then works alone."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def all(self, value: T) -> list[T]:
        """What each process says: any object that can be pickled, in the order of the processes."""
        if len(self.processes) == 1:
            return [value]
        message = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self._gathered(np.array([message.size], np.int32))[:, 0]
        room = max(_SMALLEST, 1 << (int(sizes.max()) - 1).bit_length())
        padded = np.zeros(room, np.uint8)
        padded[: message.size] = message
        rows = self._gathered(padded)
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]

    def said(self, value: T) -> T:
        """What the first process says."""
        return self.all(value if self.first else None)[0]  # pyright: ignore[reportReturnType]

    def by_first(self, function: Callable[[], T]) -> T:
        """What a function returns or raises in the first process; the others do not call it."""
        pool = concurrent.futures.ThreadPoolExecutor(1)
        future = pool.submit(function) if self.first else None
        pool.shutdown(wait=False)
        while True:
            # Collectives have time limits, so that what takes longer is waited for in parts.
            over, result, error = self.said(_outcome(future))
            if over:
                break
        if error is not None:
            raise agreed(error)
        return result

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Of some work the part of this process."""
        return items[self.place :: len(self.processes)]

    def together(self, results: Sequence[T]) -> list[T]:
        """The results of all processes for their :meth:`own` items, in the order of the items."""
        parts = [iter(part) for part in self.all(list(results))]
        found: list[T] = []
        while True:
            for part in parts:
                try:
                    found.append(next(part))
                except StopIteration:  # nor has any after it one more
                    return found

    @property
    def replicated(self) -> NamedSharding:
        """Of what all devices have."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def _divided(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(_AXIS))

    def _gathered(self, row: np.ndarray) -> np.ndarray:
        """A row of each process."""
        local = np.broadcast_to(row, (len(self.mesh.local_devices), *row.shape))
        shape = (self.count, *row.shape)
        rows = jax.make_array_from_process_local_data(self._divided, local, shape)
        owners = [device.process_index for device in self.mesh.devices]
        first = [owners.index(process) for process in self.processes]
        return np.asarray(_gather(self.replicated)(rows))[first]


@functools.lru_cache(maxsize=4)
def _gather(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.copy, out_shardings=sharding)


def agreed(error: T) -> T:
    """Marks an error that all processes raise at the same place, so that they end together."""
    error.agreed = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def is_agreed(error: BaseException | None) -> bool:
    """Whether all processes end in the same way."""
    return error is None or getattr(error, "agreed", False)


def _outcome(future: concurrent.futures.Future | None) -> tuple[bool, Any, Exception | None]:
    """(whether it is known, result, error) of what runs in the first process."""
    if future is None or not concurrent.futures.wait([future], _PATIENCE).done:
        return False, None, None
    error: Any = future.exception()
    return (True, future.result(), None) if error is None else (True, None, portable(error))


def portable(error: Exception) -> Exception:
    """The error, or one with its text if it cannot be sent."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error))
