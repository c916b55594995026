"""Checkpoints of a run, or of a group of runs, while it trains.

A checkpoint is one folder that Orbax renames into place when it is complete, so a run that is
killed at any moment finds either the old or the new one.
"""

import contextlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from fp4jax.train.arrays import (
    OutOfMemoryError as OutOfMemoryError,
    flatten as flatten,
    memory_errors as memory_errors,
    read_arrays,
    storage_errors,
)


class Checkpoints:
    """The checkpoints of one run, or of one group, by numbers that grow.

    Args:
        folder: is created; only what this class wrote is ever deleted in it. One process at a time
            may have it, see :func:`fp4jax.train.lock.held`; others read with
            :func:`fp4jax.train.best.read_best`.
        kept: how many of the newest stay.
        asynchronous: the disk is written to while the training goes on.

    Raises:
        OSError: the disk is full or read-only; here and, for a checkpoint that was being written,
            in the next call of any method.
    """

    def __init__(self, folder: Path, kept: int = 2, asynchronous: bool = True):
        self.folder = folder.absolute()
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

    epochs = numbers

    def save(self, number: int, last: Any, best: Any, progress: dict[str, Any]) -> None:
        """Writes a checkpoint; one of the same number that is there already stays.

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
            raise ValueError(
                f"checkpoint {number} cannot follow {newest} in {self.folder}; call "
                f"forget_after({number - 1}) first, where a run goes on from an older one."
            )
        if number == newest:
            return
        args = ocp.args.Composite(
            last=ocp.args.StandardSave(flatten(last)),  # pyright: ignore[reportCallIssue]
            best=ocp.args.StandardSave(flatten(best)),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(progress),  # pyright: ignore[reportCallIssue]
        )
        with memory_errors(), storage_errors(self.folder, "write"):
            self._manager.save(number, args=args)

    def restore(self, number: int, last: Any, best: Any) -> tuple[Any, Any, dict[str, Any]]:
        """(last, best, progress) of that number; the arguments give structure, shapes and dtypes.

        Raises:
            ValueError: the checkpoint is of another model or configuration.
            OSError: it is damaged.
        """
        self.wait()
        folder = self.folder / str(number)
        progress = read_progress(folder)
        return (
            read_arrays(folder / "last", last),
            read_arrays(folder / "best", best),
            progress,
        )

    def newest(self, last: Any, best: Any) -> tuple[int, Any, Any, dict[str, Any]] | None:
        """(number, last, best, progress) of the newest checkpoint that can be read, or None.

        A damaged one is deleted, with a warning, if one before it can be read.

        Raises:
            ValueError: the checkpoints are of another model or configuration.
            OSError: all are damaged.
        """
        errors: dict[int, OSError] = {}
        for number in reversed(self.numbers()):
            try:
                found = self.restore(number, last, best)
            except OSError as error:
                errors[number] = error
                continue
            for damaged, error in errors.items():
                warnings.warn(
                    f"the checkpoint {self.folder / str(damaged)} is damaged and deleted; the run "
                    f"goes on from the one before it, {number}. ({error.__cause__ or error})",
                    stacklevel=2,
                )
            self.forget_after(number)
            return number, *found
        if errors:
            raise OSError(
                f"all checkpoints in {self.folder} are damaged ({', '.join(map(str, errors))}): "
                f"{next(iter(errors.values()))} Or delete that folder and repeat the command: the "
                "run then starts again."
            )
        return None

    def forget_after(self, number: int) -> None:
        """Deletes the checkpoints with larger numbers."""
        self.wait()
        with storage_errors(self.folder, "delete"):
            for later in self.numbers():
                if later > number:
                    self._manager.delete(later)

    def wait(self) -> None:
        """Returns when all is written; raises OSError if that failed."""
        with memory_errors(), storage_errors(self.folder, "write"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the threads; raises OSError if a checkpoint could not be written."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def delete(self) -> None:
        """Closes, and deletes the folder with all checkpoints."""
        with contextlib.suppress(OSError, OutOfMemoryError):
            self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


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
