"""Where a lane goes on: the newest checkpoint that has it, whichever group wrote that."""

from pathlib import Path
from typing import Any

from fp4jax.files import read_json, write_json
from fp4jax.train.arrays import read_arrays
from fp4jax.train.checkpoint import newest, read_progress
from fp4jax.train.fit import Start
from fp4jax.train.folder import RunFolder
from fp4jax.train.lane import Lane
from fp4jax.train.program import Program

GROUPS = ".groups"


def checkpoints_of(folder: RunFolder) -> Path:
    """The folder of the checkpoints that a run has a part of: its own, or its last group's."""
    group = folder.status().group
    return folder.checkpoints if group is None else group / "checkpoints"


def resumed(lane: Lane, program: Program) -> Start | None:
    """The state of a lane in the newest checkpoint that can be read; None without any.

    Lanes may come from different groups, as when a seed was added or one of them has failed.

    Raises:
        ValueError: the checkpoints are of another model.
        OSError: all are damaged.
    """
    like = program.abstract()

    def read(path: Path) -> tuple[Start, dict[str, Any]] | None:
        progress = read_progress(path)["lanes"]
        place = next((i for i, p in enumerate(progress) if p["run"] == lane.name), None)
        if place is None:
            return None
        # Of one run alone there is no axis of lanes.
        i = place if len(progress) > 1 else None
        state = read_arrays(path / "last", like, lane=i)
        best = read_arrays(path / "best", (like.params, like.stats), lane=i)
        return Start(state, best), progress[place]

    found = newest(checkpoints_of(lane.folder), read)
    if found is None:
        return None
    start, progress = found
    lane.load(progress)
    return start


def is_over(group: Path) -> bool:
    """Whether no run of a group needs its checkpoint any more."""
    record = read_json(group / "group.json") or {"runs": []}
    runs = [RunFolder(group.parent.parent / name) for name in record["runs"]]
    return all(run.finished for run in runs)


def start_group(root: Path, name: str, runs: list[str]) -> Path:
    """The folder of a group's checkpoint, beside the runs."""
    group = root / GROUPS / name
    group.mkdir(parents=True, exist_ok=True)
    write_json(group / "group.json", {"runs": runs})
    return group
