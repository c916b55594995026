"""Seen: how far the runs of a study are, from their folders alone, on any machine."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.study.record import read_records
from fp4jax.train.folder import RunFolder
from fp4jax.train.status import Status

# fp4jax.train.config.id_of: what a group shares, then split, seed and hash.
_ID = re.compile(r"(.+)_(holdout|fold\d+(?:_swapped)?)_s(\d+)_[0-9a-f]{10}")
# Of a summary's test part, the first one that is there.
_SCORES = ("auprc", "dice")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it was seen.

    Attributes:
        name: its id.
        status: how far it is, and who trains it.
        score: of a finished one, AUPRC or Dice of the test patients.
        seconds: that a finished one was trained for.
    """

    name: str
    status: Status
    score: float | None = None
    seconds: float | None = None

    @property
    def group(self) -> str:
        """What it shares with runs of other splits and seeds.

        Example:
            >>> run = Run("swin_unetr_4m_qad-full_brats_fold1_swapped_s3_0123456789", Status("new"))
            >>> run.group, run.part
            ('swin_unetr_4m_qad-full_brats', 'fold1_swapped seed 3')
        """
        found = _ID.fullmatch(self.name)
        return self.name if found is None else found[1]

    @property
    def part(self) -> str:
        """Split and seed."""
        found = _ID.fullmatch(self.name)
        return "" if found is None else f"{found[2]} seed {found[3]}"

    @property
    def is_over(self) -> bool:
        """Whether it has finished or failed."""
        return self.status.state in ("finished", "failed")


class Seen:
    """The runs of the studies of one name in a folder.

    Finished runs are read once, and of runs without a folder nothing: to look again costs what is
    being trained, and a list of the folder.

    Args:
        out: folder of the study.
        name: of the study.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     Seen(Path(out), "demo").look()
        []
    """

    def __init__(self, out: Path, name: str):
        self.out, self.name = out, name
        self.runs: Sequence[Run] = ()
        self._names: tuple[str, ...] = ()
        self._over: dict[str, Run] = {}

    def look(self) -> Sequence[Run]:
        """The runs in the study's order, as they are now; none before it has begun.

        Raises:
            ValueError: a file in ``studies`` is no study.
        """
        if not self._names:
            records = [record for record in read_records(self.out) if record.name == self.name]
            self._names = tuple(dict.fromkeys(run for record in records for run in record.runs))
        root = self.out / "runs"
        try:
            there = {entry.name for entry in os.scandir(root)}
        except FileNotFoundError:
            there = set()
        self.runs = [
            self._one(root / name) if name in there else Run(name, Status("new"))
            for name in self._names
        ]
        return self.runs

    def _one(self, path: Path) -> Run:
        if path.name not in self._over:
            folder = RunFolder(path)
            status = folder.status()
            if status.state != "finished":
                return Run(path.name, status)
            summary: Any = folder.summary()
            score = next((v for k in _SCORES if (v := summary["test"].get(k)) is not None), None)
            self._over[path.name] = Run(path.name, status, score, summary.get("train_seconds"))
        return self._over[path.name]


def left(runs: Sequence[Run]) -> float | None:
    """Seconds until all runs are over, about; None while that cannot be told.

    Those that are running have their own time left; those to come are taken to need the mean of the
    finished ones of their group, or of all, and as many to run at a time as now.
    """
    running = [run.status.left for run in runs if run.status.state == "running"]
    took = [run.seconds for run in runs if run.seconds]
    to_come = [run for run in runs if not run.is_over and run.status.state != "running"]
    if not running or None in running or (to_come and not took):
        return None
    means = _means(runs)
    every = sum(took) / len(took) if took else 0.0
    work = sum(filter(None, running)) + sum(means.get(run.group, every) for run in to_come)
    return max(work / len(running), *filter(None, running), 0.0)


def _means(runs: Sequence[Run]) -> Mapping[str, float]:
    """Mean seconds of the finished runs of each group."""
    took: dict[str, list[float]] = {}
    for run in runs:
        if run.seconds:
            took.setdefault(run.group, []).append(run.seconds)
    return {group: sum(values) / len(values) for group, values in took.items()}
