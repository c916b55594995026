"""Orbax checkpoints of a run: the last state, the best parameters and the bookkeeping, in one.

A checkpoint is one folder that Orbax renames into place when it is complete, so a run that is
killed at any moment finds either the old or the new one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# The one before the last is kept: lanes of one group may be an epoch apart when killed.
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, by the number of finished epochs.

    Args:
        folder: is created; only what this class wrote is ever deleted in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with _storage_errors(self.folder, "create"):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_names=("last", "best", "progress"),
            )

    def epochs(self) -> list[int]:
        """Numbers of finished epochs of which there is a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, last: Any, best: Any, progress: dict[str, Any]) -> None:
        """Writes a checkpoint; raises OSError that says what to do if the disk refuses."""
        with _storage_errors(self.folder, "write"):
            self._manager.save(
                epoch,
                args=ocp.args.Composite(
                    last=ocp.args.StandardSave(flatten(last)),  # pyright: ignore
                    best=ocp.args.StandardSave(flatten(best)),  # pyright: ignore
                    progress=ocp.args.JsonSave(progress),  # pyright: ignore
                ),
            )

    def restore(self, epoch: int, last: Any, best: Any) -> tuple[Any, Any, dict[str, Any]]:
        """(last, best, progress) of that epoch; the arguments give structure, shapes and dtypes."""
        with _storage_errors(self.folder, "read"):
            items: Any = self._manager.restore(
                epoch,
                args=ocp.args.Composite(
                    last=ocp.args.StandardRestore(_like(last)),  # pyright: ignore
                    best=ocp.args.StandardRestore(_like(best)),  # pyright: ignore
                    progress=ocp.args.JsonRestore(),  # pyright: ignore
                ),
            )
        return _unflatten(last, items.last), _unflatten(best, items.best), items.progress

    def forget_after(self, epoch: int) -> None:
        """Deletes the checkpoints of later epochs."""
        for later in self.epochs():
            if later > epoch:
                self._manager.delete(later)

    def close(self) -> None:
        self._manager.close()


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Arrays by their path, ``params/encoders/0/kernel``: what lies on disk names itself."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def _like(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.zeros(leaf.shape, leaf.dtype)
        for path, leaf in leaves
    }


def _unflatten(like: Any, arrays: dict[str, Any]) -> Any:
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[name]) for name in names])


@contextlib.contextmanager
def _storage_errors(folder: Path, verb: str) -> Iterator[None]:
    """Orbax and TensorStore raise many types for a full or read-only disk; one is enough."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"cannot {verb} a checkpoint in {folder}: {reason} "
            "Free some space or choose another folder, then repeat the command: the run goes on "
            "from its last complete checkpoint."
        ) from error
