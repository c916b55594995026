"""The best parameters of a run: all that is kept of its arrays, readable at any time."""

import shutil
from pathlib import Path
from typing import Any

from fp4jax.files import replacing_folder
from fp4jax.train import status
from fp4jax.train.arrays import read_arrays, write_arrays
from fp4jax.train.checkpoint import complete

_CHECKPOINTS, _BEST = "checkpoints", "best"


def write_best(folder: Path, tree: Any) -> None:
    """Writes the best parameters and statistics of a run into ``<folder>/best``, as a whole.

    Args:
        folder: of the run.
        tree: ``{"params": ..., "stats": ...}`` or ``(params, stats)``.

    Raises:
        OSError: a disk that is full or read-only.
    """
    with replacing_folder(folder / _BEST) as temporary:
        write_arrays(temporary.absolute(), tree)


def read_best(
    folder: Path, like: Any, *, checkpoints: Path | None = None, lane: int | None = None
) -> Any:
    """The best parameters and statistics of a run so far, without a lock.

    Read from ``<folder>/best``; where that is not there, from the newest checkpoint of the run, or
    of the group that it is trained in: an unfinished run, or one of an earlier version.

    Args:
        folder: of the run.
        like: ``{"params": ..., "stats": ...}`` or ``(params, stats)`` with shapes and dtypes.
        checkpoints: the folder of checkpoints; default: that which the run's status.json names,
            or its own.
        lane: place of the run in the checkpoints of a group; default: as status.json says.

    Raises:
        ValueError: there is nothing yet, or it is of another model or configuration.
        OSError: it is damaged.
    """
    if (folder / _BEST).is_dir():
        return read_arrays((folder / _BEST).absolute(), like, same=_part)
    if checkpoints is None:
        checkpoints, lane = _checkpoints_of(folder)
    error: OSError | None = None
    # Twice, for a run that deletes old checkpoints, writes new ones, or ends in the meantime.
    for _ in range(2):
        for number in reversed(complete(checkpoints)):
            path = (checkpoints / str(number) / _BEST).absolute()
            try:
                return read_arrays(path, like, lane=lane, same=_part)
            except OSError as caught:
                error = error or caught
        if (folder / _BEST).is_dir():
            return read_arrays((folder / _BEST).absolute(), like, same=_part)
    raise error or ValueError(
        f"{folder} has no parameters: neither {_BEST}/ nor a checkpoint. Train the run, at least "
        "until its first checkpoint."
    )


def finish(folder: Path) -> None:
    """Deletes the checkpoints of a finished run, whose best parameters stay.

    Raises:
        ValueError: the run has no summary.json or no best/.
    """
    missing = [name for name in ("summary.json", _BEST) if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} is not finished: it has no {' and no '.join(missing)}.")
    # Also what a process left that was killed while it wrote.
    for path in (folder / _CHECKPOINTS, *folder.glob(f".{_BEST}.*")):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints_of(folder: Path) -> tuple[Path, int | None]:
    """(folder of checkpoints, lane) of a run."""
    record = status.read(folder)
    group = status.group(folder, record)
    if group is None or not (group / _CHECKPOINTS).is_dir():
        return folder / _CHECKPOINTS, None
    return group / _CHECKPOINTS, (record or {}).get("lane")


def _part(name: str) -> str:
    """Names in a pair (params, stats) are those in {"params": params, "stats": stats}."""
    first, slash, rest = name.partition("/")
    return {"0": "params", "1": "stats"}.get(first, first) + slash + rest
