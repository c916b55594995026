"""Checkpoints of a run, or of a group of runs, while it trains.

A checkpoint is one folder that Orbax renames into place when it is complete, so a run that is
killed at any moment finds either the old or the new one.
"""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from fp4jax.train.arrays import (
    OutOfMemoryError as OutOfMemoryError,
    flatten as flatten,
    memory_errors as memory_errors,
    named,
    storage_errors,
)
from fp4jax.train.devices import Devices
from fp4jax.train.signals import undivided

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one run, or of one group, by numbers that grow.

    Args:
        folder: is created; only what this class wrote is ever deleted in it. One process at a time
            may have it, see :func:`fp4jax.train.lock.held`; others read with
            :func:`fp4jax.train.best.read_best`.
        kept: how many of the newest stay.
        asynchronous: the disk is written to while the training goes on.
        devices: of a training by several processes, which write each checkpoint together; all
            call all methods in one order.

    Raises:
        OSError: the disk is full or read-only; here and, for a checkpoint that was being written,
            in the next call of any method.
    """

    def __init__(
        self,
        folder: Path,
        kept: int = 2,
        asynchronous: bool = True,
        devices: Devices | None = None,
    ):
        self.folder, self._devices = folder.absolute(), devices
        options = ocp.CheckpointManagerOptions(
            max_to_keep=kept,
            enable_async_checkpointing=asynchronous,
            cleanup_tmp_directories=True,
        )
        with storage_errors(self.folder, "create"):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_names=("last", "best", "progress"),
            )

    def numbers(self) -> list[int]:
        """Of the checkpoints that are there, ascending, with one that is being written."""
        return sorted(self._manager.all_steps())

    def save(self, number: int, last: Any, best: Any, progress: dict[str, Any]) -> None:
        """Writes a checkpoint; one of the same number that is there already stays.

        All is copied first, so that it may change while the disk is written to.

        Args:
            number: larger than those that are there.
            last: the state. Like ``best`` it is copied before this returns, so that the next step
                may have its buffers.
            best: parameters and statistics of the best epoch.
            progress: the bookkeeping, as JSON.

        Raises:
            ValueError: a number that is smaller than one that is there.
            OutOfMemoryError: the device had no room for the step whose state this is.
            OSError: a disk that is full or read-only.
        """
        self.wait()
        newest = max(self.numbers(), default=-1)
        if number < newest:
            raise ValueError(f"checkpoint {number} cannot follow {newest} in {self.folder}.")
        if number == newest:
            return
        args = ocp.args.Composite(
            last=ocp.args.StandardSave(self._copied(last)),  # pyright: ignore[reportCallIssue]
            best=ocp.args.StandardSave(self._copied(best)),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(copy.deepcopy(progress)),  # pyright: ignore[reportCallIssue]
        )
        # A save that is half begun would be waited for by nobody, and go on in an ending process.
        with undivided(), memory_errors(), storage_errors(self.folder, "write"):
            self._manager.save(number, args=args)

    def _copied(self, tree: Any) -> dict[str, Any]:
        if self._devices is None or len(self._devices.processes) == 1:
            return flatten(tree)
        # Arrays of all processes, each of which writes a part of them.
        with memory_errors():
            return named(_copy(tree))

    def wait(self) -> None:
        """Returns when all is written; raises OSError if that failed."""
        with undivided(), memory_errors(), storage_errors(self.folder, "write"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads; raises OSError if a checkpoint could not be written."""
        with undivided():
            try:
                self.wait()
            finally:
                self._manager.close()


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def complete(folder: Path) -> list[int]:
    """Numbers of the checkpoints in a folder, ascending; others have a suffix until complete."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def newest(folder: Path, read: Callable[[Path], T | None]) -> T | None:
    """What ``read`` makes of the newest checkpoint that is not damaged.

    Args:
        folder: of checkpoints.
        read: is given the folder of one; None if it does not have what is looked for, so that the
            one before it is asked.

    Raises:
        ValueError: of ``read``, as for checkpoints of another model.
        OSError: all are damaged.
    """
    damaged: dict[int, OSError] = {}
    for number in reversed(complete(folder)):
        try:
            found = read((folder / str(number)).absolute())
        except OSError as error:
            damaged[number] = error
            continue
        if found is None:
            continue
        for other, error in damaged.items():
            warnings.warn(
                f"the checkpoint {folder / str(other)} is damaged; the run goes on from the one "
                f"before it, {number}. ({error.__cause__ or error})",
                stacklevel=2,
            )
        return found
    if damaged:
        raise OSError(
            f"all checkpoints in {folder} are damaged ({', '.join(map(str, damaged))}): "
            f"{next(iter(damaged.values()))} Or delete that folder and repeat the command: the "
            "run then starts again."
        )
    return None


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The bookkeeping in a checkpoint.

    Raises:
        OSError: it is damaged.
    """
    folder = checkpoint / "progress"
    checkpointer = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    try:
        with storage_errors(folder, "read"):
            return checkpointer.restore(folder)
    finally:
        checkpointer.close()
