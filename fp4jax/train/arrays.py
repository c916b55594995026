"""Trees of arrays in folders, each array by its path in the tree; and errors by their cause."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


class OutOfMemoryError(RuntimeError):
    """The memory of a device, or of the host, is exhausted."""


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Copies on the host by path, ``params/encoders/0/kernel``: what lies on disk names itself.

    Copies, because a step that donates its arguments may overwrite them at any time after.

    Raises:
        OutOfMemoryError: the arrays are of a step for which the device had no room.
    """
    with memory_errors():
        return {name: np.array(leaf) for name, leaf in named(tree).items()}


def named(tree: Any) -> dict[str, Any]:
    """The arrays themselves, by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def write_arrays(folder: Path, tree: Any) -> None:
    """Writes a tree into a folder that is there and empty."""
    arrays = flatten(tree)
    handler: Any = ocp.StandardCheckpointHandler()
    try:
        with storage_errors(folder, "write"):
            handler.save(folder, args=ocp.args.StandardSave(arrays))  # pyright: ignore[reportCallIssue]
            handler.finalize(folder)
    finally:
        handler.close()


def read_arrays(
    folder: Path,
    like: Any,
    *,
    lane: int | None = None,
    same: Callable[[str], str] = lambda name: name,
) -> Any:
    """The tree in a folder.

    Args:
        folder: of one tree.
        like: gives structure, shapes and dtypes: arrays or what has their shape and dtype.
        lane: the arrays on disk have an axis of lanes in front, of which this one is taken.
        same: names of arrays are the same if this makes them equal.

    Raises:
        ValueError: other arrays are in the folder than ``like`` has.
        OSError: the folder is damaged or cannot be read.
        OutOfMemoryError: no room for the arrays.
    """
    handler: Any = ocp.StandardCheckpointHandler()
    try:
        with storage_errors(folder, "read"):
            stored = _stored(handler, folder)
        leaves = {same(name): leaf for name, leaf in named(like).items()}
        names = {same(name): name for name in stored}
        found = {name: stored[names[name]] for name in names}
        _check_fits(folder, leaves, found, lanes=lane is not None)
        empty = {names[name]: np.empty(*array) for name, array in found.items()}
        with memory_errors(), storage_errors(folder, "read"):
            restore = ocp.args.StandardRestore(empty)  # pyright: ignore[reportCallIssue]
            arrays: Any = handler.restore(folder, args=restore)
    finally:
        handler.close()
    chosen = [arrays[names[name]] for name in leaves]
    if lane is not None:
        chosen = [array[lane] for array in chosen]
    with memory_errors():
        return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(a) for a in chosen])


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """What JAX and NumPy raise for exhausted memory becomes an OutOfMemoryError with advice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not _exhausted(error):
            raise
        raise OutOfMemoryError(
            f"memory is exhausted: {_reason(error)} Take a smaller batch or image, or fewer lanes "
            "side by side, then repeat the command: the run goes on from its last checkpoint."
        ) from error


@contextlib.contextmanager
def storage_errors(folder: Path, verb: str) -> Iterator[None]:
    """Orbax and TensorStore raise many types for a full or read-only disk; one is enough."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # of a device, not of a disk
        raise
    except (OSError, ValueError, RuntimeError) as error:
        advice = (
            "Delete it and repeat the command, or put a copy in its place."
            if verb == "read"
            else "Free some space or choose another folder, then repeat the command: the run goes "
            "on from its last complete checkpoint."
        )
        raise OSError(
            f"cannot {verb} a checkpoint in {folder}: {_reason(error)} {advice}"
        ) from error


def _exhausted(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".") + "."


def _stored(handler: Any, folder: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """(shape, dtype) of the arrays in a folder."""
    tree = handler.metadata(folder).tree
    return {name: (tuple(array.shape), np.dtype(array.dtype)) for name, array in tree.items()}


def _check_fits(
    folder: Path, like: dict[str, Any], found: dict[str, tuple[tuple[int, ...], Any]], lanes: bool
) -> None:
    """Raises ValueError for other names, shapes or dtypes; Orbax would cut or fill the arrays."""
    wrong = [f"{name} is not there" for name in like if name not in found]
    wrong += [f"{name} is too much" for name in found if name not in like]
    for name in sorted(like.keys() & found.keys()):
        (shape, dtype), leaf = found[name], like[name]
        if shape[lanes:] != tuple(leaf.shape) or dtype != leaf.dtype:
            per = " for each lane" if lanes else ""
            wrong.append(
                f"{name} is {dtype}{list(shape)}, expected {leaf.dtype}{list(leaf.shape)}{per}"
            )
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"the arrays in {folder} are of another model or configuration: "
            f"{'; '.join(wrong[:3])}{more}. Name the folder of a run with this configuration."
        )
